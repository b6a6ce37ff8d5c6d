"""Exercise 1: a fence by hand, with mkdir, write and rmdir."""

import os
import subprocess
import time

from minidocker.cgroups import hierarchies


def limit_pids(number, argv):
    """The child writes itself into the group, before it executes the command: 0 means itself."""
    place = next(hierarchy for hierarchy in hierarchies() if "pids" in hierarchy.controllers)
    group = f"{place.path}/by-hand-{os.getpid()}"
    if place.version == 2:
        with open(f"{place.path}/cgroup.subtree_control", "w") as file:
            file.write("+pids")
    os.mkdir(group)
    try:
        with open(f"{group}/pids.max", "w") as file:
            file.write(str(number))

        def enter():
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write("0")

        return subprocess.run(argv, capture_output=True, text=True, preexec_fn=enter)
    finally:
        while open(f"{group}/cgroup.procs").read():
            time.sleep(0.05)
        os.rmdir(group)

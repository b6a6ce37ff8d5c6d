"""Exercise 4, destructive: how many fit? Start containers until something gives way, and leave nothing behind."""

import os

from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.process import start
from minidocker.rootfs import PivotRoot
from minidocker.state import home


def until_it_breaks():
    """What gives way first on most machines is the number of files that one process may have open."""
    root, running = os.path.join(home(), "roots", "busybox"), []
    try:
        while True:
            running.append(start(["sleep", "1000"], Namespaces("pid mount"), Cgroup(), PivotRoot(root)))
    except Exception as problem:
        return len(running), str(problem)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()

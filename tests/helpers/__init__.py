"""What tests of all chapters use: where things are, what may be skipped, a fresh interpreter, waiting."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

from tools import HOME as HOME
from tools import REPO as REPO

# "qemu", "uml": a machine whose processor may be emulated. "root": a bare Debian on this kernel (vagrant/try-setup.sh).
# None of these has a browser or Vagrant.
BARE = os.environ.get("MINIDOCKER_GUEST")
GUEST = BARE if BARE != "root" else None
both_ways = pytest.mark.usefixtures("way")


def must_work():
    """Whether this machine must be able to run everything, as CI's must."""
    return os.environ.get("MINIDOCKER_MUST_WORK", "") not in ("", "0")


def need(condition, reason):
    """Skip the test unless the condition holds; where everything must work, fail it."""
    __tracebackhide__ = True
    if not condition:
        (pytest.fail if must_work() else pytest.skip)(reason)


def python(code, *arguments, **options):
    """Run Python code in a fresh interpreter, which has one thread; fail the test if it fails."""
    options = {"check": True, "capture_output": True, "text": True, "timeout": 60, "cwd": REPO} | options
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} | options.pop("env", {})
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], env=env, **options)


def children(pid="self"):
    """The pids of the children of all threads of a process, without its watcher, which stays."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split() if name_of(child) != "watcher"]
        except OSError:
            pass  # a thread that has ended since
    return sorted(found)


def name_of(pid):
    """What the kernel calls a process."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def until(condition, seconds=10):
    """Wait for something that happens soon; its last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer


def runs(pid):
    """Whether it still runs. (A zombie does not: the machine's first process may take its time to reap.)"""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

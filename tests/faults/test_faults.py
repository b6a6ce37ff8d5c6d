"""Faults: the host side is killed with SIGKILL at each step of a container's life. What is left, `prune` removes."""

import contextlib
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from minidocker.cgroups import prune
from minidocker.namespaces import namespace_of
from minidocker.process import run
from tests.helpers import name_of, need
from tests.helpers.isolators import whole_list
from tests.helpers.traces import cgroups

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the whole list of isolators needs root")

# A host side of its own, so that it can be killed. Its arguments: the way to start, a moment, the place of the isolator
# that waits in that moment, a fifo to say so, a name.
HOST = """
import os, sys, threading, time
from tests.helpers.isolators import Pauses, whole_list
from minidocker.process import start

how, moment, place, fifo, name = sys.argv[1:]
if how == "launcher":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
isolators = whole_list()
isolators.insert(len(isolators) if place == "last" else 0, Pauses(moment, fifo))
with start(["sleep", "60"], *isolators, name=name) as process:
    if moment == "running":
        os.write(os.open(fifo, os.O_WRONLY), b"running")
        time.sleep(60)
"""

# A host side that starts and ends containers as fast as it can, to be killed at any moment.
BUSY = """
import sys, threading
from tests.helpers.isolators import whole_list
from minidocker.process import run

if sys.argv[1] == "launcher":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
while True:
    run(["true"], *whole_list())
"""


@contextlib.contextmanager
def host(code, *arguments):
    """Start such a host side; it ends with the block, also if the test fails."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def family(pid):
    """The process and all its descendants."""
    found = [pid]
    for tasks in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = tasks.read_text().split()
        except OSError:
            continue  # it has ended since
        for child in children:
            found += family(int(child))
    return found


def namespaces(pids):
    """The identities of the namespaces that these processes are in, without those of this process."""
    kinds = ("mount", "pid", "uts", "ipc", "net", "cgroup")
    found = set()
    for pid in pids:
        try:
            found |= {(kind, namespace_of(pid, kind)) for kind in kinds}
        except OSError:
            pass  # it has ended
    return found - {(kind, namespace_of("self", kind)) for kind in kinds}


def everybody():
    """All pids of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def until(condition, seconds=10):
    """Wait for something that happens soon; its last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


def running(pid):
    """Whether it still runs. (A zombie does not: the machine's first process may take its time to reap.)"""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def nothing_is_left(pids, views, name):
    """After the death of the host side and a `prune`: no process, no namespace, no cgroup, no mount."""
    assert until(lambda: not any(map(running, pids))), "a process outlived the host side"
    prune()
    assert until(lambda: not views & namespaces(everybody())), "a namespace outlived the host side"
    assert [path for path in cgroups() if name in path] == []
    assert name not in pathlib.Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("how", ["fork", "launcher"])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("moment", ["__enter__", "attach", "inside", "running", "__exit__"])
def test_the_host_side_is_killed(how, place, moment, tmp_path):
    fifo, name = tmp_path / "fifo", f"killed-{os.urandom(4).hex()}"
    os.mkfifo(fifo)
    reached = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with host(HOST, how, moment, place, str(fifo), name) as victim:
        assert select.select([reached], [], [], 20)[0], "the moment never came"
        assert os.read(reached, 100).decode().strip() == moment
        pids = family(victim.pid)
        views = namespaces(pids)
        victim.kill()
    os.close(reached)
    assert moment in ("__enter__", "__exit__") or len(pids) >= (3 if how == "launcher" else 2)
    nothing_is_left(pids, views, name)


@pytest.mark.parametrize("how", ["fork", "launcher"])
def test_the_host_side_is_killed_at_any_moment(how):
    chance = random.Random(2)
    for _ in range(15):
        with host(BUSY, how) as victim:
            victim.stdout.readline()
            time.sleep(0.1 + chance.random() / 10)
            pids = family(victim.pid)
            views = namespaces(pids)
            victim.kill()
        assert until(lambda pids=pids: not any(map(running, pids)))
        prune()
        assert until(lambda views=views: not views & namespaces(everybody()))


@pytest.mark.parametrize("how", ["fork", "launcher"])
def test_a_thousand_runs_of_the_whole_list_leave_nothing(how):
    """Mounts, cgroups, processes and descriptors are compared by conftest.py after each test."""
    release = threading.Event()
    if how == "launcher":
        threading.Thread(target=release.wait).start()
    try:
        for _ in range(1000):
            assert run(["true"], *whole_list()).exit_code == 0
    finally:
        release.set()
    need(os.access("/proc/slabinfo", os.R_OK), "needs /proc/slabinfo")
    assert until(lambda: network_namespaces() < 100, 30), "network namespaces stay behind"


def network_namespaces():
    """How many the kernel holds, also those that nobody can see any more."""
    lines = pathlib.Path("/proc/slabinfo").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("net_namespace ")), 0)


def test_the_host_side_is_stopped_with_the_keyboard(tmp_path):
    """Ctrl-C during a run is an exception like any other: the container ends, and the isolators go."""
    fifo, name = tmp_path / "fifo", f"keyboard-{os.urandom(4).hex()}"
    os.mkfifo(fifo)
    reached = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with host(HOST, "fork", "running", "last", str(fifo), name) as victim:
        assert select.select([reached], [], [], 20)[0]
        pids = family(victim.pid)
        views, commands = namespaces(pids), [pid for pid in pids if name_of(pid) != "watcher"]
        victim.send_signal(signal.SIGINT)
        assert victim.wait(20) == -signal.SIGINT
    os.close(reached)
    assert not any(map(running, commands))
    assert until(lambda: not any(map(running, pids)))  # a watcher ends when its owner has
    assert [path for path in cgroups() if name in path] == []  # without any prune
    assert until(lambda: not views & namespaces(everybody()))

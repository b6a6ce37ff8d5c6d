"""Faults: no container outlives its owner, whatever its first process does to itself, and whoever of us is killed.

PR_SET_PDEATHSIG is not enough: a process that changes its user, or executes a set-user-ID program, loses it.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import HOME, children, name_of, need, python, runs, until
from tests.helpers.images import minidocker

pytestmark = [
    pytest.mark.chapter(0),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user"),
]

OWNER = """
import os, sys, threading, time
from minidocker.namespaces import Init, Namespaces
from minidocker.process import start
if sys.argv[1] == "launcher":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
walls = {"pid": [Namespaces("pid mount")], "init": [Namespaces("mount"), Init()], "none": []}[sys.argv[2]]
process = start(sys.argv[3:], *walls)
time.sleep(0.1)  # until it has become whom it wants to be
print(process.pid, flush=True)
time.sleep(60)
"""
SLEEP = f"61.{os.getpid()}"  # seconds that nobody else on this machine sleeps
DROPS = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]


@contextlib.contextmanager
def owner(*words):
    """An owner of a container in a process of its own: (the process, the container's first pid)."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", OWNER, *words], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def family(pid):
    """A process and its descendants, also such as their parents do not wait for."""
    return [pid, *(pid for child in children(pid) for pid in family(child))]


@pytest.fixture
def other_user(tmp_path):
    """A program that becomes another user when it is executed."""
    tmp_path.chmod(0o755)
    program = tmp_path / "sleep"
    shutil.copy(shutil.which("sleep"), program)
    os.chown(program, 12345, 12345)
    program.chmod(0o4755)
    return str(program)


@pytest.mark.parametrize("how", ["fork", "launcher"])
@pytest.mark.parametrize("walls", ["pid", "init", "none"])
@pytest.mark.parametrize("what", ["changes its user", "set-user-ID", "ignores", "leaves a child"])
def test_it_dies_with_its_owner(how, walls, what, other_user):
    command = {
        "changes its user": [*DROPS, "sleep", "60"],
        "set-user-ID": [other_user, "60"],
        "ignores": ["sh", "-c", "trap '' TERM HUP INT QUIT; sleep 60 & while :; do wait; done"],
        "leaves a child": [*DROPS, "sh", "-c", "sleep 60 & sleep 60"],
    }[what]
    with owner(how, walls, *command) as (process, pid):
        pids = family(pid)
        assert all(map(runs, pids))
        process.kill()
        process.wait()
        assert until(lambda: not any(map(runs, pids))), "it outlived its owner"


@pytest.mark.parametrize("what", [[*DROPS, "sleep", "60"], ["sleep", "60"]])
def test_it_dies_with_the_launcher(what):
    with owner("launcher", "pid", *what) as (process, pid):
        (launcher,) = (child for child in children(process.pid) if runs(child))
        os.kill(launcher, signal.SIGKILL)
        assert until(lambda: not runs(pid)), "it outlived the launcher"
        process.kill()


def test_it_dies_when_owner_and_launcher_are_killed_at_once():
    with owner("launcher", "pid", *DROPS, "sleep", "60") as (process, pid):
        (launcher,) = (child for child in children(process.pid) if runs(child))
        process.send_signal(signal.SIGSTOP)
        os.kill(launcher, signal.SIGSTOP)
        process.kill()
        os.kill(launcher, signal.SIGKILL)
        assert until(lambda: not runs(pid))


def test_a_watcher_that_was_killed_is_replaced():
    answer = python("""
        import os, signal
        from minidocker.process import run, start
        def watchers():
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                pids = map(int, file.read().split())
            return [pid for pid in pids if "watcher" in open(f"/proc/{pid}/comm").read()]
        run(["true"])
        (first,) = watchers()
        os.kill(first, signal.SIGKILL)
        while open(f"/proc/{first}/stat").read().rpartition(")")[2].split()[0] != "Z":
            pass
        with start(["sleep", "60"]) as process:
            assert first != watchers()[-1], watchers()
        print(run(["echo", "again"]).stdout, end="")
    """)
    assert answer.stdout == "again\n", answer.stderr


def test_the_watcher_holds_no_stream_and_is_in_a_session_of_its_own():
    with owner("fork", "none", "sleep", "60") as (process, _):
        tasks = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (watcher,) = (pid for pid in tasks if name_of(pid) == "watcher")
        held = sorted(os.readlink(path) for path in pathlib.Path(f"/proc/{watcher}/fd").iterdir())
        assert {name.partition(":")[0] for name in held} == {"socket", "anon_inode"}, held
        assert os.getsid(int(watcher)) == int(watcher)


MANY = """
import resource, sys, threading, time
from minidocker.process import start
if sys.argv[1] == "launcher":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
running = [start(["sleep", sys.argv[2]], stdout=1, stderr=2)]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if sys.argv[1] == "launcher":
    from minidocker import launcher
    resource.prlimit(launcher._Caller.pid, resource.RLIMIT_NOFILE, (hard, hard))
command = ["setpriv", "--reuid", "12345", "--clear-groups", "sleep", sys.argv[2]]
running += [start(command, stdout=1, stderr=2) for _ in range(60)]
time.sleep(0.5)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["fork", "launcher"])
def test_many_die_with_an_owner_that_has_raised_its_limit_of_open_files(how):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", MANY, how, SLEEP], env=env, stdout=subprocess.PIPE) as many:
        assert many.stdout.readline() == b"ready\n"
        assert len(sleepers(SLEEP)) == 61
        many.kill()
        assert until(lambda: not sleepers(SLEEP)), f"{len(sleepers(SLEEP))} outlived their owner"


def test_the_command_is_killed_at_random_moments():
    """Its first process drops its rights; nothing of it runs afterwards, and its name and its volume are free."""
    need((HOME / "store").exists() or (HOME / "images").exists(), "needs the images of set-up")
    chance, env = random.Random(5), {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["run", "--rm", "--name", "killed", "-v", "killed:/v", "-m", "64m", "debian", *DROPS, "sleep", SLEEP]
    for _ in range(12):
        victim = subprocess.Popen([sys.executable, "-m", "minidocker", *words], env=env, stderr=subprocess.DEVNULL)
        time.sleep(0.05 + chance.random() / 3)
        victim.kill()
        victim.wait()
        assert until(lambda: not sleepers(SLEEP)), "it outlived the command"
    again = minidocker(HOME, "run", "--rm", "--rm", "--name", "killed", "-v", "killed:/v", "busybox", "true")
    assert again.returncode == 0, again.stderr
    assert minidocker(HOME, "volume", "rm", "killed").returncode == 0
    minidocker(HOME, "prune")


def sleepers(seconds):
    """The processes that sleep so long."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("signals", [[], [signal.SIGTERM], [signal.SIGHUP]])
def test_the_watcher_of_the_command_ends_with_it(signals):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["run", "--rm", "busybox", "sh", "-c", "echo ready; sleep 61.7"]
    with subprocess.Popen([sys.executable, "-m", "minidocker", *words], env=env, stdout=subprocess.PIPE) as victim:
        assert victim.stdout.readline() == b"ready\n"
        tasks = pathlib.Path(f"/proc/{victim.pid}/task/{victim.pid}/children").read_text().split()
        for number in signals or [signal.SIGKILL]:
            victim.send_signal(number)
        victim.wait(20)
    assert until(lambda: not any(map(runs, tasks)))
    minidocker(HOME, "prune")

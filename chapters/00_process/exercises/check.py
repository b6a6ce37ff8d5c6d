"""Check an exercise of chapter 0.

python3 chapters/00_process/exercises/check.py 3              # your work in exercise_3.py
python3 chapters/00_process/exercises/check.py 3 my_file.py   # or in another file
"""

import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.process import ContainerError, ContainerTimeout, Isolator, run

# The shell forks once, before the bomb is ripe, and then executes: later there is no process left for it
FORK_BOMB = "bomb() { bomb | bomb & }; bomb & exec sleep 60"


def check_1(module):
    """A zombie is in state Z, tells its exit code once, and is gone."""
    code = random.randint(1, 120)
    pid = module.zombie(code)
    with open(f"/proc/{pid}/stat") as file:
        state, parent = file.read().rpartition(")")[2].split()[:2]
    assert int(parent) == os.getpid(), f"process {pid} is no child of yours"
    assert state == "Z", f"its state is {state}, not Z: return when it has ended, and do not wait for it"
    found = module.bury(pid)
    assert found == code, f"the exit code is {code}, and you say {found}"
    assert not os.path.exists(f"/proc/{pid}"), "the zombie is still there"


def check_2(module):
    """In time, too late, not there; no descriptor left."""
    before = len(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    code = random.randint(1, 120)
    ended = module.run_for(["sh", "-c", f"exit {code}"], 10)
    assert ended == code, f"the exit code is {code}, and you say {ended}"
    assert time.monotonic() - began < 2, "a process that ends early must not cost the whole time"
    ended = module.run_for(["sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"], 0.3)
    assert ended == 124, f"its time was over, which is 124, and you say {ended}"
    ended = module.run_for(["no-such-program"], 10)
    assert ended == 127, f"there is no such program, which is 127, and you say {ended}"
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left open"
    try:
        assert os.waitpid(-1, os.WNOHANG) == (0, 0), "a zombie is left"
    except ChildProcessError:
        pass


def check_3(module):
    """Both limits are there inside, and neither is here."""
    here = os.nice(0)
    result = run(["sh", "-c", "nice; ulimit -n"], module.Modest(nice=7, files=33))
    assert result.stdout.split() == [str(here + 7), "33"], f"inside are {result.stdout.split()}"
    assert os.nice(0) == here, "your own priority has changed: that was the wrong moment"


def check_4(module):
    """The directory is new, empty, used, and gone, however it ends."""

    class Fails(Isolator):
        def attach(self, pid):
            raise OSError(5, "on purpose")

    scratch = module.Scratch()
    result = run(["sh", "-c", 'pwd; test -z "$(ls -A)" || exit 4; touch b a; exit 3'], scratch)
    assert result.exit_code == 3, "the command ran in a directory that was not empty"
    directory = result.stdout.strip()
    assert directory != os.getcwd(), "the command ran in your own directory"
    assert not os.path.exists(directory), f"{directory} is still there"
    assert scratch.files == ["a", "b"], f"files is {scratch.files}"
    for argv, others in ((["no-such-program"], []), (["true"], [Fails()])):
        before = set(os.listdir("/tmp"))
        try:
            run(argv, module.Scratch(), *others)
        except ContainerError:
            pass
        assert set(os.listdir("/tmp")) <= before, f"a directory is left after {argv[0]}"


def check_5(module):
    """First a harmless command, then the bomb: the machine does not notice."""
    uid = 50000 + os.getpid() % 10000  # the kernel counts the processes of a user on the whole machine
    limits = run(["sh", "-c", "id -u; ulimit -p 2>/dev/null || ulimit -u"], module.GlassCase(uid=uid, processes=20))
    assert limits.stdout.split() == [str(uid), "20"], f"user and limit are {limits.stdout.split()}: no bomb today"
    try:
        ended = run(["sh", "-c", FORK_BOMB], module.GlassCase(uid=uid, processes=20), timeout=2)
    except ContainerTimeout as over:
        refused = over.result.stderr
    else:
        raise AssertionError(f"the bomb ended by itself: {ended}")
    assert "ork" in refused, "nobody was refused a process"  # "Cannot fork", "fork: retry"
    deadline = time.monotonic() + 5
    while (left := processes_of(uid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"{len(left)} processes are left"


def processes_of(uid):
    """The pids of a user that still run."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                zombie = file.read().rpartition(")")[2].split()[0] == "Z"
            if os.stat(f"/proc/{name}").st_uid == uid and not zombie:
                found.append(int(name))
        except OSError:
            pass  # it ended while we looked
    return found


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4, 5: check_5}, HERE)

"""Check an exercise of chapter 10: python3 chapters/10_engine/exercises/check.py NUMBER [FILE]."""

import contextlib
import fcntl
import json
import os
import random
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.join(HERE, "../../..")
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker import state
from minidocker.images.container import container, ready
from minidocker.process import start

os.environ["PYTHONPATH"] = os.path.abspath(REPO)


def minidocker(*words):
    """What the command printed."""
    command = [sys.executable, "-m", "minidocker", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextlib.contextmanager
def detached(*words):
    """The name of a container that runs, and its record's state."""
    name = f"exercise-{os.urandom(4).hex()}"
    try:
        minidocker("run", "-d", "--name", name, *words)
        with open(f"{state.home()}/names/{name}/state.json") as file:
            yield name, json.load(file)
    finally:
        minidocker("rm", "-f", name)


def check_1(module):
    """Directories whose state.json lies half of the time."""
    for _ in range(6):
        held, says = random.random() < 0.5, random.choice(["running", "exited", "created"])
        with tempfile.TemporaryDirectory() as place:
            with open(f"{place}/state.json", "w") as file:
                json.dump({"status": says}, file)
            lock = os.open(place, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX) if held else None
            answer = module.lives(place)
            assert answer is not None, "True or False is to be returned, not None"
            assert answer is held, f"state.json says {says}, the lock is {'held' if held else 'free'}: you say {answer}"
            os.close(lock)
            with open_directory(place) as again:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def open_directory(path):
    """Its descriptor. If its lock cannot be taken now, the reader's function has kept it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    except BlockingIOError:
        raise AssertionError("your function keeps the lock: close the descriptor") from None
    finally:
        os.close(descriptor)


def check_2(module):
    """It says that it is up, and then has two seconds."""
    for code in random.sample(range(1, 100), 2):
        argv, isolators, settings = container(ready("busybox"), ["sh", "-c", module.script(code)])
        with start(argv, *isolators, **settings) as process:
            assert next(process.lines(), "") == "up", "it has to print up when it can be stopped"
            time.sleep(0.1)
            assert process.alive, "it has to sleep until it is stopped"
            result = process.stop(grace=2)
        assert result.exit_code == code, f"after SIGTERM it ends with {result.exit_code}, and should with {code}"


def check_3(module):
    """A container that shares some namespaces with us; what the command says of itself there."""
    for network in random.sample(["host", "none"], 2):
        host = f"box{random.randrange(1000)}"
        argv, isolators, settings = container(ready("busybox"), ["sleep", "60"], network=network, hostname=host)
        with start(argv, *isolators, **settings) as process:
            kinds = [name for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children")]
            right = {kind for kind in kinds if namespace(process.pid, kind) != namespace("self", kind)}
            answer = {name for name in module.joined(process.pid) if not name.endswith("_for_children")}
            assert answer == right, f"with the network {network}: {sorted(right)}, and you say {sorted(answer)}"
            said = module.one_more(process.pid, ["sh", "-c", "hostname; echo $$"])
            assert said and said.split()[0] == host, f"hostname should say {host}; your command printed {said!r}"
            assert int(said.split()[-1]) < 100, "its number inside is small: was it born in the PID namespace?"
            process.kill()


def namespace(pid, kind):
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def check_4(module):
    """The monitor is dead afterwards, and so is the container; a start works again."""
    with detached("busybox", "sleep", "600") as (name, before):
        with open(f"/proc/{before['pid']}/stat") as file:
            born = file.read().rpartition(")")[2].split()[19]
        found = module.orphan(name)
        lock = state.hold(os.path.realpath(f"{state.home()}/names/{name}"))
        assert lock is not None, "its monitor lives: it holds the lock of the record"
        os.close(lock)
        assert not lives(before["pid"], born), "the container lives: who should have ended it?"
        assert tuple(found) == ("running", 137, "exited"), f"you say {found}: look into the file again, and ask `wait`"
        minidocker("start", name)


def lives(pid, born):
    """Whether this process, and no later one of its number, lives; a zombie does not."""
    for _ in range(50):
        try:
            with open(f"/proc/{pid}/stat") as file:
                status, *rest = file.read().rpartition(")")[2].split()
        except FileNotFoundError:
            return False
        if status == "Z" or rest[18] != born:
            return False
        time.sleep(0.1)
    return True


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)

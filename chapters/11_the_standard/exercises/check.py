"""Check an exercise of chapter 11: python3 chapters/11_the_standard/exercises/check.py NUMBER [FILE]."""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.abspath(os.path.join(HERE, "../../.."))
sys.path.insert(0, REPO)
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker import state

os.environ["PYTHONPATH"] = REPO
ROOT = f"{state.home()}/roots/busybox"
RUNTIME = [sys.executable, "-m", "minidocker", "runtime"]
PLAIN = {
    "ociVersion": "1.0.2",
    "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]},
    "root": {"path": ROOT},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "uts", "ipc")]},
}


@contextlib.contextmanager
def bundled(config):
    """The directory of a bundle, and a name for its container, of which nothing is left afterwards."""
    name = f"exercise-{os.urandom(4).hex()}"
    with tempfile.TemporaryDirectory() as bundle:
        with open(f"{bundle}/config.json", "w") as file:
            json.dump(config, file)
        try:
            yield bundle, name
        finally:
            subprocess.run([*RUNTIME, "delete", "--force", name], capture_output=True)


def plain(script):
    """A config.json that is right, for this script."""
    return PLAIN | {"process": PLAIN["process"] | {"args": ["sh", "-c", script]}}


def run(config):
    """Exit code and output."""
    with bundled(config) as (bundle, name):
        done = subprocess.run([*RUNTIME, "run", "--bundle", bundle, name], capture_output=True, text=True, timeout=20)
        assert done.returncode != 125, done.stderr.strip()
        return done.returncode, done.stdout


def check_1(module):
    """It is process 1, sees itself in /proc, and has the root."""
    code, word = random.randrange(1, 100), os.urandom(4).hex()
    config = module.config(ROOT, ["sh", "-c", f"echo {word} $$; ls /proc | grep -c '^[0-9]'; exit {code}"])
    for key in ("ociVersion", "process", "root", "linux"):
        assert key in (config or {}), f"config.json needs {key}"
    ended, said = run(config)
    assert said.split()[:1] == [word], f"it printed {said!r}: does it execute argv?"
    assert said.split()[1] == "1", "the command is not process 1: name a PID namespace"
    assert int(said.split()[2]) < 10, "it sees the host's processes: mount a /proc of its own"
    assert ended == code, f"it ended with {ended}, not with {code}"


def check_2(module):
    """Whose number was written, is asked while it runs."""
    with tempfile.TemporaryDirectory() as place, bundled(module.hooked(plain("sleep 60"), f"{place}/log")) as found:
        bundle, name = found
        words = ["run", "--detach", "--bundle", bundle, name]
        subprocess.run([*RUNTIME, *words], check=True, stdin=subprocess.DEVNULL)
        state = subprocess.run([*RUNTIME, "state", name], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert os.path.exists(f"{place}/log"), "the log is not there: has config.json a hook, with a path?"
        with open(f"{place}/log") as file:
            text = file.read().strip()
    assert text == str(json.loads(state)["pid"]), (
        f"the log says {text!r}, and the process is {json.loads(state)['pid']}"
    )


def check_3(module):
    """Two codes, and a container that is gone."""
    for code in random.sample(range(1, 100), 2):
        with bundled(plain(f"sleep 0.2; exit {code}")) as (bundle, name):
            seen = module.shim(RUNTIME, bundle, name)
            assert seen is not None, "the exit code is to be returned, not None"
            assert seen == code, f"it ended with {code}: you say {seen}"
            left = subprocess.run([*RUNTIME, "state", name], capture_output=True).returncode
            assert left, "the container is still there: delete it"


def check_4(module):
    """What a runtime says of a process that is no more. A hook tells which one that was."""
    with tempfile.TemporaryDirectory() as place:
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >{place}/state"], "env": ["PATH=/bin:/usr/bin"]}
        with bundled(plain("true") | {"hooks": {"createRuntime": [hook]}}) as (bundle, name):
            seen = module.killed(RUNTIME, bundle, name)
        assert seen is not None and len(seen) == 4, "four things are to be returned"
        with open(f"{place}/state") as file:
            pid = json.load(file)["pid"]
    assert seen[0] == pid, f"the process was {pid}: you say {seen[0]}"
    assert seen[1] == "stopped", f"state says {seen[1]} after the kill: did you kill its process?"
    assert seen[2], "start cannot have succeeded: nobody waits there"
    assert seen[3], "the container is still there: delete --force"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)

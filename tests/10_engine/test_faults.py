"""Faults: SIGKILL of the command, of the monitor, of the container, at any moment; and power cuts.

The next command puts right what is left. A power cut is the state directory as it is at one moment: a copy of it.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest

from minidocker.engine import records
from tests.helpers import REPO, runs, until
from tests.helpers.engine import begun, clean, left, monitors, state
from tests.helpers.images import minidocker

pytestmark = [pytest.mark.chapter(10), pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root")]
ROUNDS = int(os.environ.get("MINIDOCKER_ROUNDS", "5"))
SLEEP = f"62.{os.getpid()}"


@pytest.fixture(autouse=True)
def cleaned(home):
    yield
    clean(home)
    assert until(lambda: not left(home)), left(home)
    assert not sleepers()


def sleepers():
    """Processes of our containers."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"sleep\0" + SLEEP.encode() + b"\0":
                found.append(int(path.parent.name))
    return found


def settled(home):
    """What is known of each container, when nobody starts or ends anything any more: name -> status.

    Whatever its state says is true: a process runs for those that run, and for no other.
    """
    statuses = {}
    for path in (home / "records").glob("*"):
        assert len(path.name) == 64, f"left: {path}"
        record = known_as(home, path.name)
        known = record.state()
        assert known["status"] in ("created", "running", "exited"), known
        assert record.name not in statuses, f"doubled: {record.name}"
        statuses[record.name] = known["status"]
        if known["status"] == "running":
            assert runs(known["pid"]), known
    return statuses


def known_as(home, identity):
    assert os.environ["MINIDOCKER_HOME"] == str(home)
    return records.Record(identity)


@pytest.fixture
def here(home, monkeypatch):
    """This process has that home, too."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    return home


def used_again(home, name):
    """Its name belongs to one container, which can be removed, or to none; then it is free."""
    answer = minidocker(home, "run", "-d", "--name", name, "busybox", "sleep", SLEEP)
    if answer.returncode:
        assert "in use" in answer.stderr, answer.stderr
        assert minidocker(home, "start", name).stdout == f"{name}\n"
        assert minidocker(home, "exec", name, "true").returncode == 0
    answer = minidocker(home, "rm", "-f", name)
    assert answer.stdout == f"{name}\n", answer.stderr
    assert name not in settled(home)


VERBS = {
    "run": (None, ["run", "-d", "--name", "it", "-v", "/data", "busybox", "sleep", SLEEP], 0.15),
    "front": (None, ["run", "--name", "it", "busybox", "sleep", SLEEP], 0.2),
    "create": (None, ["create", "--name", "it", "busybox", "sleep", SLEEP], 0.1),
    "start": ("create", ["start", "it"], 0.12),
    "stop": ("run", ["stop", "-t", "0", "it"], 0.12),
    "kill": ("run", ["kill", "it"], 0.1),
    "rename": ("run", ["rename", "it", "it2"], 0.08),
    "rm": ("create", ["rm", "it"], 0.1),
    "rm -f": ("run", ["rm", "-f", "it"], 0.12),
    "restart": ("run", ["restart", "-t", "0", "it"], 0.2),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_is_killed_at_any_moment(here, verb):
    """What it has begun is whole, or not there; and its name is one container's, or free."""
    before, words, longest = VERBS[verb]
    chance = random.Random(verb)
    for _ in range(ROUNDS):
        if before:
            assert minidocker(here, *VERBS[before][1]).returncode == 0
        with begun(here, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
            time.sleep(0.02 + chance.random() * longest)
            command.kill()
        quiet(here)
        for name in ("it", "it2"):
            used_again(here, name)
        assert minidocker(here, "prune").returncode == 0
        assert until(lambda: not left(here)), left(here)
    minidocker(here, "volume", "prune")
    assert minidocker(here, "volume", "ls", "-q").stdout == ""


def quiet(home):
    """Wait until no monitor is about to start or to end something."""
    for path in (home / "records").glob("*"):
        if len(path.name) == 64:
            until(lambda path=path: not held(path) or known_as(home, path.name).state()["status"] in records.ALIVE)


def held(path):
    if (lock := records.state.hold(str(path))) is not None:
        os.close(lock)
    return lock is None and path.exists()


@pytest.mark.parametrize("policy", ["no", "always"])
def test_the_monitor_is_killed_at_any_moment(here, policy):
    """The container ends with it, and is known to have ended; nothing of it stays in the way of the next start."""
    chance = random.Random(policy)
    for _ in range(ROUNDS):
        words = ["run", "-d", "--restart", policy, "--name", "it", "busybox", "sleep", SLEEP]
        with begun(here, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
            victims = until(lambda: monitors(here))
            time.sleep(chance.random() * chance.choice([0.03, 0.3]))
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            command.wait(20)
        assert until(lambda: not sleepers()), "a container outlived its monitor"
        assert until(lambda: settled(here)["it"] in ("created", "exited"))
        assert minidocker(here, "start", "it").stdout == "it\n"
        used_again(here, "it")
    assert until(lambda: not left(here)), left(here)


def test_the_watcher_and_the_monitor_are_killed(here):
    """Both at once: the container is without an owner, and the next start, or rm, ends it."""
    for verb in (["start", "it"], ["rm", "it"], ["prune"]):
        minidocker(here, "run", "-d", "--name", "it", "busybox", "sleep", SLEEP)
        [monitor] = monitors(here)
        pid = state(here, "it")["pid"]
        for victim in (*children(monitor, "watcher"), monitor):
            os.kill(victim, signal.SIGKILL)
        assert until(lambda: settled(here)["it"] == "exited")
        assert minidocker(here, *verb).returncode == 0
        if verb[0] == "rm":
            minidocker(here, "prune")
        assert until(lambda pid=pid: not runs(pid)), f"{verb} left it"
        minidocker(here, "rm", "-f", "it")


def children(pid, name):
    pids = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in pids if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == name]


def test_the_container_is_killed_at_any_moment(here):
    chance = random.Random(3)
    for _ in range(ROUNDS):
        words = ["run", "-d", "--name", "it", "busybox", "sh", "-c", f"trap 'exit 3' TERM; sleep {SLEEP}"]
        assert minidocker(here, *words).returncode == 0
        time.sleep(chance.random() / 20)
        with contextlib.suppress(ProcessLookupError):
            os.kill(state(here, "it")["pid"], signal.SIGKILL)
        assert minidocker(here, "wait", "it").stdout == "137\n"
        used_again(here, "it")


def test_a_removed_one_that_could_not_remove_itself_is_pruned(here):
    """Its monitor was killed: so says run --rm only now."""
    minidocker(here, "run", "-d", "--rm", "--name", "it", "-v", "/data", "busybox", "sleep", SLEEP)
    [monitor] = monitors(here)
    os.kill(monitor, signal.SIGKILL)
    assert until(lambda: not sleepers())
    for verb in (["system", "prune"],):
        assert minidocker(here, *verb).returncode == 0
    assert not left(here)
    assert minidocker(here, "volume", "ls", "-q").stdout == ""


# Power cuts

BUSY = """
import os, random, subprocess, sys
chance = random.Random(int(sys.argv[1]))
from minidocker.cli import main
while True:
    name, other = (f"n{chance.randrange(4)}" for _ in range(2))
    words = chance.choice([
        ["create", "--name", name, "-v", "v:/v", "busybox", "sleep", sys.argv[2]],
        ["run", "-d", "--name", name, "busybox", "true"],
        ["run", "-d", "--name", name, "busybox", "sleep", sys.argv[2]], ["start", name], ["stop", "-t", "0", name],
        ["rm", "-f", name], ["rm", name], ["rename", name, other], ["restart", "-t", "0", name], ["kill", name],
        ["run", "--rm", "--name", name, "busybox", "true"],
    ])
    if os.fork() == 0:
        os._exit(main(words))
    os.wait()
"""


@pytest.fixture
def busy(home):
    """Three clients that make, start, rename and remove containers as fast as they can."""
    env = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    argv = [sys.executable, "-c", BUSY]
    nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    clients = [subprocess.Popen([*argv, str(number), SLEEP], env=env, **nothing) for number in range(3)]
    yield home
    for client in clients:
        client.kill()
        client.wait()
    time.sleep(1)


@contextlib.contextmanager
def standing(home):
    """All commands and monitors of that home stand still, where they are: between two system calls, or within one, such
    as vfork(2), whose child stands still."""
    stopped = set()
    try:
        while new := {pid for pid in pids_of(home) if not stands(pid, pid in stopped)} - {os.getpid()}:
            for pid in new:
                stopped.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def pids_of(home):
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"MINIDOCKER_HOME={home}\0".encode() in (path / "environ").read_bytes():
                yield int(path.name)


def stands(pid, told):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in (
            "TtZXD" if told else "TtZX"
        )
    return True


def copied(home, there):
    """The files of containers as they are at this moment."""
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    for name in ("images", "layers", "ready"):
        os.symlink(home / name, there / name)
    with standing(home):
        for place in ("names", "uses", "records", "containers"):
            tree(home / place, there / place, home, there)


def tree(source, target, home, there):
    """Copy, with links into one home that lead into the other."""
    with contextlib.suppress(FileNotFoundError):
        if source.is_symlink():
            target.symlink_to(os.readlink(source).replace(str(home), str(there)))
        elif source.is_dir():
            names = os.listdir(source)
            target.mkdir()
            for name in names:
                tree(source / name, target / name, home, there)
        elif source.is_file():
            target.write_bytes(source.read_bytes())


def checked(home):
    """In a process of its own, whose home is the copy: nobody is lost, doubled, or in the way."""
    os.environ["MINIDOCKER_HOME"] = str(home)
    records.prune()
    found = records.records()
    assert len(found) == len(os.listdir(home / "records")), "half of a record is left"
    names = [record.name for record in found]
    assert len(set(names)) == len(names), names
    for record in found:
        assert record.state()["status"] in ("created", "exited"), record.state()
        assert record.config["id"] == record.id
        assert records.find(record.id).name == record.name
        assert records.find(record.name).id == record.id, f"{record.name} has no link"
        wanted = [record.config["image_id"].removeprefix("sha256:"), *record.config["volumes"]]
        assert all(record.id in records.state.wanted(one) for one in wanted), "what it needs could be removed"
    for name in {"n0", "n1", "n2", "n3"} - {*names}:
        found.append(records.create({"options": {"rm": False}, "image_id": "x"}, str(home), name))
    for record in found:
        records.delete(record, records.lock(record))
    left = [f"{place}/{name}" for place in ("records", "names", "uses") for name in os.listdir(home / place)]
    assert not left, left


def test_power_is_cut_at_any_moment(busy, tmp_path):
    """From what is on the disk then, all goes on: nobody is lost, nobody doubled, and no command is stopped."""
    time.sleep(1)
    seconds = float(os.environ.get("MINIDOCKER_SECONDS", "20"))
    until_, chance, rounds = time.monotonic() + seconds, random.Random(7), 0
    while time.monotonic() < until_ and rounds < int(os.environ.get("MINIDOCKER_CUTS", "100000")):
        time.sleep(chance.random() / 50)
        copied(busy, tmp_path / "copy")
        if (pid := os.fork()) == 0:
            try:
                checked(tmp_path / "copy")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0, f"round {rounds}"
        rounds += 1
    print(f"{rounds} rounds")
    assert rounds > 5


def test_files_that_are_cut_off_stop_nobody(here):
    """A disk may have the name of a file, and not its content."""
    for name in ("a", "b", "c"):
        minidocker(here, "run", "-d", "--name", name, "busybox", "true")
        minidocker(here, "wait", name)
    paths = {json.loads((path / "config.json").read_text())["name"]: path for path in (here / "records").glob("*")}
    (paths["a"] / "state.json").write_bytes(b"")
    (paths["b"] / "state.json").write_bytes(b'{"status": "run')
    (paths["c"] / "log").write_bytes(b"\0" * 4096)
    (here / "events").write_bytes(b'{"time": ')
    for name in ("a", "b", "c"):
        assert minidocker(here, "logs", name).returncode == 0
        assert minidocker(here, "start", "-a", name).returncode == 0
        assert minidocker(here, "rm", name).stdout == f"{name}\n"


def test_many_start_one_at_once(here):
    minidocker(here, "create", "--name", "it", "busybox", "sleep", SLEEP)
    several = [begun(here, "start", "it", stdout=-1, stderr=-1, text=True) for _ in range(8)]
    assert {(*one.communicate(timeout=20), one.returncode) for one in several} == {("it\n", "", 0)}
    assert len(monitors(here)) == 1 == len(sleepers())


def test_many_remove_one_at_once(here):
    minidocker(here, "run", "-d", "--name", "it", "busybox", "sleep", SLEEP)
    several = [begun(here, "rm", "-f", "it", stdout=-1, stderr=-1, text=True) for _ in range(8)]
    answers = [(*one.communicate(timeout=20), one.returncode) for one in several]
    assert any(out == "it\n" for out, _, _ in answers)
    assert not [answer for answer in answers if answer[1] and "no such container" not in answer[1]], answers
    assert until(lambda: not left(here))


def test_threads_look_while_others_change(busy, monkeypatch):
    """Who looks never sees half of something, and never fails."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(busy))
    problems, deadline = [], time.monotonic() + 3

    def look():
        while time.monotonic() < deadline:
            for record in records.records():
                try:
                    known = record.state()
                    assert set(records.BEFORE) <= set(known) and record.name
                except Exception as problem:
                    problems.append(repr(problem))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[:3]

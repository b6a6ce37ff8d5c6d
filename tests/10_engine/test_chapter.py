"""Chapter 10: what its page says, and its stage."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from minidocker import state
from tests.helpers import HOME, REPO, runs, until
from tests.helpers.images import minidocker

pytestmark = pytest.mark.chapter(10)
STAGE = [sys.executable, str(REPO / "chapters/10_engine/stage.py")]
TRAP = ["busybox", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"]


@pytest.fixture
def box(home):
    """A container that ends with 3 when it is asked to; its name, and what its files say."""
    name = f"box-{os.urandom(4).hex()}"
    done = minidocker(home, "run", "-d", "--name", name, *TRAP)
    assert done.returncode == 0, done.stderr
    yield name
    minidocker(home, "rm", "-f", name)


def known(home, name):
    return json.loads((home / "names" / name / "state.json").read_text())


def parent(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("PPid:"))


def test_the_stage_shows_a_container_that_stays_and_three_that_belong_together():
    done = subprocess.run(STAGE, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.split("\n")
    assert said[1].split() == ["PID", "COMMAND"]
    assert said[2].split() == ["1", "sleep", "60"]
    assert done.stdout.rstrip().endswith("you are visitor 1\nyou are visitor 2")
    assert "stopped: stage10\n137\n" in done.stdout  # sleep has no handler for SIGTERM


def test_the_stage_runs_a_command_of_the_readers():
    words = ["sh", "-c", "cat; exit 4"]
    done = subprocess.run([*STAGE, *words], input="typed", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "typed")


def test_the_monitor_is_the_parent_and_has_no_parent_of_its_own(home, box):
    pid = known(home, box)["pid"]
    monitor = parent(pid)
    assert parent(monitor) != os.getpid()
    assert os.getsid(monitor) == monitor
    assert state.hold(os.path.realpath(home / "names" / box)) is None, "it holds the lock"


def test_a_killed_monitor_leaves_a_file_that_is_wrong_until_somebody_looks(home, box):
    pid = known(home, box)["pid"]
    os.kill(parent(pid), signal.SIGKILL)
    assert until(lambda: not runs(pid)), "the watcher kills the container"
    assert known(home, box)["status"] == "running"
    assert minidocker(home, "wait", box).stdout == "137\n"
    assert known(home, box)["status"] == "exited"
    assert minidocker(home, "start", box).returncode == 0
    assert minidocker(home, "stop", box).returncode == 0
    assert known(home, box)["exit_code"] == 3


def test_a_signal_without_a_handler_does_nothing_to_process_1(home):
    minidocker(home, "run", "-d", "--name", "deaf", "busybox", "sleep", "600")
    try:
        pid = known(home, "deaf")["pid"]
        minidocker(home, "kill", "-s", "TERM", "deaf")
        time.sleep(0.2)
        assert runs(pid)
        minidocker(home, "stop", "-t", "0.2", "deaf")
        assert known(home, "deaf")["exit_code"] == 137
    finally:
        minidocker(home, "rm", "-f", "deaf")


def test_exec_has_no_parent_inside_and_writes_no_log(home, box):
    said = minidocker(home, "exec", box, "sh", "-c", "grep PPid /proc/$$/status; echo loud")
    assert said.stdout == "PPid:\t0\nloud\n"
    assert minidocker(home, "logs", box).stdout == "up\n"


def test_the_page_prints_commands_that_work():
    """Those of its first example, in its order."""
    page = (REPO / "chapters/10_engine/README.md").read_text()
    lines = [line[6:].partition("   ")[0].split() for line in page.splitlines() if line.startswith("    # minidocker ")]
    first = lines[: lines.index(["minidocker", "rm", "-f", "web"]) + 1]
    assert [words[1] for words in first] == ["run", "ps", "logs", "exec", "stop", "start", "rm"]
    for _, *words in first:
        done = minidocker(HOME, *words)
        assert done.returncode == 0, done.stderr

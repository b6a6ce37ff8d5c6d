"""Chapter 11: what its page says, and its stage."""

import os
import subprocess
import sys

import pytest
from machines import Machine, until

from minidocker.cgroups import hierarchies, prune
from tests.helpers import REPO
from tests.helpers.standard import needs

pytestmark = pytest.mark.chapter(11)
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
STAGE = [sys.executable, str(REPO / "chapters/11_the_standard/stage.py")]


def test_the_stage_shows_the_verbs_one_by_one():
    done = subprocess.run(STAGE, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:6] == [
        "create: 0",
        "state: created",
        "hello",
        "start: 0",
        "state: stopped",
        "delete: 0",
    ]


def test_the_stage_runs_a_command_of_the_readers():
    words = ["sh", "-c", "cat; exit 4"]
    done = subprocess.run([*STAGE, *words], input="typed", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "typed")


def test_a_machine_is_alone_and_leaves_nothing():
    with Machine("alone") as host:
        assert host.do("hostname") == "alone"
        assert host.do("cat", "/proc/self/cgroup").splitlines()[0].endswith(":/")
        assert host.do("ls", "/run") == "lock"
        assert len(host.do("ps", "-e").splitlines()) == 4  # a title, its init, sleep, and ps


def test_what_a_machine_starts_ends_with_it_also_when_nobody_waits():
    with Machine("one") as one:
        forever = [one.spawn("sh", "-c", "trap '' TERM; while :; do sleep 1; done") for _ in range(3)]
    assert not any(process.alive() for process in forever)


DOOMED = """
import time
from machines import Machine, docker, ours

with Machine("doomed") as host, docker(host, ours(host)) as client:
    host.do(*client, "run", "-d", "busybox", "sleep", "600")
    print(host.pid, host.keeper.name, flush=True)
    time.sleep(100)
"""


def test_who_is_killed_with_machines_leaves_groups_that_prune_removes():
    needs("dockerd", "docker")
    with subprocess.Popen([sys.executable, "-c", DOOMED], stdout=subprocess.PIPE, text=True, env=HERE) as process:
        pid, name = process.stdout.readline().split()
        process.kill()
    assert until(lambda: not os.path.exists(f"/proc/{pid}"))
    for _ in range(2):
        prune()
    assert not [place for place in hierarchies() if os.path.exists(f"{place.parent}/{name}")]

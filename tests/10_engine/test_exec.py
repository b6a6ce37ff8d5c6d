"""Chapter 10: one more process in a container has its walls, and is not seen in there before it has them."""

import json
import os
import pathlib
import select
import subprocess
import sys

import pytest

from minidocker.engine.exec import walls_of
from tests.helpers import until
from tests.helpers.engine import clean, environment, left, state
from tests.helpers.images import minidocker

pytestmark = [pytest.mark.chapter(10), pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root")]
RIGHTS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")


@pytest.fixture(autouse=True)
def cleaned(home):
    yield
    clean(home)
    assert until(lambda: not left(home)), left(home)


def begun(home, *words):
    answer = minidocker(home, "run", "-d", "--name", "it", *words, "busybox", "sleep", "63")
    assert answer.returncode == 0, answer.stderr
    return state(home, "it")["pid"]


def status(text):
    return {line.split(":\t")[0]: line.split(":\t")[1].strip() for line in text.splitlines() if ":\t" in line}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--privileged"],
        ["--cap-drop", "ALL", "--cap-add", "CHOWN"],
        ["--security-opt", "no-new-privileges", "-u", "1000:1000"],
        ["--security-opt", "seccomp=unconfined", "--cap-add", "SYS_PTRACE"],
        ["--userns", "remap"],
        ["--read-only", "-u", "nobody", "-w", "/tmp"],
    ],
)
def test_it_has_the_walls_of_the_first_process(home, words):
    pid = begun(home, *words)
    first = status(pathlib.Path(f"/proc/{pid}/status").read_text())
    shown = minidocker(home, "exec", "it", "cat", "/proc/self/status")
    assert shown.returncode == 0, shown.stderr
    assert {key: status(shown.stdout)[key] for key in RIGHTS[:7]} == {key: first[key] for key in RIGHTS[:7]}
    shown = minidocker(
        home, "exec", "it", "sh", "-c", "cat /proc/self/cgroup /proc/1/cgroup; id; readlink /proc/self/ns/*"
    )
    groups = shown.stdout.splitlines()
    half = sum(":" in line and not line.endswith("]") for line in groups) // 2
    assert groups[:half] == groups[half : 2 * half], "another control group"
    own = minidocker(home, "exec", "it", "sh", "-c", "for n in /proc/1/ns/*; do readlink $n; done").stdout.split()
    theirs = [os.readlink(f"/proc/{pid}/ns/{name}") for name in os.listdir(f"/proc/{pid}/ns")]
    assert set(own) <= set(theirs) or not own
    if "remap" in words:
        assert minidocker(home, "exec", "it", "cat", "/proc/self/uid_map").stdout.split()[1] != "0"
        assert minidocker(home, "exec", "it", "sh", "-c", "echo hi >/dev/stdout").stdout == "hi\n"
    if "--read-only" in words:
        assert minidocker(home, "exec", "it", "touch", "/x").returncode == 1
        assert minidocker(home, "exec", "it", "pwd").stdout == "/tmp\n"


def test_limits_and_a_profile_of_its_own(home, tmp_path):
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    opt = f"seccomp={tmp_path}/profile.json"
    begun(
        home,
        "--ulimit",
        "nofile=77:99",
        "--ulimit",
        "core=0",
        "--security-opt",
        opt,
        "--security-opt",
        "no-new-privileges",
    )
    shown = minidocker(
        home, "exec", "it", "sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c; mkdir /x; grep NoNew /proc/self/status"
    )
    assert shown.stdout.split() == ["77", "99", "0", "NoNewPrivs:", "1"]
    assert "not permitted" in shown.stderr
    shown = minidocker(home, "exec", "--privileged", "it", "grep", "CapEff", "/proc/self/status")
    assert shown.stdout.split()[1].endswith("ffffff")


def test_the_groups_of_a_user(home):
    begun(home)
    minidocker(
        home,
        "exec",
        "it",
        "sh",
        "-c",
        "echo joe:x:4711:20::/home/joe:/bin/sh >>/etc/passwd; echo more:x:99:joe >>/etc/group",
    )
    assert minidocker(home, "exec", "-u", "joe", "it", "id").stdout == "uid=4711(joe) gid=20 groups=20,99(more)\n"


def members(namespace):
    """The host's numbers of the processes in this PID namespace: those whom root in there sees, and may trace."""
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/pid") == namespace:
                found.add(int(path.name))
        except OSError:
            pass
    return found


JOINS = """
import sys
from minidocker.engine.exec import walls_of
from minidocker.process import start
from tests.helpers.isolators import Pauses
pid, name, step, fifo = sys.argv[1:]
walls = walls_of(int(pid), name, [], "", False, {})
walls.insert(int(step), Pauses("inside", fifo))
start(["true"], *walls, name=name)
"""


@pytest.mark.parametrize("words", [["--cap-add", "SYS_PTRACE"], ["--userns", "remap"]])
def test_who_joins_is_not_seen_before_it_has_all_walls(home, words, tmp_path):
    """Root in there may trace whom it sees, and would have all rights of the host for that time (CVE-2016-9962)."""
    pid = begun(home, *words)
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    [short] = [path.name[:12] for path in (home / "records").iterdir()]
    inside = status(pathlib.Path(f"/proc/{pid}/status").read_text())
    names = [type(wall).__name__ for wall in walls_of(pid, short, [], "", False, {})]
    for step, name in enumerate([*names, "the end"]):
        os.mkfifo(fifo := tmp_path / f"fifo{step}")
        reached = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        argv = [sys.executable, "-c", JOINS, str(pid), short, str(step), str(fifo)]
        with subprocess.Popen(argv, env=environment(home)) as joins:
            assert select.select([reached], [], [], 20)[0], "the moment never came"
            seen = members(namespace) - {pid}
            if step < len(names):
                assert not seen, f"seen before {name}"
            else:
                [new] = seen
                text = status(pathlib.Path(f"/proc/{new}/status").read_text())
                assert [text[key] for key in RIGHTS[:7]] == [inside[key] for key in RIGHTS[:7]]
                for kind in ("mnt", "net", "ipc", "uts", "cgroup", "user", "pid"):
                    assert os.readlink(f"/proc/{new}/ns/{kind}") == os.readlink(f"/proc/{pid}/ns/{kind}")
            joins.kill()
        os.close(reached)
        assert until(lambda: members(namespace) == {pid})


def test_a_file_of_variables_comes_before_those_of_e(home, tmp_path):
    begun(home, "-e", "A=1", "-e", "B=1", "-e", "C=1")
    (tmp_path / "file").write_text("# a note\nB=2\n\nC=2\n")
    shown = minidocker(home, "exec", "--env-file", tmp_path / "file", "-e", "C=3", "it", "sh", "-c", "echo $A$B$C")
    assert shown.stdout == "123\n", shown.stderr
    assert "nosuch" in minidocker(home, "exec", "--env-file", "nosuch", "it", "true").stderr

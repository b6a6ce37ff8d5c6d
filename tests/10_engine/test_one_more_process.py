"""Chapter 10: one more process in a running container: in its namespaces, its groups, and behind its walls."""

import os

import pytest

from minidocker.engine.exec import walls_of
from minidocker.images.container import container, ready
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.security.capabilities import capabilities
from tests.helpers import HOME

pytestmark = pytest.mark.chapter(10)
SLEEP = ["sh", "-c", "exec sleep 600"]


@pytest.fixture(autouse=True)
def store(monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(HOME))


@pytest.fixture
def box():
    """A container of busybox with a limit, and its name; ended afterwards."""
    with boxed(limits={"pids": 40}) as process:
        yield process


def boxed(**options):
    argv, isolators, settings = container(ready("busybox"), SLEEP, **options)
    return start(argv, *isolators, name="exec-box", **settings)


def inside(process, *command, user="", privileged=False, **options):
    """What one more command in there says, and its exit code."""
    walls = walls_of(process.pid, "exec-box", [], user, privileged, {})
    result = run(command, *walls, **options)
    return result.stdout.strip() or result.stderr.strip(), result.exit_code


def status(text):
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_it_has_all_namespaces_of_the_container(box):
    links = [f"/proc/self/ns/{kind}" for kind in ("mnt", "pid", "uts", "ipc", "net", "cgroup")]
    said, code = inside(box, "sh", "-c", "for link; do readlink $link; done", "sh", *links)
    assert code == 0
    assert said.split() == [os.readlink(f"/proc/{box.pid}/ns/{link[14:]}") for link in links]


def test_it_sees_the_containers_root_and_processes(box):
    said, _ = inside(
        box, "sh", "-c", "ps -o pid,args; test -e /bin/busybox && ! test -e /var/lib/dpkg && echo its root"
    )
    assert "1 sleep 600" in " ".join(said.split())
    assert said.endswith("its root")


def test_it_is_in_the_groups_of_the_container_and_counted_there(box):
    outside = open(f"/proc/{box.pid}/cgroup").read()
    with start(["sleep", "60"], *walls_of(box.pid, "exec-box", [], "", False, {})) as process:
        assert open(f"/proc/{process.pid}/cgroup").read() == outside
        process.kill()


def test_its_rights_are_those_of_the_first_process(box):
    first = status(open(f"/proc/{box.pid}/status").read())
    its = status(inside(box, "cat", "/proc/self/status")[0])
    for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "Seccomp", "NoNewPrivs"):
        assert its[name].split() == first[name].split(), name


def test_rights_that_were_dropped_at_the_start_stay_dropped():
    with boxed(kept=capabilities(drop=["CHOWN"])) as process:
        assert inside(process, "chown", "7", "/tmp")[1] == 1
        assert inside(process, "chown", "7", "/tmp", privileged=True)[1] == 0
        process.kill()


def test_privileged_has_all_rights_and_no_filter(box):
    its = status(inside(box, "cat", "/proc/self/status", privileged=True)[0])
    assert its["Seccomp"].strip() == "0"
    mine = status(open("/proc/self/status").read())
    assert int(its["CapEff"], 16) == int(mine["CapBnd"], 16)


def test_a_user_has_no_rights_of_root(box):
    said, _ = inside(box, "sh", "-c", "id -u; grep CapEff /proc/self/status", user="nobody")
    number, _, effective = said.split()
    assert number != "0"
    assert int(effective, 16) == 0


def test_its_exit_code_is_its_own_and_the_container_runs_on(box):
    assert inside(box, "sh", "-c", "exit 7")[1] == 7
    assert box.alive


def test_it_ends_with_the_container(box):
    with start(["sleep", "60"], *walls_of(box.pid, "exec-box", [], "", False, {})) as process:
        assert process.alive
        box.kill()
        assert process.wait(timeout=10).exit_code == 137  # before that the kernel does not let the first process go
        assert box.wait(timeout=10).signal == 9


def test_a_container_that_has_ended_cannot_be_entered(box):
    pid = box.pid
    box.kill()
    box.wait()
    with pytest.raises((OSError, ContainerError)):
        run(["true"], *walls_of(pid, "exec-box", [], "", False, {}))


def test_no_descriptor_of_the_host_is_open_inside(box):
    said, _ = inside(box, "ls", "/proc/self/fd")
    assert said.split() == ["0", "1", "2", "3"]  # the last is that of ls

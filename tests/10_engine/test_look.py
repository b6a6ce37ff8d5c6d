"""Chapter 10: what is drawn of a running container is what it is."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from minidocker.cgroups import Cgroup
from minidocker.look import look
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.rootfs import PivotRoot
from tests.helpers import HOME, REPO, until
from tests.helpers.images import minidocker, new_store

pytestmark = pytest.mark.chapter(10)
ROOT = HOME / "roots/busybox"


@pytest.fixture
def box():
    """A container with walls of each kind, and two processes in it."""
    fence = Cgroup(memory="64m", cpus=0.5, pids=32)
    walls = [Namespaces("pid mount uts net"), fence, Namespaces("cgroup"), PivotRoot(ROOT)]
    with start(["sh", "-c", "sleep 77 & exec sleep 66"], *walls) as process:
        until(lambda: len(fence.processes()) == 2)
        yield process
        process.kill()


def test_its_own_namespaces_are_told_from_those_that_it_shares(box):
    seen = look(box.pid)
    assert [kind for kind, _, own in seen.own if own] == ["mount", "host name", "pid", "net", "cgroup"]
    numbers = {kind: number for kind, number, _ in seen.own}
    assert f"net:[{numbers['net']}]" == os.readlink(f"/proc/{box.pid}/ns/net")
    assert [own for *_, own in look(os.getpid()).own] == [False] * 8


def test_limits_and_use_are_those_of_its_group(box):
    bars = {name: (used, allowed) for name, used, allowed in look(box.pid).bars}
    assert bars["processes"] == (2, 32)
    assert bars["memory"][1] == 64 << 20 and 0 < bars["memory"][0] < 64 << 20
    assert bars["cpu"] == (None, 0.5)


def test_processes_have_both_numbers_and_mounts_and_addresses_are_its_own(box):
    seen = look(box.pid)
    assert [line.split(":")[-1] for line in seen.processes] == [" sleep 66", " sleep 77"]
    assert seen.processes[0].split() == ["1", f"({box.pid}", "here),", "user", "0:", "sleep", "66"]
    assert [line.split()[0] for line in seen.mounts] == ["/", "/proc"]
    assert seen.addresses in (["127.0.0.1", "::1 on lo"], ["127.0.0.1"])


def test_the_drawing_is_xml_with_everything_in_it_whatever_a_name_is(box):
    with start(["sh", "-c", "sleep 55; true", "<&\"'>"], Namespaces("uts")) as odd:
        text = look(box.pid).svg(look(odd.pid))
        odd.kill()
    drawn = xml.etree.ElementTree.fromstring(text)
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "host name" in words and any("of 64 MiB" in word for word in words)
    assert any("55; true <&\"'>" in word for word in words)


def test_many_processes_are_counted():
    with start(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 50 & done; wait"], Namespaces("pid")) as process:
        until(lambda: len(look(process.pid).processes) == 11)
        assert "and 3 more" in str(look(process.pid))
        process.kill()


def test_a_process_that_is_gone_is_an_error_with_its_number(box):
    box.kill()
    box.wait()
    with pytest.raises(ContainerError, match=rf"look: process {box.pid}: .*still runs"):
        look(box.pid)


def test_in_a_terminal(box):
    done = subprocess.run(
        [sys.executable, "-m", "minidocker.look", str(box.pid)], cwd=REPO, capture_output=True, text=True
    )
    assert re.search(r"processes +\[#\.+\] 2 of 32\n", done.stdout), done.stdout + done.stderr
    assert "host name" in done.stdout and "its own" in done.stdout


def test_inspect_draws_a_running_container(tmp_path):
    home = tmp_path / "home"
    new_store(home)
    words = ["-d", "--name=drawn", "-m", "64m", "--network=none", "busybox", "sleep", "77"]
    assert minidocker(home, "run", *words).returncode == 0
    drawn = minidocker(home, "inspect", "--draw", "drawn")
    assert drawn.returncode == 0 and re.search(r"memory +\[[#.]{20}\] \d+ of 64 MiB", drawn.stdout)
    assert re.search(r" 1 \(\d+ here\), user 0: sleep 77\n", drawn.stdout)
    minidocker(home, "kill", "drawn")
    until(lambda: minidocker(home, "inspect", "--draw", "drawn").returncode == 1)
    why = "minidocker: drawn: this container is exited: only one that is running can be drawn\n"
    assert minidocker(home, "inspect", "--draw", "drawn").stderr == why
    minidocker(home, "rm", "drawn")

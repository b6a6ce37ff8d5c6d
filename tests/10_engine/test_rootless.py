"""Chapter 10, without root: each command has a user namespace of its own; the monitor stays in that of its own."""

import os

import pytest

from tests.helpers.users import Someone

pytestmark = [pytest.mark.chapter(10), pytest.mark.skipif(os.geteuid() != 0, reason="to make a user needs root")]


@pytest.fixture
def someone():
    user = Someone()
    user.load("busybox")
    yield user
    user.sh("for id in $(ls ~/.local/share/minidocker/records); do minidocker rm -f $id; done")
    user.remove()


def test_later_commands_reach_a_container_that_stays(someone):
    script = """
    minidocker run -d --name it busybox sh -c 'echo hi; trap "exit 3" TERM; while :; do sleep 0.1; done' >/dev/null
    sleep 1; minidocker logs it; minidocker stop it; minidocker wait it
    minidocker start it; minidocker kill it; minidocker wait it; minidocker rename it other; minidocker rm other
    minidocker run --name code busybox sh -c 'exit 4'; echo $?; minidocker rm -f code
    minidocker run -d --rm --name short busybox true >/dev/null; sleep 1; ls ~/.local/share/minidocker/records
    """
    done = someone.sh(script)
    assert done.stderr == ""
    assert done.stdout.split() == ["hi", "it", "3", "it", "it", "137", "other", "4", "code"]


def test_what_cannot_be_entered_is_one_clear_line(someone):
    done = someone.sh("minidocker run -d --name it busybox sleep 65 >/dev/null; minidocker exec it true; echo $?")
    assert done.stdout == "125\n" and done.stderr.count("\n") == 1 and "sudo" in done.stderr, done.stderr


def test_port_says_where_its_ports_are(someone):
    script = """
    minidocker run -d --name it -p 18080:80 -p 127.0.0.1::81 busybox sleep 65 >/dev/null || exit
    minidocker port it 80; minidocker port it 81; minidocker ps --format '{{.Ports}}'; minidocker stop -t 0 it
    """
    done = someone.sh(script)
    first, second, *ports = done.stdout.split()
    assert first == "0.0.0.0:18080" and second.startswith("127.0.0.1:") and not second.endswith(":0"), done
    assert ports == [f"{first}->80/tcp,", f"{second}->81/tcp", "it"]

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


def test_port_says_where_its_ports_are(someone):
    script = """
    minidocker run -d --name it -p 18080:80 -p 127.0.0.1::81 busybox sleep 65 >/dev/null || exit
    minidocker port it 80; minidocker port it 81; minidocker ps --format '{{.Ports}}'; minidocker stop -t 0 it
    """
    done = someone.sh(script)
    first, second, *ports = done.stdout.split()
    assert first == "0.0.0.0:18080" and second.startswith("127.0.0.1:") and not second.endswith(":0"), done
    assert ports == [f"{first}->80/tcp,", f"{second}->81/tcp", "it"]


@pytest.mark.parametrize("words", ["--rm", "-d --init", "-d -u 7:8 --cap-drop ALL"])
def test_one_more_process_is_where_the_others_are(someone, words):
    first = 2 if "--init" in words else 1
    script = f"""
    minidocker run {words} --name it busybox sh -c 'echo hi >/tmp/x; sleep 65' >/dev/null &
    until minidocker exec it cat /tmp/x 2>/dev/null; do sleep 0.2; done
    minidocker exec it sh -c 'echo $(id -u):$(id -g); for n in user pid mnt net; do readlink /proc/self/ns/$n; done'
    minidocker exec it sh -c 'for n in user pid mnt net; do readlink /proc/{first}/ns/$n; done'
    minidocker exec it grep CapBnd /proc/self/status; minidocker exec it grep CapBnd /proc/{first}/status
    minidocker exec it cat /proc/self/uid_map /proc/{first}/uid_map; echo typed | minidocker exec -i it cat
    minidocker exec it sh -c 'exit 3'; echo $?; minidocker exec it nothing 2>/dev/null; echo $?
    minidocker rm -f it
    """
    done = someone.sh(script)
    hi, who, *found = done.stdout.split("\n")
    assert (hi, who) == ("hi", "7:8" if "-u" in words else "0:0"), done
    assert found[:4] == found[4:8] and found[8] == found[9], done
    half = (len(found) - 15) // 2
    assert found[10 : 10 + half] == found[10 + half : 10 + 2 * half], done
    assert found[-5:] == ["typed", "3", "127", "it", ""], done


def test_nobody_enters_what_is_somebody_elses_or_has_ended(someone):
    done = someone.sh("minidocker run --name it busybox true; minidocker exec it true; echo $?")
    assert done.stdout == "125\n" and done.stderr.count("\n") == 1 and "exited" in done.stderr, done.stderr
    done = someone.sh("MINIDOCKER_HOME=/var/lib/minidocker minidocker exec it true; echo $?")
    assert done.stdout == "125\n" and done.stderr.count("\n") == 1, done.stderr

"""Chapter 0: a terminal of its own, and the user's joined with it: size, keys, much that is typed, signals, the end."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time

import pytest

from minidocker.process import start
from minidocker.terminal import Terminal, size
from tests.helpers import both_ways, need, until
from tests.helpers.images import HOME

pytestmark = pytest.mark.chapter(0)
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

INTERACT = """
    import sys
    from minidocker.process import start
    from minidocker.terminal import Terminal, interact, size
    with start(["sh", "-c", sys.argv[1]], Terminal(size(0)), env={"PATH": "/usr/bin:/bin"}) as process:
        sys.exit(interact(process, int(sys.argv[2])).exit_code)
"""


class User:
    """Somebody at a terminal of 33 rows and 77 columns, who starts a program there."""

    def __init__(self, *argv):
        self.screen, self.theirs = os.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.seen = b""
        os.set_blocking(self.screen, False)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        self.program = subprocess.Popen(["setsid", "--ctty", *argv], **streams, env=ENV)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.kill()
        self.program.wait()
        os.close(self.screen)
        os.close(self.theirs)

    def read(self, expected=None, seconds=15):
        """What appears up to `expected`, or within a moment."""
        deadline = time.monotonic() + seconds
        while expected not in self.seen and time.monotonic() < deadline:
            if select.select([self.screen], [], [], 0.1)[0]:
                self.seen += os.read(self.screen, 65536)
        assert expected in self.seen, self.seen[-200:]

    def type(self, data):
        """As much of it as the terminal takes now."""
        try:
            return os.write(self.screen, data)
        except BlockingIOError:
            return 0

    def left(self):
        """How the program left the terminal: the modes that it found?"""
        return termios.tcgetattr(self.theirs) == self.before


def interacting(code, keyboard=0):
    return User(sys.executable, "-c", textwrap.dedent(INTERACT), code, str(keyboard))


def minidocker(*words):
    return User(sys.executable, "-m", "minidocker", *words)


def test_much_is_typed_while_the_program_does_not_read():
    """Its output must come all the same, and so must its end."""
    with interacting("stty raw -echo; echo ready; sleep 1; echo alive; sleep 0.5; echo done; exit 3") as user:
        user.read(b"ready")
        typed, deadline = 0, time.monotonic() + 20
        while user.program.poll() is None and time.monotonic() < deadline:
            typed += user.type(b"y" * 1024) if typed < 1_000_000 else 0
            if select.select([user.screen], [], [], 0.001)[0]:
                user.seen += os.read(user.screen, 65536)
        assert user.program.poll() == 3, f"it hangs after {typed} bytes"
        assert b"alive" in user.seen and b"done" in user.seen
        assert user.left()


def test_both_directions_are_full():
    """What comes back is as much as was typed, although this screen is read in small pieces."""
    with interacting("stty raw -echo; echo ready; head -c 200000; echo end") as user:
        user.read(b"ready\n")
        user.seen, typed, deadline = b"", 0, time.monotonic() + 30
        while b"end" not in user.seen and time.monotonic() < deadline:
            typed += user.type(b"z" * min(4096, 200_000 - typed)) if typed < 200_000 else 0
            if select.select([user.screen], [], [], 0.001)[0]:
                user.seen += os.read(user.screen, 2048)
        assert (typed, user.seen.count(b"z")) == (200_000, 200_000)


def test_the_end_waits_for_a_screen_that_is_slow():
    """All of the output is shown, although the program has ended long before."""
    with interacting("seq 20000; exit 5") as user:
        user.read(b"100")
        time.sleep(1)
        user.read(b"20000", 30)
        assert user.program.wait(10) == 5


@both_ways
def test_the_size_is_there_from_the_beginning():
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 34, 0, 0))
    with start(["stty", "size"], Terminal(size(theirs))) as process:
        assert list(process.lines()) == ["12 34"]
    os.close(ours), os.close(theirs)


def test_a_terminal_without_a_keyboard_leaves_standard_input_alone():
    need(os.geteuid() == 0, "walls need root")
    code = f"while read x; do {sys.executable} -m minidocker run --rm -t busybox echo got $x; done"
    answer = subprocess.run(["sh", "-c", code], input=b"a\nb\nc\n", capture_output=True, env=ENV, timeout=60)
    assert answer.stdout.split() == [b"got", b"a", b"got", b"b", b"got", b"c"], answer.stderr


def test_the_terminal_is_one_of_the_containers_own_devpts():
    need(os.geteuid() == 0, "walls need root")
    look = "tty; ls /dev/pts; test -c /dev/console && echo console > /dev/console; id -u; echo out > /dev/stdout"
    for user in ("0", "1000"):
        answer = subprocess.run(
            [sys.executable, "-m", "minidocker", "run", "--rm", "-t", "-u", user, "busybox", "sh", "-c", look],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=ENV,
            timeout=60,
        )
        said = answer.stdout.decode().split()
        assert said == ["/dev/pts/0", "0", "ptmx", "console", user, "out"], answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("program", ["sleep 60", "trap 'exit 9' TERM HUP INT QUIT; while :; do sleep 0.05; done"])
def test_a_signal_to_the_command_ends_it_in_order(number, program):
    """The first process of a PID namespace does not get a signal that it has no handler for; it ends all the same."""
    need(os.geteuid() == 0, "walls need root")
    name = f"terminal-{os.urandom(4).hex()}"
    with minidocker("run", "--rm", "--name", name, "-it", "busybox", "sh", "-c", f"echo ready; {program}") as user:
        user.read(b"ready")
        time.sleep(0.3)  # until its trap is set
        user.program.send_signal(number)
        assert user.program.wait(15) == (137 if program == "sleep 60" else 9)
        assert user.left(), "the terminal is left raw"
        assert until(lambda: not (HOME / "containers" / name).exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_command_behind_an_init_ends_in_its_own_way(number):
    """While `Init` waits in sigwait(3), /proc shows none of its signals blocked: that is no reason to kill it."""
    need(os.geteuid() == 0, "walls need root")
    for program, wanted in (("trap 'exit 9' TERM INT USR1; ", 9), ("", 128 + number)):
        code = f"{program}echo ready; while :; do sleep 0.05; done" if program else "echo ready; exec sleep 60"
        with minidocker("run", "--rm", "--init", "-it", "busybox", "sh", "-c", code) as user:
            user.read(b"ready")
            user.program.send_signal(number)
            assert user.program.wait(20) == wanted


@pytest.mark.parametrize("options", [(), ("--init",)])
def test_a_signal_ends_it_though_nobody_reads_its_screen(options):
    """What is left for a screen that takes nothing must not hold us, nor what the container holds, for ever."""
    need(os.geteuid() == 0, "walls need root")
    with minidocker("run", "--rm", *options, "-it", "busybox", "sh", "-c", "trap 'exit 5' TERM; yes & wait") as user:
        user.read(b"y\r\n")
        time.sleep(0.5)  # until it is full
        user.program.terminate()
        assert user.program.wait(20) == 5
        assert user.left()


def test_the_rest_is_kept_for_a_screen_that_reads_late_and_a_signal_ends_that_too():
    need(os.geteuid() == 0, "walls need root")
    words = ["run", "--rm", "-t", "busybox", "sh", "-c", "yes | head -c 200000"]
    argv = [sys.executable, "-m", "minidocker", *words]
    for patient in (True, False):
        program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENV)
        time.sleep(2.5)
        assert program.poll() is None
        if patient:
            assert len(program.stdout.read()) == 300000
        else:
            program.terminate()
        assert program.wait(20) == (0 if patient else program.returncode)
        program.stdout.close()

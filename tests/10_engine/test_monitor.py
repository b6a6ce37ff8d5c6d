"""Chapter 10: the monitor of a container: its output, its input, its terminal, its ends and its restarts."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import resource
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from tests.helpers import until
from tests.helpers.engine import begun, clean, environment, left, monitors, state
from tests.helpers.images import minidocker

pytestmark = [pytest.mark.chapter(10), pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root")]
MEGABYTE = 1 << 20
WINDOW = (31).to_bytes(2, sys.byteorder) + (97).to_bytes(2, sys.byteorder) + bytes(4)


@pytest.fixture(autouse=True)
def cleaned(home):
    yield
    clean(home)
    assert until(lambda: not left(home)), left(home)


def run(home, *words, **options):
    """`run -d`; the ID."""
    answer = minidocker(home, "run", "-d", *words, **options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


class Screen:
    """A command with a terminal of its own, as a user has one."""

    def __init__(self, home, *words):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, WINDOW)
            os.execve(sys.executable, [sys.executable, "-m", "minidocker", *words], environment(home))

    def read(self, expected, seconds=20):
        deadline = time.monotonic() + seconds
        while expected not in self.seen and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
        assert expected in self.seen, self.seen[-500:]

    def type(self, data):
        os.write(self.fd, data)

    def wait(self):
        """Its exit status; what it still writes is read, or it could not end."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(self.seen[-500:])


# Output and input


@pytest.mark.parametrize("words", [[], ["-t"]])
def test_much_output_arrives_whole_and_so_does_the_log(home, words):
    with begun(home, "run", "--name", "much", *words, "busybox", "yes", "0123456", stdout=subprocess.PIPE) as command:
        size = 0
        while size < 8 * MEGABYTE:
            size += len(command.stdout.read(MEGABYTE))
        minidocker(home, "kill", "much")
        rest = command.stdout.read()
        assert command.wait(20) == 137
    with open(next((home / "records").glob("*/log")), "rb") as file:
        lines = [json.loads(line)["log"] for line in file]
    end = "\r\n" if words else "\n"
    assert set(lines[:-1]) == {f"0123456{end}"}
    assert abs(sum(map(len, lines)) - size - len(rest)) <= 8


def test_a_hundred_megabytes_both_ways(home):
    """Neither direction waits for the other."""
    feeder = "head -c 104857600 /dev/zero"
    script = f"{feeder} | {sys.executable} -m minidocker run -i busybox cat | wc -c"
    shown = subprocess.run(["sh", "-c", script], env=environment(home), capture_output=True, text=True, timeout=120)
    assert shown.stdout.strip() == "104857600"


def test_a_program_that_does_not_read_gets_no_more_and_ends(home):
    script = f"yes | {sys.executable} -m minidocker run -i busybox sh -c 'sleep 0.3; exit 4'; echo $?"
    shown = subprocess.run(["sh", "-c", script], env=environment(home), capture_output=True, text=True, timeout=60)
    assert shown.stdout == "4\n"


def test_its_input_ends_with_the_command_that_gave_it(home):
    with begun(home, "run", "--name", "reads", "-i", "busybox", "cat", stdin=-1, stdout=-1) as command:
        command.stdin.write(b"hi\n")
        command.stdin.flush()
        assert command.stdout.readline() == b"hi\n"
        command.kill()
    assert minidocker(home, "wait", "reads").stdout == "0\n"


def test_the_input_of_a_detached_one_stays_open(home):
    run(home, "-i", "--name", "reads", "busybox", "cat")
    for text in ("one\n", "two\n"):
        with begun(home, "attach", "reads", stdin=-1, stdout=-1, text=True) as client:
            client.stdin.write(text)
            client.stdin.close()
            assert client.stdout.readline() == text
            client.kill()
    assert state(home, "reads")["status"] == "running"


def test_a_client_that_is_gone_does_not_end_the_monitor(home):
    run(home, "--name", "talks", "busybox", "sh", "-c", "while :; do echo x; sleep 0.01; done")
    for _ in range(5):
        with begun(home, "attach", "talks", stdout=-1) as client:
            client.stdout.read(4)
            client.kill()
    time.sleep(0.2)
    assert minidocker(home, "exec", "talks", "echo", "alive").stdout == "alive\n"


def test_a_stopped_client_loses_nothing_and_keeps_nobody_waiting(home):
    """It gets all of what was written while it stood still, when the container is long gone."""
    script = (
        "i=0; while [ $i -lt 3000 ]; do echo $i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done; sleep 60"
    )
    with begun(home, "create", "--name", "slow", "busybox", "sh", "-c", script, stdout=subprocess.DEVNULL) as made:
        made.wait(20)
    with begun(home, "start", "-a", "slow", stdout=subprocess.PIPE, text=True) as client:
        first = client.stdout.readline()
        client.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        began = time.monotonic()
        assert minidocker(home, "stop", "-t", "1", "slow").stdout == "slow\n"
        assert minidocker(home, "start", "slow").stdout == "slow\n"
        assert minidocker(home, "rm", "-f", "slow").stdout == "slow\n"
        assert time.monotonic() - began < 8
        client.send_signal(signal.SIGCONT)
        lines = [first, *client.stdout.read().splitlines(keepends=True)]
    assert [int(line.partition("-")[0]) for line in lines] == [*range(len(lines))] and len(lines) > 1
    assert until(lambda: not monitors(home))


def test_the_memory_of_a_monitor_does_not_grow_with_output(home):
    run(
        home, "--name", "talks", "busybox", "sh", "-c", "while :; do yes 0123456789 | head -c 1000000; sleep 0.01; done"
    )
    run(home, "-t", "--name", "terminal", "busybox", "sh", "-c", "yes 0123456789")
    for pid in monitors(home):
        time.sleep(0.3)
        before = anonymous(pid)
        time.sleep(1.5)
        assert anonymous(pid) - before < 2048


def anonymous(pid):
    """kB of its own."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_a_line_without_an_end(home):
    """The monitor holds 16 KiB of it at most; the log has it in pieces, the last one at the container's end."""
    run(
        home,
        "--name",
        "line",
        "busybox",
        "sh",
        "-c",
        "head -c 30000000 /dev/zero | tr '\\0' x; sleep 0.5; echo; printf end",
    )
    [pid] = monitors(home)
    peak = 0
    while os.path.exists(f"/proc/{pid}"):
        with contextlib.suppress(OSError, StopIteration):
            peak = max(peak, anonymous(pid))
        time.sleep(0.01)
    assert peak < 40_000
    shown = minidocker(home, "logs", "line").stdout
    assert len(shown) == 30_000_000 + 1 + 3 and shown.endswith("\nend")


def test_half_a_line_in_the_log_costs_one_line(home):
    run(home, "--name", "cut", "busybox", "sh", "-c", "echo one; echo two")
    minidocker(home, "wait", "cut")
    path = next((home / "records").glob("*/log"))
    path.write_bytes(path.read_bytes() + b'{"log": "thr')
    assert minidocker(home, "logs", "cut").stdout == "one\ntwo\n"
    minidocker(home, "start", "-a", "cut")
    assert minidocker(home, "logs", "cut").stdout.count("two") == 2


# Terminals


def test_the_size_is_right_at_the_first_read(home):
    for words in (["run", "-it", "busybox"], ["run", "--rm", "-it", "busybox"]):
        screen = Screen(home, *words, "stty", "size")
        assert screen.wait() == 0
        assert b"31 97" in screen.seen


def test_it_follows_the_size_of_the_window(home):
    screen = Screen(
        home, "run", "-it", "busybox", "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done"
    )
    screen.read(b"ready")
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, bytes([40, 0, 120, 0, 0, 0, 0, 0]))
    screen.read(b"40 120")
    screen.type(b"\x03")
    assert screen.wait() == 130


def test_detach_and_attach(home):
    screen = Screen(home, "run", "-it", "--name", "shell", "busybox", "sh")
    screen.read(b"# ")
    screen.type(b"x=5\n\x10")
    time.sleep(0.3)
    screen.type(b"\x11")
    assert screen.wait() == 0
    assert b"read escape sequence" in screen.seen
    screen = Screen(home, "attach", "--detach-keys", "ctrl-a,b,c", "shell")
    screen.type(b"\necho got-$((x+1))\n")
    screen.read(b"got-6")
    screen.type(b"\x01bx\x01b")  # not the keys, but their beginning
    screen.type(b"c")
    assert screen.wait() == 0
    screen = Screen(home, "attach", "shell")
    screen.type(b"\n")
    screen.read(b"# ")
    screen.type(b"exit 7\n")
    assert screen.wait() == 7
    assert state(home, "shell")["exit_code"] == 7


def test_two_see_the_same(home):
    first = Screen(home, "run", "-it", "--name", "shell", "busybox", "sh")
    first.read(b"# ")
    second = Screen(home, "attach", "shell")
    time.sleep(0.5)
    second.type(b"echo $((40+2))\n")
    first.read(b"42")
    second.read(b"42")
    first.type(b"exit\n")
    assert (first.wait(), second.wait()) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_of_the_command_are_for_the_container(home, number):
    script = f"trap 'echo got; exit 5' {number.value}; echo ready; while :; do sleep 0.05; done"
    with begun(home, "run", "busybox", "sh", "-c", script, stdout=-1, text=True) as command:
        assert command.stdout.readline() == "ready\n"
        command.send_signal(number)
        assert command.communicate(timeout=20)[0] == "got\n"
        assert command.returncode == 5


# Ends


@pytest.mark.parametrize("words", [[], ["-d"]])
@pytest.mark.parametrize(("command", "code"), [("/nosuch", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_executed_is_remembered(home, words, command, code):
    answer = minidocker(home, "run", *words, "--name", "bad", "busybox", command)
    assert answer.returncode == code and answer.stderr.count("\n") == 1
    known = state(home, "bad")
    assert (known["status"], known["exit_code"]) == ("created", code) and command in known["error"]
    assert minidocker(home, "wait", "bad").stdout == f"{code}\n"


def test_what_cannot_be_made_is_125(home):
    answer = minidocker(home, "run", "--name", "bad", "-u", "nosuch", "busybox", "true")
    assert answer.returncode == 125 and "nosuch" in answer.stderr
    assert state(home, "bad")["exit_code"] == 125


def test_a_container_that_removes_itself_takes_its_volumes_along(home):
    run(home, "--rm", "-v", "/data", "--mount", "type=volume,target=/other", "busybox", "true")
    assert until(lambda: not left(home))
    assert minidocker(home, "volume", "ls", "-q").stdout == ""
    answer = minidocker(home, "run", "-d", "--rm", "-v", "/data", "busybox", "/nosuch")
    assert answer.returncode == 127
    assert until(lambda: not left(home))
    assert minidocker(home, "volume", "ls", "-q").stdout == ""


def test_a_renamed_container_removes_its_new_name(home):
    run(home, "--rm", "--name", "old", "busybox", "sleep", "60")
    minidocker(home, "rename", "old", "new")
    assert minidocker(home, "stop", "-t", "0", "new").stdout == "new\n"
    assert until(lambda: not left(home)), left(home)


def test_stop_sends_what_was_asked_for(home):
    for words, number in ((["--stop-signal", "USR1"], 10), ([], 15), (["--stop-signal", "INT"], 2)):
        script = f"trap 'exit {100 + number}' {number}; while :; do sleep 0.05; done"
        run(home, "--name", "stops", *words, "busybox", "sh", "-c", script)
        time.sleep(0.2)
        minidocker(home, "stop", "stops")
        assert state(home, "stops")["exit_code"] == 100 + number
        minidocker(home, "rm", "stops")


def test_a_paused_container_can_be_stopped_killed_and_removed(home):
    for words in (["stop", "-t", "0"], ["kill"], ["rm", "-f"]):
        run(home, "--name", "stands", "busybox", "sleep", "60")
        minidocker(home, "pause", "stands")
        assert minidocker(home, *words, "stands").stdout == "stands\n"
        minidocker(home, "rm", "-f", "stands")


# Restarts


def starts(home, name):
    return [line for line in minidocker(home, "logs", name).stdout.splitlines() if line == "began"]


def test_on_failure_starts_it_again_so_many_times(home):
    run(home, "--restart", "on-failure:2", "--name", "fails", "busybox", "sh", "-c", "echo began; exit 3")
    assert until(lambda: state(home, "fails")["restarts"] == 2, 20)
    assert until(lambda: state(home, "fails")["status"] == "exited", 20)
    assert len(starts(home, "fails")) == 3 and state(home, "fails")["exit_code"] == 3
    run(home, "--restart", "on-failure", "--name", "works", "busybox", "sh", "-c", "echo began")
    assert until(lambda: state(home, "works")["status"] == "exited")
    time.sleep(0.3)
    assert len(starts(home, "works")) == 1


def test_the_pauses_become_longer(home):
    run(home, "--restart", "always", "--name", "fails", "busybox", "sh", "-c", "echo began; exit 3")
    assert until(lambda: len(starts(home, "fails")) >= 4, 20)
    text = next((home / "records").glob("*/log")).read_text()
    times = [json.loads(line)["time"][17:26] for line in text.splitlines()]
    gaps = [(float(two) - float(one)) % 60 for one, two in zip(times, times[1:], strict=False)]
    assert gaps[0] >= 0.1 and gaps[1] >= 0.2 and gaps[2] >= 0.4, "a busy machine makes any of them longer"


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
@pytest.mark.parametrize("verb", [["stop"], ["kill"], ["rm", "-f"]])
def test_what_waits_for_its_restart_can_be_ended(home, policy, verb):
    run(home, "--restart", policy, "--name", "fails", "busybox", "sh", "-c", "echo began; exit 3")
    assert until(lambda: len(starts(home, "fails")) >= 3 and state(home, "fails")["status"] == "restarting", 20)
    began = time.monotonic()
    assert minidocker(home, *verb, "fails").stdout == "fails\n"
    assert time.monotonic() - began < 3
    if verb != ["rm", "-f"]:
        assert state(home, "fails")["status"] == "exited"
        assert minidocker(home, "start", "fails").returncode == 0


def test_who_waits_hears_of_each_end_and_who_stops_of_the_last(home):
    run(home, "--restart", "always", "--name", "comes", "busybox", "sh", "-c", "sleep 0.5; exit 6")
    assert minidocker(home, "wait", "comes").stdout == "6\n"
    assert until(lambda: state(home, "comes")["restarts"] >= 1)
    assert minidocker(home, "stop", "comes").stdout == "comes\n"
    time.sleep(0.5)
    assert state(home, "comes")["status"] == "exited" and not monitors(home)


# What a hostile container may do


def test_its_log_fills_the_disk(home, tmp_path):
    """A container whose home is full runs on, can be used, and ends with its exit code."""
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(full)], check=True)
    try:
        subprocess.run(["cp", "-a", *(str(home / name) for name in ("images", "layers")), str(full)], check=True)
        script = "trap 'exit 9' TERM; head -c 40000000 /dev/zero; echo done >&2; while :; do sleep 0.1; done"
        run(full, "--name", "full", "busybox", "sh", "-c", script)
        assert until(lambda: os.statvfs(full).f_bavail == 0, 20)
        time.sleep(0.5)
        assert minidocker(full, "exec", "full", "echo", "alive").stdout == "alive\n"
        assert minidocker(full, "stop", "-t", "50", "full").stdout == "full\n"  # it reads all of them before
        assert state(full, "full")["exit_code"] == 9
        assert minidocker(full, "rm", "full").stdout == "full\n"
        assert os.statvfs(full).f_bavail > 0
        assert until(lambda: not left(full)), left(full)
    finally:
        clean(full)
        subprocess.run(["umount", "-l", str(full)], check=True)


def test_a_limit_on_the_size_of_files_does_not_end_the_monitor(home):
    """The kernel sends it SIGXFSZ, and EFBIG: as on a full disk, the log lacks something."""
    script = "head -c 6000000 /dev/zero | tr '\\0' x; exit 9"
    run(home, "--name", "limited", "busybox", "sh", "-c", script, preexec_fn=lambda: limit(4_000_000))
    assert minidocker(home, "wait", "limited").stdout == "9\n"
    assert until(lambda: not monitors(home))
    assert state(home, "limited")["exit_code"] == 9


def limit(size):
    """RLIMIT_FSIZE of this process and of those to come."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_what_cannot_be_let_go_of_does_not_hide_the_exit_code(home):
    """A wall whose end fails on a full disk: the container has ended as it has."""
    program = """
import errno, sys
from minidocker.cli import containers
from minidocker.engine import monitor, records
from minidocker.isolator import Isolator

class Full(Isolator):
    def __exit__(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

def make(record):
    command, walls, settings = containers._make(record)
    return command, [*walls, Full()], settings

monitor.begin(records.find("full"), make)
"""
    minidocker(home, "create", "--network=none", "--name", "full", "busybox", "sh", "-c", "exit 9")
    subprocess.run([sys.executable, "-c", program], env=environment(home), check=True)
    assert minidocker(home, "wait", "full").stdout == "9\n"
    assert state(home, "full")["exit_code"] == 9 and "No space left" in state(home, "full")["error"]


def test_on_a_full_disk_nothing_is_created_or_all(home, tmp_path):
    """What has a record has room for its state, so it is not taken for one that never began."""
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(full)], check=True)
    try:
        subprocess.run(["cp", "-a", *(str(home / name) for name in ("images", "layers")), str(full)], check=True)
        run(full, "--name", "first", "busybox", "true")
        minidocker(full, "wait", "first")
        minidocker(full, "create", "--name", "made", "--network=none", "busybox", "sh", "-c", "exit 9")
        with contextlib.suppress(OSError), open(full / "much", "wb", 0) as file:
            while file.write(bytes(4096)):
                pass
        answer = minidocker(full, "run", "-d", "--name", "late", "busybox", "true")
        assert answer.returncode == 125 and "No space left" in answer.stderr and answer.stderr.count("\n") == 1
        assert minidocker(full, "ps", "-aq", "--filter", "name=late").stdout == ""
        minidocker(full, "start", "made")
        assert minidocker(full, "wait", "made").stdout == "9\n"
        assert state(full, "made")["exit_code"] == 9
    finally:
        clean(full)
        subprocess.run(["umount", "-l", str(full)], check=True)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exec <&- >&- 2>&-; sleep 0.3; exit 4", 4),
        ("(sleep 60 &) ; (setsid sleep 60 &) ; echo out; exit 5", 5),
        ("kill -9 -1; exit 6", 6),
        ("trap '' TERM INT HUP QUIT; kill -TERM 1; kill -9 1; exit 7", 7),
        ("ulimit -n 5; exit 9", 9),
        (": >/dev/stdout; echo x >/proc/1/fd/1; exit 3", 3),
    ],
)
@pytest.mark.parametrize("words", [[], ["-t"], ["-i"]])
def test_what_a_container_does_to_its_streams_and_processes(home, words, script, code):
    run(home, *words, "--name", "odd", "busybox", "sh", "-c", script)
    assert minidocker(home, "wait", "odd").stdout == f"{code}\n"
    assert until(lambda: not monitors(home))
    assert state(home, "odd")["exit_code"] == code


def test_it_changes_its_user_and_its_monitor_is_killed(home):
    run(home, "-u", "12345", "--name", "other", "busybox", "sleep", "61.3")
    pid = state(home, "other")["pid"]
    [monitor] = monitors(home)
    os.kill(monitor, signal.SIGKILL)
    assert until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert minidocker(home, "wait", "other").stdout == "137\n"
    assert minidocker(home, "start", "other").stdout == "other\n"


def test_nobody_reads_and_nobody_types(home):
    """Neither stops the container from ending."""
    run(home, "-t", "--name", "loud", "busybox", "sh", "-c", "yes & sleep 0.5; exit 3")
    assert minidocker(home, "wait", "loud").stdout == "3\n"


def test_a_screen_that_nobody_looks_at(home):
    """Without a client all goes to the log. For one that does not read the container waits, and can be used."""
    run(home, "-t", "--name", "counts", "busybox", "sh", "-c", "seq 50000; exit 3")
    assert minidocker(home, "wait", "counts").stdout == "3\n"
    assert minidocker(home, "logs", "counts").stdout.split() == [str(number) for number in range(1, 50001)]
    run(home, "-t", "--name", "loud", "busybox", "sh", "-c", "yes 0123456789 & trap 'exit 9' TERM; wait")
    log = (home / "names/loud").resolve() / "log"
    screen = Screen(home, "attach", "loud")
    assert until(lambda: stands(log), 20), "nobody reads, and the log grows on"
    assert minidocker(home, "exec", "loud", "echo", "alive").stdout == "alive\n"
    assert minidocker(home, "stop", "loud").stdout == "loud\n"
    assert state(home, "loud")["exit_code"] == 9
    assert screen.wait() == 9 and screen.seen.count(b"0123456789") > 100


def stands(file):
    """Whether a file does not grow for a moment."""
    before = file.stat().st_size
    time.sleep(0.5)
    return before and file.stat().st_size == before

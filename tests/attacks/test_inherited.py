"""Attacks on what a new process inherits from its caller: descriptors, umask, signals, a working directory.

fork(2) and execve(2) hand on more than one thinks of, and a caller may be in any state. The table is in chapter 0.
"""

import os
import signal
import subprocess
import sys

import pytest

from minidocker.process import ContainerError, run
from tests.helpers import both_ways, need, python
from tests.helpers.images import HOME, minidocker

pytestmark = pytest.mark.chapter(0)

THREAD = """
    import os, sys, threading
    if sys.argv[1] == "launcher":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

# It closes streams, and tells what it saw in a file.
CLOSES = (
    THREAD
    + """
    from minidocker.process import ContainerError, run
    from tests.helpers.isolators import whole_list
    closed = [int(digit) for digit in sys.argv[2]]
    for number in closed:
        os.close(number)
    with open(sys.argv[3], "w") as answer:
        os.dup2(answer.fileno(), 20)
    said = []
    for number in closed:
        try:
            run(["true"], *whole_list(), **{["stdin", "stdout", "stderr"][number]: number})
        except ContainerError as refused:
            said.append(str(refused))
    inside = run(["sh", "-c", "readlink /proc/self/fd/0; ls /proc/self/fd/0/.. 2>&1; ls /proc/self/fd"], *whole_list())
    again = run(["readlink", "/proc/self/fd/0"], *whole_list(), stdin=0)
    os.write(20, repr((said, inside.stdout.split(), again.stdout)).encode())
"""
)


@pytest.mark.parametrize("how", ["fork", "launcher"])
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "012"])
def test_a_stream_that_the_caller_closed_is_no_descriptor_of_ours(how, closed, tmp_path):
    """CVE-2024-21626's family: the lock of a cgroup's directory got number 0, and /proc/self/fd/0/../.. is the host."""
    need(os.geteuid() == 0, "walls need root")
    python(CLOSES, how, closed, str(tmp_path / "answer"))
    said, inside, again = eval((tmp_path / "answer").read_text())
    if "0" in closed:  # else our own answer is at the number that was closed
        assert said[0] == "descriptor 0 is closed, and can be no stream of a command"
        assert again == "/dev/null\n"
    assert inside[0].startswith("/memfd:") and "Not" in inside and inside[-4:] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]])
def test_the_command_puts_dev_null_where_the_caller_closed_a_stream(closed):
    need(os.geteuid() == 0, "walls need root")
    code = (
        "for n in 0 1 2; do all=$all$(readlink /proc/1/fd/$n); done; test $(echo $all | grep -o /dev/null | wc -l) = $0"
    )
    answer = subprocess.run(
        [sys.executable, "-m", "minidocker", "run", "--rm", "-i", "busybox", "sh", "-c", code, str(len(closed))],
        preexec_fn=lambda: [os.close(number) for number in closed],
        stdin=subprocess.PIPE,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MINIDOCKER_HOME": str(HOME)},
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr


@both_ways
def test_a_directory_is_no_stream():
    """With it the command would leave any root: its own descriptor 0 is a way to the host's files."""
    directory = os.open("/", os.O_RDONLY)
    try:
        for stream in ("stdin", "stdout", "stderr"):
            with pytest.raises(ContainerError, match="is a directory: the command could leave its root through it"):
                run(["true"], **{stream: directory})
    finally:
        os.close(directory)


IGNORES = (
    THREAD
    + """
    import signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN if sys.argv[2] == "ignores" else lambda *_: os.waitpid(-1, os.WNOHANG))
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    from minidocker.process import run
    print([run(["sh", "-c", f"exit {code}"]).exit_code for code in range(20)] == list(range(20)))
    print(run(["grep", "SigBlk", "/proc/self/status"]).stdout.split()[1])
"""
)


@pytest.mark.parametrize("how", ["fork", "launcher"])
@pytest.mark.parametrize("what", ["ignores", "collects"])
def test_the_exit_code_reaches_a_caller_that_ignores_sigchld_or_collects_all_children(how, what):
    assert python(IGNORES, how, what).stdout.split() == ["True", "0" * 16]


@pytest.mark.parametrize("words", [(), ("--init",)])
def test_the_command_tells_the_exit_code_under_any_inherited_signal_handling(words):
    need(os.geteuid() == 0, "walls need root")

    def strange():
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    code = "grep -E 'SigBlk|SigIgn' /proc/self/status; exit 7"
    answer = minidocker(HOME, "run", "--rm", *words, "busybox", "sh", "-c", code, preexec_fn=strange)
    assert answer.returncode == 7, answer.stderr
    masks = [int(line.split()[1], 16) for line in answer.stdout.splitlines()]
    assert masks[0] == 0 and masks[1] & ~(0b11 << 31) in (0, 1 << signal.SIGQUIT - 1)  # busybox's shell ignores SIGQUIT


@both_ways
def test_modes_do_not_depend_on_the_umask_of_the_caller(tmp_path):
    old = os.umask(0o077)
    try:
        run(["sh", "-c", f"mkdir {tmp_path}/d; touch {tmp_path}/f"])
        run(lambda: os.mkdir(f"{tmp_path}/e"))
    finally:
        os.umask(old)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in "dfe"] == ["0o755", "0o644", "0o755"]


@both_ways
def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run(["pwd"], cwd="/usr").stdout == "/usr\n"
    assert run(["echo", "hi"]).stdout == "hi\n"
    monkeypatch.chdir("/")

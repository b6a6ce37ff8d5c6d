"""Chapter 0: one process, started in both ways: by a fork of the caller, and by the launcher."""

import contextlib
import errno
import functools
import os
import pathlib
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from minidocker import child, launcher, syscalls
from minidocker.process import ContainerError, ContainerTimeout, Isolator, run, start
from minidocker.terminal import Terminal, copy_size
from tests.helpers import REPO, both_ways, children, need, python, runs, until
from tests.helpers.isolators import BadUnpickle, Diary, Imports, Kills, ListsDescriptors, Raises, ReadsDescriptor
from tools.learner.nobody import PYTHON, as_nobody

pytestmark = pytest.mark.chapter(0)


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


# Which way


def test_the_way_depends_on_the_number_of_threads(way, monkeypatch):
    with start(["sleep", "60"]) as process:  # something that is still there when /proc is read
        assert type(process._parent) is {"fork": child.Forked, "launcher": launcher.Launched}[way]
        parent = process._parent
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    asked = int(status.split("PPid:")[1].split()[0])
    assert (asked == os.getpid()) is isinstance(parent, child.Forked)


# Exit codes, signals


@both_ways
def test_every_exit_code_comes_back():
    assert [run(["sh", "-c", f"exit {code}"]).exit_code for code in range(256)] == list(range(256))


@both_ways
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP, signal.SIGRTMIN + 1])
def test_a_signal_is_128_plus_its_number(number):
    result = run(["sh", "-c", f"kill -{int(number)} $$"])
    assert (result.exit_code, result.signal) == (128 + number, number)


@both_ways
def test_signals_of_the_caller_are_not_inherited():
    """Python ignores SIGPIPE; a command that inherited this would write into a closed pipe for ever."""
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        status = run(["cat", "/proc/self/status"]).stdout
    finally:
        signal.signal(signal.SIGUSR1, ignored)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    c_librarys_own = 0b11 << 31  # 32 and 33 have no names, and posix_spawn of glibc leaves them ignored
    ignored = int(fields["SigIgn"], 16) & ~c_librarys_own
    assert (ignored, int(fields["SigBlk"], 16), int(fields["SigCgt"], 16)) == (0, 0, 0)


# What it reads and writes


@both_ways
def test_stdin_text_bytes_and_descriptor(tmp_path):
    (tmp_path / "file").write_bytes(b"from a file")
    assert run(["cat"], stdin="text: ä").stdout == "text: ä"
    assert run(["cat"], stdin=b"bytes").stdout == "bytes"
    assert run(["cat"]).stdout == ""
    with open(tmp_path / "file") as file:
        assert run(["cat"], stdin=file.fileno()).stdout == "from a file"
    assert len(run(["cat"], stdin=b"x" * 10_000_000).stdout) == 10_000_000


@both_ways
def test_ten_megabytes_on_both_streams_at_once():
    code = "yes out | head -c 10485760 & yes error | head -c 10485760 >&2; wait"
    result = run(["sh", "-c", code])
    assert result.stdout == ("out\n" * 2_621_440)
    assert len(result.stderr) == 10_485_760 and set(result.stderr.split()) <= {"error", "err", "erro", "er", "e"}


@both_ways
def test_bytes_that_are_not_text():
    assert run(["printf", r"a\377\000b"]).stdout == "a\\xff\0b"


@both_ways
def test_output_to_a_descriptor(tmp_path):
    with open(tmp_path / "out", "w") as out:
        result = run(["sh", "-c", "echo out; echo error >&2"], stdout=out.fileno())
    assert (tmp_path / "out").read_text() == "out\n"
    assert (result.stdout, result.stderr) == ("", "error\n")
    with open(tmp_path / "out", "w") as out:
        result = run(["sh", "-c", "echo out; echo error >&2"], stdout=out.fileno(), stderr=out.fileno())
    assert (tmp_path / "out").read_text() == "out\nerror\n"
    assert (result.stdout, result.stderr) == ("", "")


@both_ways
def test_a_descriptor_that_is_closed():
    with pytest.raises(ContainerError, match="descriptor"):
        run(["true"], stdout=12345)


@both_ways
def test_lines_arrive_before_the_end(tmp_path):
    os.mkfifo(tmp_path / "go")
    with start(["sh", "-c", f"echo one; echo two; read x < {tmp_path}/go; printf 'three\\nfour'"]) as process:
        lines = process.lines()
        assert [next(lines), next(lines)] == ["one", "two"]
        assert process.alive()
        (tmp_path / "go").write_text("go\n")
        assert list(lines) == ["three", "four"]
        result = process.wait()
    assert (result.exit_code, result.stdout) == (0, "one\ntwo\nthree\nfour")


@both_ways
def test_lines_are_those_of_stdout(tmp_path):
    with start(["sh", "-c", "echo error >&2; sleep 0.1; echo out"]) as process:
        assert list(process.lines()) == ["out"]
        assert process.wait().stderr == "error\n"
    with open(os.devnull, "w") as null, start(["sh", "-c", "echo error >&2"], stdout=null.fileno()) as process:
        assert list(process.lines()) == []


@both_ways
@pytest.mark.parametrize("leftover", ["sleep 60", "yes", "setsid sleep 60", "setsid yes"])
def test_its_end_counts_and_not_the_end_of_what_it_left_running(leftover):
    began = time.monotonic()
    result = run(["sh", "-c", f"{leftover} & echo $!; exit 3"])
    try:
        assert result.exit_code == 3
        assert time.monotonic() - began < 10
    finally:
        pid = int(result.stdout.replace("y\n", "").split()[0])
        if "setsid" in leftover:
            with contextlib.suppress(ProcessLookupError):  # nobody reads what `yes` writes: it may have ended
                os.kill(pid, signal.SIGKILL)
    assert until(lambda: not runs(pid))


# Surroundings


@both_ways
def test_the_environment_is_exactly_what_is_given():
    os.environ["MINIDOCKER_SECRET"] = "host"
    try:
        assert run(["env"], env={"PATH": "/usr/bin:/bin", "A": "1", "EMPTY": ""}).stdout.splitlines() == [
            "PATH=/usr/bin:/bin",
            "A=1",
            "EMPTY=",
        ]
        assert run(["env"]).stdout == f"PATH={child.DEFAULT_PATH}\n"
        assert run(["/usr/bin/env"], env={}).stdout == ""
    finally:
        del os.environ["MINIDOCKER_SECRET"]


@both_ways
def test_the_working_directory(tmp_path, monkeypatch):
    assert run(["pwd"], cwd="/usr").stdout == "/usr\n"
    monkeypatch.chdir(tmp_path)
    assert run(["pwd"]).stdout == f"{tmp_path}\n"
    (tmp_path / "below").mkdir()
    assert run(["pwd"], cwd="below").stdout == f"{tmp_path}/below\n"


@both_ways
def test_a_missing_working_directory():
    with pytest.raises(ContainerError, match=r"chdir\(/no-such\): No such file") as caught:
        run(["true"], cwd="/no-such")
    assert (caught.value.syscall, caught.value.errno, caught.value.path) == ("chdir", errno.ENOENT, "/no-such")
    assert caught.value.exit_code == 125


@both_ways
def test_only_three_descriptors_are_open(tmp_path):
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        inside = run(["ls", "-l", "/proc/self/fd"]).stdout
        before = run(["true"], ListsDescriptors()).stdout
    numbers = [line.split(" -> ")[0].split()[-1] for line in inside.splitlines() if " -> " in line]
    assert numbers == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert "secret" not in inside + before
    assert len(before.splitlines()) <= 6  # and gate, report, and the one with which it looks


@both_ways
def test_the_descriptors_of_an_isolator_keep_their_numbers():
    run(["true"])  # so that launcher and watcher are there
    before = descriptors()
    result = run(["ls", "/proc/self/fd"], ReadsDescriptor(), ReadsDescriptor())
    assert result.stdout == "from the hostfrom the host0\n1\n2\n3\n"
    assert descriptors() == before


@both_ways
def test_umask_session_and_process_group():
    old = os.umask(0o077)
    try:
        status = run(["sh", "-c", "umask; cut -d' ' -f1,5,6,7 /proc/self/stat; echo $$"]).stdout.split()
    finally:
        os.umask(old)
    umask, _, group, session, terminal, pid = status
    assert (umask, group, session, terminal) == ("0022", pid, pid, "0")


# Time


@both_ways
def test_a_timeout_keeps_what_was_written():
    began = time.monotonic()
    with pytest.raises(ContainerTimeout, match=r"sh: killed.* 0\.5 s") as caught:
        run(["sh", "-c", "echo partial; echo too >&2; sleep 60"], timeout=0.5)
    assert time.monotonic() - began < 10
    assert (caught.value.result.stdout, caught.value.result.stderr) == ("partial\n", "too\n")
    assert caught.value.exit_code == caught.value.result.exit_code == 137


@both_ways
def test_a_timeout_that_is_not_reached():
    assert run(["echo", "quick"], timeout=60).stdout == "quick\n"


@both_ways
def test_wait_can_be_tried_again():
    with start(["sh", "-c", "echo a; sleep 0.3; echo b"]) as process:
        with pytest.raises(TimeoutError):
            process.wait(0.05)
        assert process.wait().stdout == "a\nb\n"
        assert process.wait() is process.result


@both_ways
def test_stop_asks_then_kills():
    polite = ["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done"]
    deaf = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]
    with start(polite) as process:
        next(process.lines())
        assert (process.stop().exit_code, process.result.stdout) == (7, "ready\nbye\n")
    with start(deaf) as process:
        next(process.lines())
        began = time.monotonic()
        assert process.stop(grace=0.3).exit_code == 137
        assert 0.3 <= time.monotonic() - began < 5


@both_ways
def test_leaving_the_block_kills_it():
    with start(["sleep", "60"]) as process:
        assert process.alive()
    assert not process.alive()
    assert process.result.signal == signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # to nobody, and no error


# Isolators


@both_ways
def test_the_four_moments_in_their_order(tmp_path, way):
    diary = tmp_path / "diary"
    result = run(["sh", "-c", f"echo the command $$ >> {diary}"], Diary(diary, "first"), Diary(diary, "second"))
    assert result.exit_code == 0
    *lines, last = [line.split() for line in diary.read_text().splitlines()]
    pid, host = lines[4][2], str(os.getpid())
    assert [*lines, last] == [
        ["first", "enter", host],
        ["second", "enter", host],
        ["first", "attach", pid],
        ["second", "attach", pid],
        ["first", "inside", pid],
        ["second", "inside", pid],
        ["the", "command", pid],
        ["second", "exit", host],
        ["first", "exit", host],
    ]


@both_ways
@pytest.mark.parametrize("moment", ["__enter__", "attach", "inside", "__exit__"])
@pytest.mark.parametrize("how", ["syscall", "mistake"])
def test_a_failure_at_each_moment(tmp_path, moment, how):
    run(["true"])  # so that launcher and watcher are there
    diary = tmp_path / "diary"
    before, family = descriptors(), children()
    expected = ContainerError if how == "syscall" or moment == "inside" else ValueError
    with pytest.raises(expected) as caught:
        run(["sh", "-c", f"echo ran >> {diary}"], Diary(diary, "first"), Raises(moment, how), Diary(diary, "last"))
    if how == "syscall":
        error = caught.value
        found = (error.isolator, error.syscall, error.errno, error.path, error.exit_code)
        assert found == ("Raises", "mount", errno.ENOENT, "/no-such", 125)
        assert str(error) == "Raises: mount(/no-such): No such file or directory"
    elif moment == "inside":
        assert "Raises: ValueError: a mistake (line" in str(caught.value)
    lines = [" ".join(line.split()[:2]) for line in diary.read_text().splitlines()]
    assert (
        lines
        == {
            "__enter__": ["first enter", "first exit"],
            "attach": ["first enter", "last enter", "first attach", "last exit", "first exit"],
            "inside": ["first enter", "last enter", "first attach", "last attach", "first inside"]
            + ["last exit", "first exit"],
            "__exit__": [
                "first enter",
                "last enter",
                "first attach",
                "last attach",
                "first inside",
                "last inside",
                "ran",
            ]
            + ["last exit", "first exit"],
        }[moment]
    )
    assert descriptors() == before
    assert set(children()) <= {*family, *launchers()}


def launchers():
    """Children that are launchers, which stay."""
    return [pid for pid in children() if b"minidocker.launcher" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]


@both_ways
def test_killed_before_the_command():
    with pytest.raises(ContainerError, match="echo: it ended before it began: killed") as caught:
        run(["echo", "hello"], Kills())
    assert caught.value.exit_code == 125


def test_an_isolator_that_the_launcher_cannot_rebuild(second_thread):
    with pytest.raises(ContainerError, match="ValueError: cannot be rebuilt"):
        run(["true"], BadUnpickle())
    assert run(["echo", "next"]).stdout == "next\n"


def test_an_isolator_of_ours_that_holds_what_the_launcher_cannot_rebuild(second_thread):
    isolator = Isolator()
    isolator.anything = BadUnpickle()
    with start(["sleep", "60"]) as other:
        with pytest.raises(ContainerError, match="ValueError: cannot be rebuilt"):
            run(["true"], isolator)
        assert other.alive()


def test_an_isolator_that_cannot_be_pickled(second_thread):
    isolator = Diary("/dev/null")
    isolator.lock = threading.Lock()
    with pytest.raises(ContainerError, match="an isolator holds what cannot be sent.*_thread.lock"):
        run(["true"], isolator)


@pytest.fixture
def second_thread():
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    yield
    release.set()
    thread.join()


@both_ways
def test_a_late_import_is_refused_by_name():
    with pytest.raises(
        ContainerError, match=r"Imports: ImportError: import of 'sndhdr2' inside the container"
    ) as caught:
        run(["true"], Imports("sndhdr2"))
    assert caught.value.isolator == "Imports"


@both_ways
def test_a_late_import_never_runs_the_roots_code(tmp_path):
    """The family of CVE-2019-14271: the container's root holds a module of the name that is imported inside."""
    need(os.geteuid() == 0, "chroot needs root")
    evil = f"import os; open({str(tmp_path)!r} + '/proof', 'w'); open('/proof', 'w'); os.write(1, b'owned')"
    places = {"", *sys.path, os.path.dirname(os.__file__)}
    for place in places:
        directory = pathlib.Path(f"{tmp_path}/{place}")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "evil_module.py").write_text(evil)
    with pytest.raises(ContainerError, match="import of 'evil_module' inside"):
        run(["true"], Imports("evil_module", str(tmp_path)))
    assert not (tmp_path / "proof").exists()


# Commands that cannot run


@both_ways
def test_commands_that_cannot_be_executed(tmp_path):
    files = {"plain": ("echo hi", 0o644), "garbage": ("\1\2\3", 0o755), "no-interpreter": ("#!/no/such\n", 0o755)}
    for name, (text, mode) in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    cases = {
        "no-such-program": (127, "no-such-program: command not found"),
        f"{tmp_path}/no-such-program": (127, "command not found"),
        f"{tmp_path}/plain": (126, "cannot be executed: permission denied"),
        f"{tmp_path}": (126, "cannot be executed: permission denied"),
        f"{tmp_path}/garbage": (126, "cannot be executed: exec format error"),
        f"{tmp_path}/no-interpreter": (127, "its interpreter or dynamic loader is not in this root"),
        f"{tmp_path}/plain/below": (127, "not found"),
    }
    family = children()
    for program, (code, text) in cases.items():
        with pytest.raises(ContainerError, match=text) as caught:
            run([program])
        assert (caught.value.exit_code, caught.value.syscall) == (code, "execve")
        assert "\n" not in str(caught.value) and program in str(caught.value)
    assert set(children()) <= {*family, *launchers()}


@both_ways
def test_path_is_searched_in_the_environment_given(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hello").write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name / "hello").chmod(0o755)
    path = f"/no-such:{tmp_path}/two:{tmp_path}/one"
    assert run(["hello"], env={"PATH": path}).stdout == "two\n"
    (tmp_path / "two" / "hello").chmod(0o644)
    assert run(["hello"], env={"PATH": path}).stdout == "one\n"


@both_ways
@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "the command is empty"),
        ([""], "the command is empty"),
        (["echo", "a\0b"], "a NUL byte in 'a"),
        ("ls -l", r"must be a list of words, not 'ls -l': write \['ls', '-l'\]"),
        (b"ls", "must be a list of words"),
        (["echo", 5], "5"),
    ],
)
def test_commands_that_are_refused_before_anything_is_made(argv, text, tmp_path):
    with pytest.raises(ContainerError, match=text) as caught:
        run(argv, Diary(tmp_path / "diary"))
    assert caught.value.exit_code == 125
    assert not (tmp_path / "diary").exists()


@both_ways
def test_a_nul_byte_or_an_equals_sign_in_the_environment():
    with pytest.raises(ContainerError, match="NUL byte"):
        run(["true"], env={"A": "x\0y"})
    with pytest.raises(ContainerError, match="environment"):
        run(["true"], env={"A=B": "x"})


@both_ways
def test_words_may_be_bytes_and_paths():
    assert run([b"echo", pathlib.Path("a/b"), "ä", "\udcff"]).stdout == "a/b ä \\xff\n"


@both_ways
def test_too_many_words():
    with pytest.raises(ContainerError, match="argument list too long") as caught:
        run(["echo", *["x" * 100_000] * 100])
    assert caught.value.exit_code == 126


# A function as the command


def says(text):
    print(text)
    print("error", file=sys.stderr)


def fails_in_a_call():
    print("before")
    syscalls.mount("proc", "/no-such", "proc")


def has_a_mistake():
    return 1 // 0


def refuses():
    raise ContainerError("a line for people")


@both_ways
def test_a_function_runs_inside_with_the_streams_of_the_container(tmp_path):
    diary = tmp_path / "diary"
    result = run(functools.partial(says, "hello"), Diary(diary), cwd="/usr")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "hello\n", "error\n")
    assert [line.split()[1] for line in diary.read_text().splitlines()] == ["enter", "attach", "inside", "exit"]
    assert run(lambda: print(os.getcwd(), os.read(0, 10)), cwd="/usr", stdin=b"abc").stdout == "/usr b'abc'\n"


@both_ways
def test_the_failure_of_a_function_reaches_the_caller_as_that_of_an_isolator_does():
    run(["true"])  # so that launcher and watcher are there
    before = descriptors()
    with pytest.raises(ContainerError, match=r"mount\(/no-such\): No such file") as caught:
        run(fails_in_a_call)
    error = caught.value
    assert (error.syscall, error.errno, error.path, error.exit_code) == ("mount", errno.ENOENT, "/no-such", 125)
    with pytest.raises(ContainerError, match="ZeroDivisionError.*of has_a_mistake"):
        run(has_a_mistake)
    with pytest.raises(ContainerError, match="^a line for people$"):
        run(refuses)
    assert descriptors() == before


@both_ways
def test_two_functions_with_a_pipe_between_them():
    """`start` returns when a function begins; a pipe of 64 KiB is full long before either ends."""
    ours, theirs = os.pipe()
    with start(lambda: os.write(1, b"x" * 1_000_000) and None, stdout=theirs) as writer:
        os.close(theirs)
        with start(lambda: print(len(open(0, "rb").read())), stdin=ours) as reader:
            os.close(ours)
            assert (writer.wait().exit_code, reader.wait().stdout) == (0, "1000000\n")


@both_ways
def test_a_function_imports_nothing_inside():
    def late():
        import sndhdr  # noqa: F401

    with pytest.raises(ContainerError, match="import of 'sndhdr' inside the container"):
        run(late)


# Terminals


@both_ways
def test_a_terminal():
    with start(["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty && cat"], Terminal()) as process:
        lines = process.lines()
        assert next(lines).startswith("/dev/pts/")
        os.write(process.terminal, b"typed\n")
        assert [next(lines), next(lines)] == ["typed", "typed"]  # the terminal's echo, and cat
        os.write(process.terminal, b"\x04")
        assert list(lines) == []
        assert process.wait().exit_code == 0


@both_ways
def test_ctrl_c_typed_is_a_signal_to_the_command():
    code = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.01; done"
    with start(["sh", "-c", code], Terminal()) as process:
        lines = process.lines()
        assert next(lines) == "ready"
        os.write(process.terminal, b"\x03")
        assert "caught" in list(lines)[0]
        assert process.wait().exit_code == 5


@both_ways
def test_a_change_of_the_windows_size_arrives():
    ours, theirs = os.openpty()
    subprocess.run(["stty", "rows", "12", "cols", "34"], stdin=theirs, check=True)
    with start(["sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"], Terminal()) as process:
        lines = process.lines()
        assert next(lines) == "ready"
        copy_size(theirs, process.terminal)
        assert next(lines) == "12 34"
    os.close(ours), os.close(theirs)


INTERACT = """
    import sys, threading
    from minidocker.process import start
    from minidocker.terminal import Terminal, interact
    if sys.argv[1] == "launcher":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with start(["sh"], Terminal(), env={"PATH": "/usr/bin:/bin", "TERM": "dumb", "PS1": "> "}) as process:
        sys.exit(interact(process).exit_code)
"""


def typed(terminal, text, expected):
    """Type `text`; return what appears up to `expected`."""
    os.write(terminal, text)
    seen = b""
    while expected not in seen:
        assert select.select([terminal], [], [], 10)[0], f"nothing more after {seen}"
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.parametrize("how", ["fork", "launcher"])
def test_interact_through_a_real_terminal(how):
    outer, user = os.openpty()
    subprocess.run(["stty", "rows", "20", "cols", "70"], stdin=user, check=True)
    before = subprocess.run(["stty", "-g"], stdin=user, capture_output=True, check=True).stdout
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = [sys.executable, "-c", textwrap.dedent(INTERACT), how]
    host = subprocess.Popen(["setsid", "--ctty", *code], stdin=user, stdout=user, stderr=user, env=env)
    typed(outer, b"", b"> ")
    typed(outer, b"stty size\r", b"20 70\r\n> ")
    typed(outer, b"cat\r", b"cat\r\n")
    typed(outer, b"hello\r", b"hello\r\nhello\r\n")
    typed(outer, b"\x03", b"> ")  # Ctrl-C ends cat in the container, not the host program
    subprocess.run(["stty", "rows", "30", "cols", "90"], stdin=user, check=True)
    assert until(lambda: b"30 90" in typed(outer, b"stty size\r", b"\r\n> "))
    os.write(outer, b"exit 9\r")
    assert host.wait(10) == 9
    assert subprocess.run(["stty", "-g"], stdin=user, capture_output=True, check=True).stdout == before
    os.close(outer), os.close(user)


def test_interact_without_a_terminal():
    code = INTERACT.replace("interact(process)", "interact(process, keyboard=0, screen=1)")
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), "fork"],
        input=b"echo $((6 * 7))\nexit 4\n",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=30,
    )
    assert answer.returncode == 4, answer.stderr
    assert b"42\r\n" in answer.stdout


@pytest.mark.parametrize("threads", [1, 2])
def test_no_container_begins_that_nobody_would_end(tmp_path, threads):
    """The watcher cannot begin, as on a machine that refuses it something: here its program is spoiled."""
    code = """
        import sys, threading
        from minidocker import child, launcher
        from minidocker.process import ContainerError, run
        launcher.BOOT = launcher.BOOT.replace("serve(", "import minidocker.child as c; c._settle = None; serve(")
        child._settle = None
        if sys.argv[2] == "2":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        for _ in range(2):
            try:
                run(["sh", "-c", "echo >$0", sys.argv[1]])
            except ContainerError as error:
                print(error)
    """
    answer = python(code, str(tmp_path / "begun"), str(threads))
    assert answer.stdout == "the watcher, which ends containers when their owner ends, could not begin\n" * 2
    assert not (tmp_path / "begun").exists()


# Many threads, many runs


def test_fifty_threads_with_twenty_runs_each():
    before = descriptors()
    wrong = []

    def work(number):
        for turn in range(20):
            text = f"{number} {turn}"
            result = run(["sh", "-c", f"echo {text}; exit {number}"])
            if (result.stdout, result.exit_code) != (text + "\n", number):
                wrong.append((text, result))

    threads = [threading.Thread(target=work, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(descriptors()) <= len(before) + 1  # the launcher's socket


@both_ways
def test_a_thousand_runs_leave_nothing():
    run(["true"])
    before, family = descriptors(), children()
    for _ in range(1000):
        run(["true"])
    assert descriptors() == before
    assert children() == family
    for pid in launchers():
        assert until(lambda pid=pid: len(os.listdir(f"/proc/{pid}/fd"))) <= 7
        assert children(pid) == []


def test_received_descriptors_are_closed_on_exec(second_thread):
    """Another thread of a Jupyter kernel may execute a program at any time; it must not get ours."""
    with start(["sleep", "60"]) as process:
        mine = [process.pidfd, process.channel]
        assert [os.get_inheritable(number) for number in mine] == [False, False]


# The launcher


def launcher_pid():
    """The launcher of this process, which has been asked at least once."""
    run(["true"])
    return launchers()[-1]


def test_the_launcher_is_killed_and_the_next_run_starts_another(second_thread):
    old = launcher_pid()
    with start(["sleep", "60"]) as process:
        os.kill(old, signal.SIGKILL)
        assert process.wait().exit_code == 137  # its containers die with it
    assert run(["echo", "again"]).stdout == "again\n"
    new = launcher_pid()
    assert new != old
    assert old not in children(), "the old launcher is a zombie"


def test_the_launcher_is_killed_again_and_again(second_thread):
    """An order may reach a launcher that is just dying; then the next one takes it."""
    for turn in range(20):
        os.kill(launcher_pid(), signal.SIGKILL)
        assert run(["echo", str(turn)]).stdout == f"{turn}\n"


def test_the_launcher_is_killed_while_the_new_process_is_inside(second_thread, tmp_path):
    diary = tmp_path / "diary"
    with pytest.raises(ContainerError):
        run(["true"], KillsLauncher(), Diary(diary))
    assert "exit" in diary.read_text()
    assert run(["echo", "again"]).stdout == "again\n"


class KillsLauncher(Isolator):
    def attach(self, pid):
        os.kill(launchers()[-1], signal.SIGKILL)
        assert until(lambda: ended(pid)), "the new process did not die with the launcher"


def ended(pid):
    """Whether a process is a zombie, or not even that."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_launcher_follows_the_working_directory_and_survives_a_broken_module_path(second_thread, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, "/no-such"])
    assert run(["echo", "works"]).stdout == "works\n"


HOST = """
    import os, sys, threading, time
    from minidocker.process import start
    if sys.argv[1] == "launcher":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    process = start(["sh", "-c", "sleep 61 & sleep 62"])
    print(process.pid, os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["fork", "launcher"])
def test_containers_die_with_a_caller_that_is_killed(how):
    host = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOST), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with host:
        pid = int(host.stdout.readline().split()[0])
        family = children(host.pid)
        assert os.path.exists(f"/proc/{pid}")
        host.kill()
    assert until(lambda: not any(map(runs, [pid, *family])))


def test_a_forked_child_of_the_caller_gets_a_launcher_of_its_own():
    answer = python("""
        import os, threading
        from minidocker.process import run
        def threads():
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        parent = "/proc/%d/stat"
        ask = ["sh", "-c", "cut -d' ' -f4 /proc/$$/stat"]
        threads()
        mine = run(ask).stdout.strip()
        child = os.fork()
        if child == 0:
            threads()
            theirs = run(ask).stdout.strip()
            os._exit(0 if theirs not in (mine, str(os.getpid())) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert run(ask).stdout.strip() == mine
        print("ok")
    """)
    assert answer.stdout == "ok\n", answer.stderr


# Without rights, and in a notebook


@pytest.mark.parametrize("how", ["fork", "launcher"])
def test_without_isolators_it_needs_no_rights(how):
    need(os.geteuid() == 0, "only root can become nobody")
    code = """
        import sys, threading
        from minidocker.process import run
        if sys.argv[1] == "launcher":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        print(run(["id", "-u"]).stdout, end="")
    """
    with as_nobody() as options:
        command = [PYTHON, "-c", textwrap.dedent(code), how]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert answer.stdout == "65534\n", answer.stderr


NOTEBOOK = """
    import pathlib, sys
    from jupyter_client.manager import KernelManager
    manager = KernelManager(transport="ipc", ip=sys.argv[1] + "/kernel")
    manager.start_kernel(cwd=sys.argv[1])
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    try:
        for cell in pathlib.Path(sys.argv[2]).read_text().split("# %%"):
            client.execute_interactive(cell, timeout=30)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
"""

CELLS = """
import os, resource
from minidocker.process import ContainerError, Isolator, run
# %%
def halved(number):
    return number // 2

class FewFiles(Isolator):
    def __init__(self, number):
        self.number = number

    def inside(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (halved(self.number),) * 2)
# %%
print(len(os.listdir("/proc/self/task")) > 1)
# %%
print(run(["sh", "-c", "ulimit -n; pwd"], FewFiles(128)).stdout, end="")
# %%
class Broken(Isolator):
    def inside(self):
        import wave

try:
    run(["true"], Broken())
except ContainerError as error:
    print(error)
# %%
os.chdir("/usr")
result = run(["sh", "-c", "pwd; yes | head -c 100000; echo >&2 end"], FewFiles(64))
print(result.stdout.count("y"), result.stdout[:5], result.stderr, end="")
"""


def test_in_a_real_jupyter_kernel(tmp_path):
    """A kernel has several threads, and swallows what a child writes to descriptor 1."""
    (tmp_path / "cells.py").write_text(CELLS)
    answer = python(NOTEBOOK, str(tmp_path), str(tmp_path / "cells.py"))
    assert answer.stdout.splitlines() == [
        "True",
        "64",
        str(tmp_path),
        "Broken: ImportError: import of 'wave' inside the container: import it at the top of the isolator's module"
        " (line 3 of inside)",
        "50000 /usr",
        " end",
    ], answer.stderr


def test_a_system_call_that_fails_says_which_it_was():
    with pytest.raises(FileNotFoundError, match="/no-such") as caught:
        syscalls.mount("proc", "/no-such", "proc")
    assert caught.value.syscall == "mount"


# The stage and the exercises


CHAPTER = REPO / "chapters" / "00_process"


def stage(*command, **options):
    code = [sys.executable, CHAPTER / "stage.py", *command]
    return subprocess.run(code, capture_output=True, text=True, timeout=30, **options)


def test_the_stage_is_the_command():
    assert stage().stdout.startswith("process ")
    assert stage("sh", "-c", "cat; exit 5", input="hello").returncode == 5
    assert stage("cat", input="hello").stdout == "hello"
    missing = stage("no-such-program")
    assert (missing.returncode, missing.stderr) == (127, "stage 0: no-such-program: command not found in this root\n")
    assert len((CHAPTER / "stage.py").read_text().splitlines()) <= 40


def check(number, path):
    return subprocess.run(
        [sys.executable, CHAPTER / "exercises" / "check.py", str(number), path],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_exercises_are_solved_by_the_solution_and_not_by_the_skeleton(number):
    need(number < 5 or os.geteuid() == 0, "exercise 5 changes its user, which needs root")
    solved = check(number, CHAPTER / "solutions" / f"exercise_{number}.py")
    assert solved.stdout == f"exercise {number}: done\n", solved.stderr
    assert check(number, CHAPTER / "exercises" / f"exercise_{number}.py").returncode != 0

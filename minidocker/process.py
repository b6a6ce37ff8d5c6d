"""Chapter 0: the engine. It starts one process and walks a list of isolators; it never changes after this chapter.

    run(["echo", "hello"])                                     # a process
    run(["sh"], Namespaces("pid mount"), PivotRoot(root))      # the same process, behind walls
    run(function, PivotRoot(root))                             # our own code, behind the same walls

`run` waits for the end and returns a `Result`; `start` returns a `Process` that runs meanwhile. What the process
writes comes back through pipes. The host side may be killed at any moment: its processes die with it.
"""

from __future__ import annotations

import os
import stat
import time
from _collections_abc import Callable, Iterator, Mapping, Sequence

from minidocker import child
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError, ContainerTimeout, Result, described, failure, on_the_host
from minidocker.syscalls import Any, fill_streams, in_memory, polled, read, receive, send, signal

__all__ = ["PIPE", "ContainerError", "ContainerTimeout", "Isolator", "Process", "Result", "run", "start"]

PIPE = -1  # for stdout and stderr: capture it
AFTER_END = 64  # reads of 64 KiB that empty any pipe, after the end of the process; what it left running may write on

Command = Sequence[str] | Callable[[], object]


def run(command: Command, *isolators: Isolator, timeout: float | None = None, **options: Any) -> Result:
    """Run `command` behind the isolators and wait for its end; takes the options of `start`, and a `timeout` in s.

    A command that fails is a `Result`; one that never ran, a `ContainerError`; one that had to be killed because its
    time was over, a `ContainerTimeout`.
    """
    with start(command, *isolators, **options) as process:
        try:
            return process.wait(timeout)
        except TimeoutError as late:
            process.kill()
            result, message = process.wait(), f"{process.title}: killed, since it {late}"
            raise ContainerTimeout(message, exit_code=result.exit_code, result=result) from None


def start(
    command: Command,
    *isolators: Isolator,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: str | bytes | int = b"",
    stdout: int = PIPE,
    stderr: int = PIPE,
    name: str | None = None,
) -> Process:
    """Start `command` behind the isolators, and return once it executes; use it as a context manager.

    It is a list of words, or a function without arguments, whose failure is a `ContainerError` of `wait`. `env` is the
    whole environment (default: a PATH). `stdin` is what it reads, or a descriptor. `stdout` and `stderr`: PIPE
    captures, a descriptor streams to it. `name` names everything that is made for it on the host (default: 12 random
    hex digits). Needs the rights that its isolators need; with none of them, those of any user.
    """
    for stream in (stdin, stdout, stderr):
        _check_stream(stream)
    fill_streams()
    environment = {"PATH": child.DEFAULT_PATH} if env is None else dict(env)
    order = child.Order(_checked(command, environment), environment, cwd, isolators)
    process = Process(name or os.urandom(6).hex(), order)
    try:
        process._begin(stdin, stdout, stderr)
    except BaseException:  # it could not be started: end it if it exists already, and undo what was done
        if process.pid > 0:
            process.kill()
            process._parent.collect()
        process._leave()
        raise
    return process


def _check_stream(stream: str | bytes | int) -> None:
    """Refuse what is no stream of the caller's: one of our own may get that number next; or a way to the host."""
    if not isinstance(stream, int) or stream == PIPE:
        return
    try:
        mode = os.fstat(stream).st_mode
    except OSError:
        raise ContainerError(f"descriptor {stream} is closed, and can be no stream of a command") from None
    if stat.S_ISDIR(mode):
        raise ContainerError(f"descriptor {stream} is a directory: the command could leave its root through it")


def _checked(command: Command, env: Mapping[str, str]) -> list[str] | Callable[[], object]:
    """The command as a list of words; refused if the kernel could not take it, before anything is made."""
    if callable(command):
        return command
    if isinstance(command, str | bytes):
        raise ContainerError(f"the command must be a list of words, not {command!r}: write {command.split()!r}")
    words = [os.fsdecode(word) if isinstance(word, bytes | os.PathLike) else word for word in command]
    if not words or not words[0]:
        raise ContainerError("the command is empty: give at least the name of a program")
    for text in (*words, *env.keys(), *env.values()):
        if not isinstance(text, str):
            raise ContainerError(f"{text!r} is no text: the words of a command and its environment are")
        if "\0" in text:
            raise ContainerError(f"a NUL byte in {text!r}: the kernel would end the text there")
    return words


class Process:
    """A running container: `name`, `pid`, `pidfd`, `terminal`, `result`, and what it writes.

    `pid` is its number in the caller's PID namespace; `pidfd` (pidfd_open(2)) is right even when that is reused.
    One thread uses a `Process` at a time; any number of threads may each have their own.
    """

    def __init__(self, name: str, order: child.Order) -> None:
        self.name, self.order = name, order
        self.title = getattr(order.command, "__name__", "function") if callable(order.command) else order.command[0]
        self.pid = self.pidfd = self.terminal = self.channel = -1
        self.result: Result | None = None
        self.asked = False  # whether somebody has sent it a signal
        self._entered: list[Isolator] = []
        self._parent: Any
        self._ends: dict[int, int] = {}  # our end of a pipe, or of the terminal -> the stream 1 or 2
        self._written: dict[int, list[bytes]] = {1: [], 2: []}  # what came out of them so far

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.result is None:
            self.kill()
            self.wait()

    def alive(self) -> bool:
        """Whether its first process still runs."""
        return self.result is None and not polled([self.pidfd], 0)

    def send_signal(self, number: int) -> None:
        """pidfd_send_signal(2) to the first process: never to somebody else who got its number since."""
        self.asked = True
        try:
            if self.result is None:
                signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass  # it has ended

    def kill(self) -> None:
        """SIGKILL, the one signal that neither a program nor the first process of a PID namespace can ignore."""
        self.send_signal(signal.SIGKILL)

    def stop(self, grace: float = 10) -> Result:
        """Ask with SIGTERM, wait `grace` seconds, then kill: `docker stop`."""
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait(grace)
        except TimeoutError:
            self.kill()
            return self.wait()

    def wait(self, timeout: float | None = None) -> Result:
        """Collect its output until it ends, and return the result; `TimeoutError` if it runs on after `timeout` s.

        At its end: the status, the fourth moment, and, if a function failed, what went wrong.
        """
        for _ in self._chunks(timeout):
            pass
        if self.result is None:
            self.result = Result(self._parent.collect(), *map(b"".join, self._written.values()))
            try:
                told = receive(self.channel)[0] if polled([self.channel], 0) else None
            finally:
                self._leave()
            if told is not None:
                raise failure(*told)
        return self.result

    def lines(self) -> Iterator[str]:
        """Yield the lines that it writes to stdout (or its terminal) as they come, without line ends, until it ends."""
        rest, end = b"", b"\r" if self.terminal >= 0 else b""  # a terminal makes two characters of a line's end
        for source, data in self._chunks(None):
            if self._ends[source] == 1:
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    yield line.removesuffix(end).decode(errors="backslashreplace")
        if rest:
            yield rest.decode(errors="backslashreplace")

    def _begin(self, stdin: str | bytes | int, stdout: int, stderr: int) -> None:
        """The moments of the host side until the command begins."""
        for isolator in self.order.isolators:
            isolator.container = self.name
            on_the_host(isolator, "__enter__")
            self._entered.append(isolator)
        given, streams = (stdin, stdout, stderr), list[int]()
        try:
            for number, stream in enumerate(given):
                if not isinstance(stream, int):
                    stream = in_memory(stream)
                elif stream == PIPE and number:
                    ours, stream = os.pipe()
                    self._ends[ours] = number
                streams.append(stream)
            self._parent = _parent(child.Birth(self.order.isolators, dict(enumerate(streams))), lambda: self.order)
        finally:
            for end in {*streams} - {*given}:
                os.close(end)
        self.pid, self.pidfd, self.channel = self._parent.pid, self._parent.pidfd, self._parent.channel
        self._release()

    def _release(self) -> None:
        """The second moment; then open the gate, and wait until the command begins.

        First comes a message that it is going to, then the end of the channel. (Of a function the end comes when that
        ends.) A message about a failure may come in place of both; it says more than what went wrong here.
        """
        refused = None
        try:
            for isolator in self._entered:
                on_the_host(isolator, "attach", self.pid)
            send(self.channel, True)
        except ConnectionError:
            pass  # it has ended already
        except Exception as error:
            refused = error
            self.kill()
        told, terminals = receive(self.channel)
        if told is None:
            message = f"{self.title}: it ended before it began: killed, perhaps by a low limit or a narrow filter"
            raise refused or ContainerError(message)
        if told is True:
            for self.terminal in terminals:
                self._ends[self.terminal] = 1
            told = None if callable(self.order.command) else receive(self.channel)[0]
        if told is not None:
            raise failure(*told)

    def _chunks(self, timeout: float | None) -> Iterator[tuple[int, bytes]]:
        """Yield (descriptor, bytes) as they come, until the first process has ended and what it wrote is read.

        Its end counts, not the end of the pipes: something that it left running may hold those for ever.
        """
        if self.result is not None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting, ready, reads = {self.pidfd, *self._ends}, list[int](), AFTER_END
        while ready != [self.pidfd] and reads:
            ready = polled(waiting, None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"had not ended after {timeout} s")
            reads -= self.pidfd in ready
            for descriptor in {*ready} - {self.pidfd}:
                data = read(descriptor)
                self._written[self._ends[descriptor]].append(data)
                waiting -= set() if data else {descriptor}
                yield descriptor, data

    def _leave(self) -> None:
        """`__exit__` of each isolator that was entered; of all of them, even if one raises."""
        try:
            if self._entered:
                on_the_host(self._entered.pop(), "__exit__", None, None, None)
        finally:
            if self._entered:
                self._leave()
            else:
                for number in {self.pidfd, self.channel, *self._ends} - {-1}:
                    os.close(number)


def _parent(birth: child.Birth, read_order: Callable[[], child.Order]) -> Any:
    """Who has one thread is the parent. Who has several must not fork; who ignores SIGCHLD, or collects all children
    itself, would not get the status: the launcher does it instead."""
    try:
        if len(os.listdir("/proc/self/task")) == 1 and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL:
            return child.Forked(birth, read_order)
        from minidocker.launcher import Launched  # pickle and threading are not on the way of a command line

        return Launched(birth, read_order())
    except OSError as refused:
        raise failure(*described(None, refused)) from refused

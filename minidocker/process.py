"""Chapter 0: the engine. It starts one process and walks a list of isolators; it never changes after this chapter.

    run(["echo", "hello"])                                     # a process
    run(["sh"], Namespaces("pid mount"), PivotRoot(root))      # the same process, behind walls

Each isolator has its say at four moments. The order of the list is the order in which walls go up:

    moment                                             who runs it                    method
    before the process exists                          the host side                  __enter__
    the process exists, and waits at the gate          the host side                  attach(pid)
    it is released, and has not executed the command   the new process, inside        inside()
    after it ended, in reverse order                   the host side                  __exit__

`run` waits for the end and returns a `Result`; `start` returns a `Process` that runs meanwhile. What the process
writes comes back through pipes. The host side may be killed at any moment: its processes die with it.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import time

from minidocker import child
from minidocker.outcome import ContainerError, ContainerTimeout, Result, failure

PIPE = -1  # for stdout and stderr: capture it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from minidocker.launcher import Launched


class Isolator:
    """One wall around a process. Override what you need; the default of each moment does nothing.

    An isolator is pickled when the caller has several threads (see `launcher`), so it holds plain values. What
    `inside` needs is imported at the top of its module, since nothing can be imported inside.
    """

    clone_flags = 0
    """CLONE_NEW* of <linux/sched.h>: the namespaces that the process is born in."""
    cgroup: int | None = None
    """Descriptor of a cgroup v2 directory that the process is born in; `__enter__` may open it."""
    pid_namespace: int | None = None
    """Descriptor of a PID namespace, or a pidfd of one of its processes, that the process is born in."""
    descriptors: tuple[int, ...] = ()
    """Open descriptors that `inside` needs; there they have the same numbers. All others are closed before."""
    container = ""
    """The name of the container that this isolator serves; the engine sets it before `__enter__`."""

    def __enter__(self) -> Isolator:
        """Before the process exists. Host side, the caller's rights. If it raises, it must leave nothing."""
        return self

    def attach(self, pid: int) -> None:
        """The process `pid` exists and waits. Host side, the caller's rights: write its uid map, move its veth."""

    def inside(self) -> None:
        """Run by the new process, with all rights it was born with, before the command replaces it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After the process has ended, or could not be started. Host side. Remove what `__enter__` made."""


def run(argv: Sequence[str], *isolators: Isolator, timeout: float | None = None, **options: Any) -> Result:
    """Run `argv` behind the isolators and wait for its end; takes the options of `start`, and a `timeout` in seconds.

    A command that fails is a `Result`; a command that never ran is a `ContainerError`; one that had to be killed
    because its time was over is a `ContainerTimeout`.
    """
    with start(argv, *isolators, **options) as process:
        try:
            return process.wait(timeout)
        except TimeoutError:
            process.kill()
            message = f"{argv[0]}: killed, since it had not ended after {timeout} s"
            raise ContainerTimeout(message, process.wait()) from None


def start(
    argv: Sequence[str],
    *isolators: Isolator,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: str | bytes | int = b"",
    stdout: int = PIPE,
    stderr: int = PIPE,
    terminal: bool = False,
    name: str | None = None,
) -> Process:
    """Start `argv` behind the isolators, and return once it executes; use it as a context manager.

    `env` is the whole environment (default: a PATH). `stdin` is what it reads, or a descriptor. `stdout` and `stderr`:
    PIPE captures, a descriptor streams to it. With `terminal` the three are one pseudo-terminal instead, whose other
    end is `Process.terminal`. `name` names everything that is made for it on the host (default: 12 random hex digits).
    Needs the rights that its isolators need; with none of them, those of any user. Raises `ContainerError`.
    """
    environment = {"PATH": child.DEFAULT_PATH} if env is None else dict(env)
    order = child.Order(_checked(argv, environment), environment, cwd, isolators, terminal)
    process = Process(name or os.urandom(6).hex(), order)
    try:
        process._enter()
        process._give_birth(stdin, stdout, stderr)
    except BaseException:
        process._abandon()
        raise
    return process


def _checked(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The command as a list of words; refused if the kernel could not take it, before anything is made."""
    if isinstance(argv, str | bytes):
        raise ContainerError(f"the command must be a list of words, not {argv!r}: write {argv.split()!r}")
    words = [os.fspath(word) for word in argv]
    if not words or not words[0]:
        raise ContainerError("the command is empty: give at least the name of a program")
    for text in (*words, *env.keys(), *env.values()):
        if "\0" in text:
            raise ContainerError(f"a NUL byte in {text!r}: the kernel would end the text there")
    return words


class Process:
    """A running container, seen from the host: `name`, `pid`, `pidfd`, `terminal`, and what it writes.

    `pid` is its number in the caller's PID namespace; `pidfd` (pidfd_open(2)) stays right when that number is used again.
    One thread uses a `Process` at a time; any number of threads may each have their own.
    """

    def __init__(self, name: str, order: child.Order) -> None:
        self.name, self.order = name, order
        self.pid = self.pidfd = self.terminal = -1
        self.result: Result | None = None
        self._entered: list[Isolator] = []
        self._parent: child.Forked | Launched | None = None
        self._written: dict[int, list[bytes]] = {}  # our end of a pipe or terminal -> what came out of it so far
        self._open: set[int] = set()  # descriptors to close at the end at the latest

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.result is None:
            self.kill()
            self.wait()

    def alive(self) -> bool:
        """Whether its first process still runs."""
        return self.result is None and not _readable({self.pidfd}, 0)

    def send_signal(self, number: int) -> None:
        """pidfd_send_signal(2) to the first process: never to somebody else who got its number since."""
        if self.alive():
            signal.pidfd_send_signal(self.pidfd, number)

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
        """Collect its output until it ends, and return the result; `TimeoutError` if it runs on after `timeout` seconds."""
        for _ in self._chunks(timeout):
            pass
        return self.result or self._end()

    def lines(self) -> Iterator[str]:
        """Yield the lines that it writes to stdout (or its terminal) as they come, without the line end, until it ends."""
        rest = b""
        for source, data in self._chunks(None):
            if source == next(iter(self._written)):
                *whole, rest = (rest + data).split(b"\n")
                yield from (line.decode(errors="backslashreplace") for line in whole)
        if rest:
            yield rest.decode(errors="backslashreplace")

    def _enter(self) -> None:
        """First moment: each isolator prepares on the host."""
        for isolator in self.order.isolators:
            isolator.container = self.name
            _on_the_host(isolator, isolator.__enter__)
            self._entered.append(isolator)

    def _give_birth(self, stdin: str | bytes | int, stdout: int, stderr: int) -> None:
        """The process is born and waits; second moment: attach; the gate opens, and third moment: it goes on alone."""
        streams = self._terminal() if self.order.terminal else self._streams(stdin, stdout, stderr)
        gate, key = self._pipe()
        failed, report = self._pipe()
        birth = child.Birth.of(self.order.isolators, [*streams, gate, report])
        self._parent = _parent(birth, self.order)
        self.pid, self.pidfd = self._parent.pid, self._parent.pidfd
        self._open |= {self._parent.pidfd, self._parent.ended}
        self._close(*streams, gate, report)
        for isolator in self._entered:
            _on_the_host(isolator, isolator.attach, self.pid)
        os.write(key, b"x")
        text = b"".join(iter(lambda: os.read(failed, 65536), b""))  # nothing but its end, if the command executes
        if text:
            raise failure(*marshal.loads(text))

    def _pipe(self) -> tuple[int, int]:
        """A pipe, close-on-exec as all descriptors that Python makes: (end to read, end to write)."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def _close(self, *descriptors: int) -> None:
        """Close those of them that are ours and still open."""
        for descriptor in self._open & set(descriptors):
            self._open.discard(descriptor)
            os.close(descriptor)

    def _streams(self, stdin: str | bytes | int, stdout: int, stderr: int) -> list[int]:
        """Descriptors 0, 1 and 2 of the new process."""
        if not isinstance(stdin, int):
            text = stdin.encode() if isinstance(stdin, str) else stdin
            stdin = os.memfd_create("stdin")  # a file in memory: nobody has to stand by and feed a pipe
            self._open.add(stdin)
            os.write(stdin, text)
            os.lseek(stdin, 0, os.SEEK_SET)
        return [stdin, self._output(stdout), self._output(stderr)]

    def _output(self, descriptor: int) -> int:
        """The descriptor itself, or the end to write of a pipe that we read."""
        if descriptor != PIPE:
            return descriptor
        ours, theirs = self._pipe()
        self._written[ours] = []
        return theirs

    def _terminal(self) -> list[int]:
        """A pseudo-terminal, pty(7): ours is the end where a person, or a test, types and reads."""
        self.terminal, theirs = os.openpty()
        self._open |= {self.terminal, theirs}
        self._written[self.terminal] = []
        return [theirs, theirs, theirs]

    def _chunks(self, timeout: float | None) -> Iterator[tuple[int, bytes]]:
        """Yield (descriptor, bytes) as they come, until the first process has ended and what it wrote is read.

        Its end counts, not the end of the pipes: something that it left running may hold those for ever.
        """
        if self.result is not None or self._parent is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = {self._parent.ended, *self._written}
        ready: list[int] = []
        while ready != [self._parent.ended]:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = _readable(waiting, left)
            if not ready:
                raise TimeoutError(f"{self.order.argv[0]} has not ended after {timeout} s")
            for descriptor in set(ready) - {self._parent.ended}:
                data = _read(descriptor)
                self._written[descriptor].append(data)
                waiting -= set() if data else {descriptor}
                yield descriptor, data

    def _end(self) -> Result:
        """It has ended: take its status, let the isolators go in reverse order (fourth moment), close what is open."""
        assert self._parent is not None
        status = self._parent.collect()
        stdout, stderr = [*map(b"".join, self._written.values()), b"", b""][:2]
        self.result = Result(status, stdout, stderr)
        self._leave()
        return self.result

    def _abandon(self) -> None:
        """It could not be started: end it if it exists already, and undo what was done."""
        if self._parent is not None:
            self.kill()
            self._parent.collect()
        self._leave()

    def _leave(self) -> None:
        """`__exit__` of each isolator that was entered; of all of them, even if one raises."""
        try:
            if self._entered:
                isolator = self._entered.pop()
                _on_the_host(isolator, isolator.__exit__, None, None, None)
        finally:
            if self._entered:
                self._leave()
            self._close(*self._open)


def _on_the_host(isolator: Isolator, moment: Callable[..., object], *arguments: object) -> None:
    """Run one moment of an isolator; if the kernel refuses it something, say whose moment it was."""
    try:
        moment(*arguments)
    except OSError as refused:
        name, syscall = type(isolator).__name__, getattr(refused, "syscall", moment.__name__)
        raise failure(name, syscall, refused.errno, refused.filename, refused.strerror) from refused


def _parent(birth: child.Birth, order: child.Order) -> child.Forked | Launched:
    """A process with one thread is the parent itself. One with several must not fork: the launcher does, in its place."""
    if len(os.listdir("/proc/self/task")) == 1:
        return child.Forked(birth, order)
    from minidocker.launcher import Launched  # pickle and socket are not on the way of a command line

    return Launched(birth, order)


def _readable(descriptors: set[int], timeout: float | None) -> list[int]:
    """Those that have something to read, or are at their end, within `timeout` seconds; poll(2), for select stops at 1024."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)]


def _read(descriptor: int) -> bytes:
    """What is there, or nothing at the end; the end of a pseudo-terminal is an EIO."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""

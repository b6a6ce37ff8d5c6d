"""Chapter 0: a running container, seen from the host: how it is born, what it writes, how it ends.

`Process` is what `start` returns. It goes through the moments of the isolators that belong to the host side, holds
the descriptors, and reads what comes out of them.
"""

from __future__ import annotations

import marshal
import os
import select
import time

from minidocker import child
from minidocker.outcome import ContainerError, Result, failure, on_the_host
from minidocker.syscalls import signal

PIPE = -1  # for stdout and stderr: capture it
AFTER_END = 64  # reads of 64 KiB that empty any pipe, after the end of the process; what it left running may write on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minidocker.launcher import Launched
    from minidocker.process import Isolator


class Process:
    """A running container: `name`, `pid`, `pidfd`, `terminal`, `result`, and what it writes.

    `pid` is its number in the caller's PID namespace; `pidfd` (pidfd_open(2)) is right even when that is reused.
    One thread uses a `Process` at a time; any number of threads may each have their own.
    """

    def __init__(self, name: str, order: child.Order) -> None:
        self.name, self.order = name, order
        self.pid = self.pidfd = self.terminal = -1
        self.result: Result | None = None
        self._entered: list[Isolator] = []
        self._parent: child.Forked | Launched | None = None
        self._written: dict[int, list[bytes]] = {}  # our end of a pipe or terminal -> what came out of it so far
        self._sources: list[int] = []  # the keys of `_written` that are stdout and stderr; -1 if we do not capture it
        self._open: set[int] = set()  # descriptors to close at the end at the latest

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.result is None:
            self.kill()
            self.wait()

    def alive(self) -> bool:
        """Whether its first process still runs."""
        return self.result is None and not _readable({self.pidfd}, 0)

    def send_signal(self, number: int) -> None:
        """pidfd_send_signal(2) to the first process: never to somebody else who got its number since."""
        try:
            if self.alive():
                signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass  # it ended between the two lines, and the launcher has reaped it

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
        """Collect its output until it ends, and return the result; `TimeoutError` if it runs on after `timeout` s."""
        for _ in self._chunks(timeout):
            pass
        return self.result or self._end()

    def lines(self) -> Iterator[str]:
        """Yield the lines that it writes to stdout (or its terminal) as they come, without line ends, until it ends."""
        rest, end = b"", b"\r" if self.order.terminal else b""  # a terminal makes two characters of a line's end
        for source, data in self._chunks(None):
            if source == self._sources[0]:
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    yield line.removesuffix(end).decode(errors="backslashreplace")
        if rest:
            yield rest.decode(errors="backslashreplace")

    def _enter(self) -> None:
        """First moment: each isolator prepares on the host."""
        for isolator in self.order.isolators:
            isolator.container = self.name
            on_the_host(isolator, isolator.__enter__)
            self._entered.append(isolator)

    def _give_birth(self, stdin: str | bytes | int, stdout: int, stderr: int) -> None:
        """The process is born and waits; the gate opens, and in the third moment it goes on alone."""
        streams = self._terminal() if self.order.terminal else self._streams(stdin, stdout, stderr)
        gate, key = self._pipe()
        failed, report = self._pipe()
        birth = child.Birth.of(self.order.isolators, [*streams, gate, report])
        self._parent = _parent(birth, self.order)
        self.pid, self.pidfd = self._parent.pid, self._parent.pidfd
        self._open |= {self._parent.pidfd, self._parent.ended}
        self._close(*streams, gate, report)
        refused = self._attach(key)
        self._close(key)
        text = b"".join(iter(lambda: os.read(failed, 65536), b""))  # nothing but its end, if the command executes
        self._close(failed)
        if text:
            raise failure(*marshal.loads(text))
        if refused:
            raise refused

    def _attach(self, key: int) -> Exception | None:
        """Second moment, then open the gate. Returns what went wrong; the report of a dead process says it better."""
        try:
            for isolator in self._entered:
                on_the_host(isolator, isolator.attach, self.pid)
            os.write(key, b"x")
        except BrokenPipeError:
            return ContainerError("the new process was killed before it executed the command")
        except Exception as refused:
            return refused
        return None

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
            while text:
                text = text[os.write(stdin, text) :]
            os.lseek(stdin, 0, os.SEEK_SET)
        return [stdin, self._output(stdout), self._output(stderr)]

    def _output(self, descriptor: int) -> int:
        """The descriptor itself, or the end to write of a pipe that we read."""
        if descriptor != PIPE:
            self._sources.append(-1)
            return descriptor
        ours, theirs = self._pipe()
        self._sources.append(ours)
        self._written[ours] = []
        return theirs

    def _terminal(self) -> list[int]:
        """A pseudo-terminal, pty(7): ours is the end where a person, or a test, types and reads."""
        self.terminal, theirs = os.openpty()
        self._open |= {self.terminal, theirs}
        self._sources, self._written = [self.terminal], {self.terminal: []}
        return [theirs, theirs, theirs]

    def _chunks(self, timeout: float | None) -> Iterator[tuple[int, bytes]]:
        """Yield (descriptor, bytes) as they come, until the first process has ended and what it wrote is read.

        Its end counts, not the end of the pipes: something that it left running may hold those for ever.
        """
        if self.result is not None or self._parent is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = {self._parent.ended, *self._written}
        ready, reads = list[int](), AFTER_END
        while ready != [self._parent.ended] and reads:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = _readable(waiting, left)
            if not ready:
                raise TimeoutError(f"{self.order.argv[0]} has not ended after {timeout} s")
            reads -= self._parent.ended in ready
            for descriptor in set(ready) - {self._parent.ended}:
                data = _read(descriptor)
                self._written[descriptor].append(data)
                waiting -= set() if data else {descriptor}
                yield descriptor, data

    def _end(self) -> Result:
        """It has ended: take its status, let the isolators go in reverse order (fourth moment), close what is open."""
        assert self._parent is not None
        self.result = Result(
            self._parent.collect(), *(b"".join(self._written.get(source, [])) for source in self._sources)
        )
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
                on_the_host(isolator, isolator.__exit__, None, None, None)
        finally:
            if self._entered:
                self._leave()
            self._close(*self._open)


def _parent(birth: child.Birth, order: child.Order) -> child.Forked | Launched:
    """A process with one thread is the parent itself. One with several must not fork: the launcher does it instead."""
    try:
        if len(os.listdir("/proc/self/task")) == 1:
            return child.Forked(birth, order)
        from minidocker.launcher import Launched  # pickle and socket are not on the way of a command line

        return Launched(birth, order)
    except OSError as refused:
        syscall = getattr(refused, "syscall", None)
        raise failure(None, syscall, refused.errno, None, str(refused.strerror)) from refused


def _readable(descriptors: set[int], timeout: float | None) -> list[int]:
    """Those with something to read, or at their end, in `timeout` seconds. poll(2): select(2) stops at number 1024."""
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

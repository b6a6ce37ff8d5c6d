"""Chapter 10: who stays with a container when the command that started it has ended: what conmon is for Podman.

    begin(record, make)      # returns when the container's command executes; a monitor runs on

A process needs a parent that collects its exit code, somebody who reads what it writes, and who starts it again if that
was asked for. For Docker this is done by containerd-shim and dockerd. Here one small process does it for each
container; it is forked off the command, holds the lock of the container's record, and listens at a socket in there:

    from a client             meaning
    ("attach",)               send me what it writes; first ("input", whether it has a terminal), and where to type
    ("eof",)                  the client's standard input has ended
    ("signal", number)        give it this signal; if it can have no effect, an end
    ("kill", number)          just the signal
    ("stay",)                 do not start it again
    from the monitor
    (1 or 2, bytes)           it wrote this to stdout, or stderr
    ("ended", exit code)      it ended
"""

from __future__ import annotations

import _socket as socket
import contextlib
import json
import marshal
import os
import select
import time
from collections.abc import Callable

from minidocker.cgroups import Cgroup
from minidocker.engine import records
from minidocker.engine.records import Record, delete, now, tell
from minidocker.engine.signals import pass_on
from minidocker.outcome import ENGINE_FAILED, ContainerError
from minidocker.process import Process, start
from minidocker.syscalls import Any, NoReturn, close_range, pair, read, receive, send, signal

LINE = 1 << 14  # bytes of a line that the log has in one piece
PATIENCE = 10.0  # s, for a client that does not read the end
BACKOFF, LONGEST, SETTLED = 0.1, 60.0, 10.0  # s before a restart: doubled each time, up to this; after this long, anew

Make = Callable[[Record], tuple[Any, Any, dict[str, Any]]]  # -> the command, the isolators, and options of `start`


def begin(record: Record, make: Make, client: int = -1) -> None:
    """Start the container of this record. A `client` is a socket that is attached before it writes anything.

    Whatever keeps it from starting is the `ContainerError` that says so; one that runs already is none.
    """
    lock = records.lock(record)
    if lock is None:
        return
    ours, theirs = pair()
    if os.fork() == 0:
        _live(record, make, lock, theirs, client)
    os.close(lock)
    os.close(theirs)
    told, _ = receive(ours)
    os.close(ours)
    code, message = told or (ENGINE_FAILED, f"{record.short}: its monitor was killed before it began")
    if message:
        raise ContainerError(message, exit_code=code)


def _live(record: Record, make: Make, lock: int, told: int, client: int) -> NoReturn:
    """The whole life of the monitor: nothing of the command's that it came from but these descriptors."""
    try:
        os.setsid()
        os.chdir("/")
        for number in range(1, signal.NSIG):
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        kept = sorted({lock, told, client} - {-1})
        for low, high in zip([2, *kept], [*kept, 2**31], strict=True):
            if high - low > 1:
                close_range(low + 1, high - 1)
        Monitor(record, make, told, client).run()
        if record.config["options"]["rm"]:
            delete(record, lock)
    finally:
        os._exit(0)


class Monitor:
    """One container, from its start to its end, and again after a restart."""

    def __init__(self, record: Record, make: Make, told: int, client: int) -> None:
        self.record, self.make, self.told, self.config = record, make, told, record.config
        self.options = self.config["options"]
        self.clients: dict[int, list[bytes]] = {}  # a socket -> what it has not taken yet
        self.attached = set[int]()
        self.input = -1  # what an attached client writes to
        self.process: Process | None = None
        self.stay = False
        self.first = client
        self.server = _listen(f"{record.path}/socket")
        self.log = os.open(f"{record.path}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.rest = {1: b"", 2: b""}

    def run(self) -> None:
        """Start it, and again as its restart policy says."""
        restarts, wait = 0, BACKOFF
        while True:
            began = time.monotonic()
            code = self._once(restarts)
            wait = BACKOFF if time.monotonic() - began > SETTLED else min(wait * 2, LONGEST)
            if not self._again(code, restarts):
                return
            restarts += 1
            self._note(status="restarting")
            deadline = time.monotonic() + wait
            while not self.stay and time.monotonic() < deadline:
                self._serve({}, max(0.0, deadline - time.monotonic()))
            if self.stay:
                self._note(status="exited")
                return

    def _again(self, code: int, restarts: int) -> bool:
        policy, _, most = (self.options["restart"] or "no").partition(":")
        if policy == "on-failure":
            return not self.stay and code != 0 and (not most or restarts < int(most))
        return not self.stay and policy in ("always", "unless-stopped")

    def _note(self, **known: Any) -> None:
        self.known = {**getattr(self, "known", {}), **known}
        self.record.write("state", self.known)

    def _once(self, restarts: int) -> int:
        """One life of the container; its exit code."""
        try:
            argv, isolators, settings = self.make(self.record)
            outputs, streams, theirs = self._streams()
            try:
                process = self.process = start(argv, *isolators, name=self.record.short, **settings, **streams)
            finally:
                for number in theirs:
                    os.close(number)
        except Exception as failure:
            code = getattr(failure, "exit_code", ENGINE_FAILED)
            message = str(failure) or type(failure).__name__
            self._note(status="exited" if restarts else "created", exit_code=code, error=message, finished=now())
            self._begun(code, message)
            self._end(code)
            self.stay = True
            return code
        with process:
            if self.options["tty"]:
                outputs, self.input = {process.terminal: 1}, process.terminal
            self._note(status="running", pid=process.pid, started=now(), exit_code=0, error="", restarts=restarts)
            tell("start", self.config)
            warnings = [text for isolator in isolators for text in getattr(isolator, "warnings", ())]
            self._note(warnings=warnings)
            if self.first >= 0:
                self.clients[self.first] = []
                self._attach(self.first)
                self.first = -1
            self._begun(0, "")
            self._relay(process, outputs)
            result = process.wait()
            self.process = None
        fence = next((wall for wall in isolators if isinstance(wall, Cgroup)), None)
        code = result.exit_code
        for stream in (1, 2):
            self._record(stream, b"", last=True)
        self._note(status="exited", pid=0, exit_code=code, finished=now(), oom_killed=bool(fence and fence.oom_killed))
        tell("die", self.config, exitCode=str(code))
        if self.input >= 0 and not self.options["tty"]:
            os.close(self.input)
        self.input = -1
        for number in outputs:
            if number != process.terminal:
                os.close(number)
        self._end(code)
        return code

    def _begun(self, code: int, message: str) -> None:
        """Tell the command that waits for it, once."""
        if self.told >= 0:
            with contextlib.suppress(OSError):
                send(self.told, (code, message))
            os.close(self.told)
            self.told = -1

    def _streams(self) -> tuple[dict[int, int], dict[str, Any], list[int]]:
        """(our ends of its output, what `start` takes, their ends): pipes, but for a terminal."""
        if self.options["tty"]:
            return {}, {}, []
        (out, out_), (err, err_) = os.pipe(), os.pipe()
        in_ = os.open(os.devnull, os.O_RDONLY)
        if self.options["interactive"]:
            os.close(in_)
            in_, self.input = os.pipe()
            os.set_blocking(self.input, False)
        return {out: 1, err: 2}, {"stdin": in_, "stdout": out_, "stderr": err_}, [in_, out_, err_]

    def _relay(self, process: Process, outputs: dict[int, int]) -> None:
        """Until its first process has ended, and what it wrote until then is read."""
        outputs, ended, reads = dict(outputs), False, 64
        while True:
            ready = self._serve({**outputs, **({} if ended else {process.pidfd: 0})}, 0.0 if ended else None)
            ended = ended or process.pidfd in ready
            reads -= ended
            for number in ready & outputs.keys():
                if data := read(number):
                    self._record(outputs[number], data)
                    self._send((outputs[number], data))
                else:
                    del outputs[number]
            if ended and (not ready & outputs.keys() or not reads):
                return

    def _serve(self, sources: dict[int, int], timeout: float | None) -> set[int]:
        """Wait for the sources, and for clients; those that have something. While a client takes nothing, nothing more
        is read for it, so that it loses nothing."""
        slow = [client for client, waiting in self.clients.items() if waiting]
        poll = select.poll()
        poll.register(self.server, select.POLLIN)
        for number, stream in sources.items():
            if not (slow and stream):
                poll.register(number, select.POLLIN)
        for client in self.clients:
            poll.register(client, select.POLLIN | (select.POLLOUT if client in slow else 0))
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        if self.server in ready:
            with contextlib.suppress(OSError):
                self.clients[_accept(self.server)] = []
        for client in ready.keys() & self.clients.keys():
            self._push(client)
            if ready[client] & ~select.POLLOUT:
                self._hear(client)
        return ready.keys() & sources.keys()

    def _hear(self, client: int) -> None:
        """What a client asks for; its end."""
        try:
            message, _ = receive(client)
        except (OSError, ValueError, EOFError):
            message = None
        what, *rest = message or ("gone",)
        if what == "gone":
            self._leave(client)
        elif what == "attach":
            self._attach(client)
        elif what == "eof" and self.input >= 0 and not self.options["tty"]:
            os.close(self.input)
            self.input = -1
        elif what == "stay":
            self.stay = True
        elif what in ("kill", "signal") and self.process:
            pass_on(self.process, *rest) if what == "signal" else self.process.send_signal(*rest)

    def _attach(self, client: int) -> None:
        self.attached.add(client)
        with contextlib.suppress(OSError):
            send(client, ("input", bool(self.options["tty"])), *([self.input] if self.input >= 0 else []))
        os.set_blocking(client, False)

    def _leave(self, client: int) -> None:
        self.attached.discard(client)
        del self.clients[client]
        os.close(client)

    def _send(self, message: tuple[Any, ...], everyone: bool = False) -> None:
        """To all that are attached; what they do not take now, they take later."""
        for client in [*(self.clients if everyone else self.attached)]:
            self.clients[client].append(marshal.dumps(message))
            self._push(client)

    def _push(self, client: int) -> None:
        waiting = self.clients[client]
        try:
            while waiting:
                os.write(client, waiting[0])
                waiting.pop(0)
        except BlockingIOError:
            pass
        except OSError:
            waiting.clear()  # it is gone, which poll(2) will say

    def _end(self, code: int) -> None:
        """Tell all clients that it has ended, and leave them."""
        for client in self.clients:
            os.set_blocking(client, False)
        self._send(("ended", code), everyone=True)
        deadline = time.monotonic() + PATIENCE
        while any(self.clients.values()) and time.monotonic() < deadline:
            self._serve({}, max(0.0, deadline - time.monotonic()))
        for client in [*self.clients]:
            self._leave(client)

    def _record(self, stream: int, data: bytes, last: bool = False) -> None:
        """Whole lines to the log; the rest of one waits for its end."""
        *lines, rest = (self.rest[stream] + data).split(b"\n")
        lines = [line + b"\n" for line in lines]
        while len(rest) >= LINE or (last and rest):
            lines.append(rest[:LINE])
            rest = rest[LINE:]
        self.rest[stream], name = rest, ("stdout", "stderr")[stream - 1]
        written = [{"log": line.decode(errors="replace"), "stream": name, "time": now()} for line in lines]
        with contextlib.suppress(OSError):  # a full disk must not end the container
            os.write(self.log, b"".join(json.dumps(line).encode() + b"\n" for line in written))


def _listen(path: str) -> int:
    """A socket at this path, which may be longer than an address of unix(7)."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with short(path) as address:
        server.bind(address)
    server.listen(64)
    return server.detach()


def _accept(server: int) -> int:
    listening = socket.socket(fileno=server)
    try:
        return int(listening._accept()[0])  # type: ignore[attr-defined]  # what socket(3) of Python makes one of
    finally:
        listening.detach()


@contextlib.contextmanager
def short(path: str) -> Any:
    """The same file under a short name, by the number of its open directory."""
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{parent}/{os.path.basename(path)}"
    finally:
        os.close(parent)

"""Chapter 10: who stays with a container when the command that started it has ended: what conmon is for Podman.

    begin(record, make)      # returns when the container's command executes; a monitor runs on

A process needs a parent that collects its exit code, somebody who reads what it writes, and who starts it again if that
was asked for. For Docker this is done by containerd-shim and dockerd. Here one small process does it for each
container; it is forked off the command, holds the lock of the container's record, and listens at a socket in there:

    from a client             meaning
    ("attach",)               send me what it writes; first ("input", whether it has a terminal), and where to type
    ("wait",)                 tell me when it ends, also if it is started again then
    ("eof",)                  the client's standard input has ended
    ("signal", number)        give it this signal; if it can have no effect, an end
    ("kill", number)          just the signal
    ("stay",)                 do not start it again
    from the monitor
    (1 or 2, bytes)           it wrote this to stdout, or stderr
    ("ended", exit code)      it ended
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import time
from collections.abc import Callable, Iterable

from minidocker.cgroups import Cgroup
from minidocker.engine import records
from minidocker.engine.attach import accept, listen
from minidocker.engine.log import Log
from minidocker.engine.records import Record, delete, now, tell
from minidocker.engine.signals import pass_on
from minidocker.outcome import ENGINE_FAILED, ContainerError
from minidocker.process import AFTER_END, Process, start
from minidocker.syscalls import PR_SET_NAME, Any, NoReturn, close_range, pair, prctl, read, receive, send, signal

MESSAGE = 1 << 15  # bytes of output in one message
BACKOFF, LONGEST, SETTLED = 0.1, 60.0, 10.0  # s before a restart: doubled each time, up to this; after this long, anew

Make = Callable[[Record], tuple[Any, Any, dict[str, Any]]]  # -> the command, the isolators, and options of `start`


def begin(record: Record, make: Make, client: int = -1) -> list[str]:
    """Start the container of this record. A `client` is a socket that is attached before it writes anything.

    Whatever keeps it from starting is the `ContainerError` that says so; one that runs already is none.
    Returns warnings.
    """
    lock = records.lock(record)
    if lock is None:
        return []
    ours, theirs = pair()
    window = _window() if record.config["options"]["tty"] else b""
    if (pid := os.fork()) == 0:
        _live(record, make, lock, theirs, client, window)
    os.close(lock)
    os.close(theirs)
    try:
        told, _ = receive(ours)
    except BaseException:  # a signal says that nobody wants it any more
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    os.close(ours)
    code, message, *warnings = told or (ENGINE_FAILED, f"{record.short}: its monitor was killed before it began")
    if message:
        raise ContainerError(message, exit_code=code)
    return warnings


def _window() -> bytes:
    """The size of the user's terminal, which a program in the container may ask for at once."""
    from minidocker.terminal import size

    return size(0 if os.isatty(0) else 1)


def _live(record: Record, make: Make, lock: int, told: int, client: int, window: bytes) -> NoReturn:
    """The whole life of the monitor: nothing of the command's that it came from but these descriptors."""
    try:
        os.setsid()
        os.chdir("/")
        prctl(PR_SET_NAME, b"monitor")
        # A client that is gone, or a file that ulimit -f lets not grow, is an error of write(2).
        for number in {*range(1, signal.NSIG)} - {signal.SIGPIPE, signal.SIGXFSZ}:
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
        try:
            monitor = Monitor(record, make, told, client, window)
        except OSError as refused:  # a full disk
            send(told, (ENGINE_FAILED, f"{refused.filename or record.path}: {refused.strerror}"))
            raise
        try:
            monitor.run(lock)
        except Exception as unforeseen:
            monitor._note(error=f"its monitor failed: {type(unforeseen).__name__}: {unforeseen}")
    finally:
        os._exit(0)


class Monitor:
    """One container, from its start to its end, and again after a restart."""

    def __init__(self, record: Record, make: Make, told: int, client: int, window: bytes) -> None:
        self.record, self.make, self.told, self.window = record, make, told, window
        self.options = record.config["options"]
        self.clients: dict[int, list[bytes]] = {}  # a socket -> what it has not taken yet; b"" is the end
        self.attached, self.waiting = set[int](), set[int]()
        self.input = -1  # what an attached client writes to
        self.process: Process | None = None
        self.known: dict[str, Any] = {}  # what state.json says
        self.stay = False
        self.first = client
        self.server = listen(f"{record.path}/socket")
        self.log = Log(f"{record.path}/log")
        self.once = not self.options["tty"] and not self.options["detach"]  # its input ends with who gave it

    def run(self, lock: int) -> None:
        """Start it, and again as its restart policy says. Who waits hears of the end when all of it is over."""
        restarts, wait = 0, BACKOFF
        while True:
            began = time.monotonic()
            code = self._once(restarts)
            wait = BACKOFF if time.monotonic() - began > SETTLED else wait
            if not self._again(code, restarts):
                break
            self._note(status="restarting")
            self._end(code, self.attached | self.waiting)
            restarts, deadline, wait = restarts + 1, time.monotonic() + wait, min(wait * 2, LONGEST)
            while not self.stay and time.monotonic() < deadline:
                self._serve({}, max(0.0, deadline - time.monotonic()))
            if self.stay:
                self._note(status="exited")
                break
        while self._serve({self.server: 0}, 0.0):
            pass  # those that have just come
        os.close(self.server)
        self.server = -1
        if self.options["rm"]:
            delete(Record(self.record.id), lock)
        else:
            os.close(lock)
        self._end(code, self.clients.keys())
        while self.clients:  # one that is slow, or stopped, still gets all; a new monitor may be there by then
            self._serve({}, None)

    def _again(self, code: int, restarts: int) -> bool:
        self.record = Record(self.record.id)  # its settings may be others by now: minidocker update
        policy, _, most = (self.record.config["options"]["restart"] or "no").partition(":")
        if policy == "on-failure":
            return not self.stay and code != 0 and (not most or restarts < int(most))
        return not self.stay and policy in ("always", "unless-stopped")

    def _note(self, **known: Any) -> None:
        self.known |= known
        self.record.write("state", self.known)

    def _once(self, restarts: int) -> int:
        """One life of the container; its exit code."""
        try:
            argv, isolators, settings = self.make(self.record)
            for wall in isolators:
                wall.window = self.window  # `Terminal` has one
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
            self.stay = True
            return code
        with process:
            if self.options["tty"]:
                outputs, self.input = {process.terminal: 1}, process.terminal
            self._note(status="running", pid=process.pid, started=now(), exit_code=0, error="", restarts=restarts)
            self._tell("start")
            if self.first >= 0:
                self.clients[self.first] = []
                self._attach(self.first)
                self.first = -1
            self._begun(0, "", *(text for wall in isolators for text in getattr(wall, "warnings", ())))
            self._relay(process, outputs)
            left = ""
            try:
                process.wait()
            except ContainerError as refused:  # it has ended; what it held on the host resists: a full disk
                left = str(refused)
            self.process = None
        fence = next((wall for wall in isolators if isinstance(wall, Cgroup)), None)
        code = process.result.exit_code if process.result else ENGINE_FAILED
        self.log.write(1, b"", last=True)
        self.log.write(2, b"", last=True)
        oom_killed = bool(fence and fence.oom_killed)
        self._note(status="exited", pid=0, exit_code=code, finished=now(), oom_killed=oom_killed, error=left)
        self._tell("die", exitCode=str(code))
        self._close_input()
        for number in outputs.keys() - {process.terminal}:
            os.close(number)
        return code

    def _tell(self, action: str, **more: str) -> None:
        with contextlib.suppress(ContainerError):
            tell(action, Record(self.record.id).config, **more)  # it may have another name by now

    def _close_input(self) -> None:
        if self.input >= 0 and not self.options["tty"]:
            os.close(self.input)
        self.input = -1

    def _begun(self, code: int, message: str, *warnings: str) -> None:
        """Tell the command that waits for it, once."""
        if self.told >= 0:
            with contextlib.suppress(OSError):
                send(self.told, (code, message, *warnings))
            os.close(self.told)
            self.told = -1

    def _streams(self) -> tuple[dict[int, int], dict[str, Any], list[int]]:
        """(our ends of its output, what `start` takes, their ends): pipes, but for a terminal."""
        if self.options["tty"]:
            return {}, {}, []
        (out, out_), (err, err_) = os.pipe(), os.pipe()
        if self.options["interactive"]:
            in_, self.input = os.pipe()
            os.set_blocking(self.input, False)
        else:
            in_ = os.open(os.devnull, os.O_RDONLY)
        return {out: 1, err: 2}, {"stdin": in_, "stdout": out_, "stderr": err_}, [in_, out_, err_]

    def _relay(self, process: Process, outputs: dict[int, int]) -> None:
        """Until its first process has ended, and what it wrote until then is read."""
        outputs, ended, reads = dict(outputs), False, AFTER_END
        while True:
            ready = self._serve({**outputs, **({} if ended else {process.pidfd: 0})}, 0.0 if ended else None)
            ended = ended or process.pidfd in ready
            reads -= ended
            for number in ready & outputs.keys():
                data = read(number)
                self.log.write(outputs[number], data)
                for place in range(0, len(data), MESSAGE):
                    self._send((outputs[number], data[place : place + MESSAGE]), self.attached)
                if not data:
                    del outputs[number]
            if ended and (not ready & outputs.keys() or not reads):
                return

    def _serve(self, sources: dict[int, int], timeout: float | None) -> set[int]:
        """Wait for the sources, and for clients; those that have something. While one that sees takes nothing, nothing
        more is read for it, so that it loses nothing; but at the end, when little can be left."""
        slow = [client for client, waiting in self.clients.items() if waiting]
        poll = select.poll()
        if self.server >= 0:
            poll.register(self.server, select.POLLIN)
        for number, stream in sources.items():
            if not stream or timeout is not None or self.attached.isdisjoint(slow):
                poll.register(number, select.POLLIN)
        for client in self.clients:
            poll.register(client, select.POLLIN | (select.POLLOUT if client in slow else 0))
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        if self.server in ready:
            with contextlib.suppress(OSError):
                self.clients[accept(self.server)] = []
        for client in ready.keys() & self.clients.keys():
            self._push(client)
            if ready[client] & ~select.POLLOUT and client in self.clients:
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
        elif what == "wait":
            self.waiting.add(client)
        elif what == "eof" and self.once:
            self._close_input()
        elif what == "stay":
            self.stay = True
        elif what in ("kill", "signal") and self.process:
            tell = pass_on if what == "signal" and not self.options["init"] else Process.send_signal
            tell(self.process, *rest)

    def _attach(self, client: int) -> None:
        self.attached.add(client)
        with contextlib.suppress(OSError):
            send(client, ("input", bool(self.options["tty"])), *([self.input] if self.input >= 0 else []))
        os.set_blocking(client, False)

    def _leave(self, client: int) -> None:
        if client in self.attached and self.once:
            self._close_input()
        self.attached.discard(client)
        self.waiting.discard(client)
        del self.clients[client]
        os.close(client)

    def _send(self, message: tuple[Any, ...], clients: Iterable[int]) -> None:
        """What they do not take now, they take later."""
        for client in [*clients]:
            os.set_blocking(client, False)
            self.clients[client].append(marshal.dumps(message))
            self._push(client)

    def _push(self, client: int) -> None:
        waiting = self.clients[client]
        try:
            while waiting and waiting[0]:
                os.write(client, waiting[0])
                waiting.pop(0)
        except BlockingIOError:
            return
        except OSError:
            waiting.clear()  # it is gone, which poll(2) will say
        if waiting:
            self._leave(client)

    def _end(self, code: int, clients: Iterable[int]) -> None:
        """Tell them that it has ended, and leave each when it has taken all."""
        clients = [*clients]
        self._send(("ended", code), clients)
        for client in clients:
            self.attached.discard(client)
            self.clients[client].append(b"")
            self._push(client)

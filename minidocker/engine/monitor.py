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

import marshal
import os
import select
import time
from _collections_abc import Callable, Iterable

from minidocker import child
from minidocker.engine import records
from minidocker.engine.attach import accept, listen
from minidocker.engine.log import Log
from minidocker.engine.records import Record, delete
from minidocker.engine.signals import pass_on
from minidocker.engine.watch import now, suppress, tell
from minidocker.outcome import ENGINE_FAILED, ContainerError
from minidocker.process import AFTER_END, Process, start
from minidocker.syscalls import PR_SET_NAME, Any, NoReturn, pair, prctl, read, receive, send, signal

MESSAGE = 1 << 15  # bytes of output in one message
BACKOFF, LONGEST, SETTLED = 0.1, 60.0, 10.0  # s before a restart: doubled each time, up to this; after this long, anew
LOCK, CLIENT = 3, 4  # descriptors of a monitor

Make = Callable[[Record], tuple[Any, Any, dict[str, Any]]]  # -> the command, the isolators, and options of `start`


def begin(record: Record, make: Make, client: int = -1) -> list[str]:
    """Start the container of this record, if it does not run; warnings. What keeps it from starting is raised.

    A `client` is a socket: what is asked in it already is heard before anything that the container writes.
    """
    if (lock := records.lock(record)) is None:
        return []
    ours, theirs = pair()
    if (pid := os.fork()) == 0:
        _live(record, make, {LOCK: lock, CLIENT: client}, theirs)
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


def _live(record: Record, make: Make, needed: dict[int, int], told: int) -> NoReturn:
    """The whole life of the monitor: nothing of the command's that it came from but these descriptors."""
    try:
        monitor = Monitor(record, make)
        needed |= dict.fromkeys(range(3), os.open(os.devnull, os.O_RDWR))
        monitor.told = child.arrange(told, {number: here for number, here in needed.items() if here >= 0})
        monitor.clients = {CLIENT: []} if needed[CLIENT] >= 0 else {}
        child.forget_the_parent()
        os.chdir("/")
        prctl(PR_SET_NAME, b"monitor")
        for harmless in (signal.SIGPIPE, signal.SIGXFSZ):  # write(2) says that a client is gone, or a file too large
            signal.signal(harmless, signal.SIG_IGN)
        try:
            monitor.run()
        except Exception as unforeseen:
            monitor._fail(unforeseen)
    finally:
        os._exit(0)


class Monitor:
    """One container, from its start to its end, and again after a restart."""

    told = server = input = -1  # who waits for the start; where clients come in, and where what they type goes out
    process: Process | None = None
    stay = False
    window = b""  # the size of the user's terminal, which a program in the container may ask for at once

    def __init__(self, record: Record, make: Make) -> None:
        self.record, self.make, self.options = record, make, record.config["options"]
        self.clients: dict[int, list[bytes]] = {}  # a socket -> what it has not taken yet; b"" is the end
        self.attached, self.waiting = set[int](), set[int]()
        self.known: dict[str, Any] = {}  # what state.json says
        self.once = not self.options["tty"] and not self.options["detach"]  # its input ends with who gave it
        if self.options["tty"]:
            terminal = __import__("minidocker.terminal", fromlist=["_"])
            self.window = terminal.size(0 if os.isatty(0) else 1)

    def run(self) -> None:
        """Start it, and again as its restart policy says. Who waits hears of the end when all of it is over."""
        self.server, self.log = listen(f"{self.record.path}/socket"), Log(f"{self.record.path}/log")
        restarts, wait = 0, BACKOFF
        while True:
            began = time.monotonic()
            code = self._once(restarts)
            wait = BACKOFF if time.monotonic() - began > SETTLED else wait
            if self.known["status"] != "restarting":
                break
            self._send(("ended", code), self.attached | self.waiting, last=True)
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
            delete(Record(self.record.id), LOCK)
        else:
            os.close(LOCK)
        self._send(("ended", code), self.clients, last=True)
        while self.clients:  # one that is slow, or stopped, still gets all; a new monitor may be there by then
            self._serve({}, None)

    def _again(self, code: int, restarts: int) -> bool:
        policy, _, most = (self.record.config["options"]["restart"] or "no").partition(":")
        if policy == "on-failure":
            return not self.stay and code != 0 and (not most or restarts < int(most))
        return not self.stay and policy in ("always", "unless-stopped")

    def _note(self, **known: Any) -> None:
        self.known |= known
        self.record.write("state", self.known)

    def _fail(self, failure: Exception, **known: Any) -> int:
        message, code = str(failure) or type(failure).__name__, int(getattr(failure, "exit_code", ENGINE_FAILED))
        if isinstance(failure, OSError):  # a full disk
            message = f"{failure.filename or self.record.path}: {failure.strerror}"
        self._note(**known, exit_code=code, error=message)
        self._begun(code, message)
        return code

    def _once(self, restarts: int) -> int:
        """One life of the container; its exit code."""
        try:
            argv, isolators, settings = self.make(self.record)
            for wall in isolators:
                wall.window = self.window  # `Terminal` has one
            outputs, streams, theirs = self._streams()
            process = self.process = start(argv, *isolators, name=self.record.short, **settings, **streams)
            for number in theirs:
                os.close(number)
        except Exception as failure:
            return self._fail(failure, status="exited" if restarts else "created", finished=now())
        with process:
            if self.options["tty"]:
                outputs, self.input = {process.terminal: 1}, process.terminal
            self._note(status="running", pid=process.pid, started=now(), exit_code=0, error="", restarts=restarts)
            tell("start", self.record.config)
            self._begun(0, "", *(text for wall in isolators for text in getattr(wall, "warnings", ())))
            self._relay(process, outputs)
            left = ""
            try:
                process.wait()
            except ContainerError as refused:  # it has ended; what it held on the host resists: a full disk
                left = str(refused)
            self.process = None
        for stream in (1, 2):
            self.log.write(stream, b"", last=True)
        self._close_input()
        for number in outputs.keys() - {process.terminal}:
            os.close(number)
        code = process.result.exit_code if process.result else ENGINE_FAILED
        oom_killed = any(getattr(wall, "oom_killed", False) for wall in isolators)
        with suppress(ContainerError):  # its name and settings may be others by now: rename, update
            self.record.known = Record(self.record.id).config
        status = "restarting" if self._again(code, restarts) else "exited"
        self._note(status=status, pid=0, exit_code=code, finished=now(), oom_killed=oom_killed, error=left)
        tell("die", self.record.config, exitCode=str(code))
        return code

    def _close_input(self) -> None:
        if self.input >= 0 and not self.options["tty"]:
            os.close(self.input)
        self.input = -1

    def _begun(self, code: int, message: str, *warnings: str) -> None:
        """Tell the command that waits for it, once."""
        with suppress(OSError):
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
            with suppress(OSError):
                self.clients[accept(self.server)] = []
        for client in ready.keys() & self.clients.keys():
            self._push(client)
            if ready[client] & ~select.POLLOUT and client in self.clients:
                self._hear(client)
        return ready.keys() & sources.keys()

    def _hear(self, client: int) -> None:
        """What a client asks for; its end."""
        message = None
        with suppress(OSError, ValueError, EOFError):
            message, _ = receive(client)
        what, *rest = message or ("gone",)
        if what == "gone":
            self._leave(client)
        elif what == "attach":
            self.attached.add(client)
            with suppress(OSError):
                send(client, ("input", bool(self.options["tty"])), *([self.input] if self.input >= 0 else []))
        elif what == "wait":
            self.waiting.add(client)
        elif what == "eof" and self.once:
            self._close_input()
        elif what == "stay":
            self.stay = True
        elif what in ("kill", "signal") and self.process:
            tell = pass_on if what == "signal" and not self.options["init"] else Process.send_signal
            tell(self.process, *rest)

    def _leave(self, client: int) -> None:
        if client in self.attached and self.once:
            self._close_input()
        self.attached.discard(client)
        self.waiting.discard(client)
        del self.clients[client]
        os.close(client)

    def _send(self, message: tuple[Any, ...], clients: Iterable[int], last: bool = False) -> None:
        """What they do not take now, they take later. Whoever has taken the last one is left."""
        for client in [*clients]:
            os.set_blocking(client, False)
            self.clients[client] += [marshal.dumps(message), *([b""] if last else [])]
            self.attached -= {client} if last else set()
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

"""Chapter 10: the client's side of a monitor's socket: to see what a container writes, to type, to signal, to wait.

channel = connect(record)
code = follow(channel, keyboard=0, keys=KEYS)      # None: the user has detached, and the container runs on
"""

from __future__ import annotations

import _socket as socket
import os
import select
import time
from _collections_abc import Callable

from minidocker.engine.records import ALIVE, KILLED, Foreground, Record, freeze
from minidocker.engine.watch import suppress
from minidocker.outcome import ContainerError
from minidocker.syscalls import polled, read, receive, send, signal

KEYS = "ctrl-p,ctrl-q"


class NotRunning(ContainerError):
    """There is no monitor that listens."""


def connect(record: Record) -> int:
    """A socket to the monitor of a running container."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        by_short_name(client.connect, f"{record.path}/socket")
    except OSError:
        client.close()
        problem = "not running: minidocker start"
        if isinstance(record, Foreground):
            problem = "in the foreground of its command, which alone hears of it"
        raise NotRunning(f"{record.name or record.short}: this container is {problem}") from None
    return client.detach()


def ended(record: Record, channel: int, timeout: float | None = None) -> int | None:
    """Wait until it ends; its exit code, or None if the time is over."""
    while polled([channel], timeout):
        message, extra = receive(channel) if not isinstance(record, Foreground) else (None, [])
        for number in extra:
            os.close(number)
        if message is None:
            return over(record)
        if message[0] == "ended":
            return int(message[1])
    return None


def over(record: Record) -> int:
    """The exit code of what has no monitor any more, or one that is about to end."""
    while (known := record.state())["status"] in ALIVE:
        time.sleep(0.01)
    return int(known["exit_code"])


def stop(record: Record, number: int = signal.SIGTERM, grace: float | None = 10) -> int:
    """Ask with a signal, wait `grace` seconds (None: for ever), then kill; it is not started again. Its exit code."""
    try:
        channel = kill(record, number, stay=True)
        if number == signal.SIGKILL or (code := ended(record, channel, grace)) is None:
            os.close(kill(record, signal.SIGKILL))
            code = ended(record, channel)
        os.close(channel)
        return code or 0
    except NotRunning:
        return over(record)


def kill(record: Record, number: int, stay: bool = False) -> int:
    """Send it a signal. What comes back says by its end that the container has ended."""
    known = record.state()
    if isinstance(record, Foreground) and known["pid"]:
        channel = os.pidfd_open(known["pid"])
        signal.pidfd_send_signal(channel, number)
    else:
        channel = connect(record)
        with suppress(BrokenPipeError):  # it waited to be started again, and has ended by the first of them
            send(channel, ("stay",)) if stay or number == signal.SIGKILL else None
            send(channel, ("kill", int(number)))
    if number == signal.SIGKILL and known["status"] == "paused":
        freeze(record, False)  # what stands still does not even die
    return channel


def follow(channel: int, keyboard: int = -1, keys: str = KEYS) -> int | None:
    """Show what it writes, and give it what is typed on `keyboard` (-1: nothing), until it ends: its exit code.

    None: the detach keys were typed. The user's terminal is raw meanwhile, if the container has one of its own.
    """
    message, extra = receive(channel)
    if message is None or message[0] != "input":  # it could not be started
        return int(message[1]) if message else KILLED
    terminal, target = message[1], extra[0] if extra else -1
    if target >= 0:
        os.set_blocking(target, False)
    if not terminal or target < 0:
        return _copy(channel, keyboard, target, terminal, b"")
    with __import__("minidocker.terminal", fromlist=["_"]).raw(keyboard, 1, target):
        return _copy(channel, keyboard, target, terminal, _codes(keys))


def _copy(channel: int, keyboard: int, target: int, terminal: bool, keys: bytes) -> int | None:
    """Both directions in one loop. What the container does not take yet is kept, and no more is read meanwhile."""
    kept, held = b"", b""  # typed, and not taken yet; the first of the detach keys
    keyboard = keyboard if target >= 0 else -1
    while True:
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if kept:
            poll.register(target, select.POLLOUT)
        elif keyboard >= 0:
            poll.register(keyboard, select.POLLIN)
        ready = dict(poll.poll())
        if channel in ready:
            message, _ = receive(channel)
            if message is None or message[0] == "ended":
                return KILLED if message is None else int(message[1])
            stream, data = message
            while data:
                data = data[os.write(stream, data) :]
        if kept and target in ready:
            try:
                kept = kept[os.write(target, kept[: select.PIPE_BUF]) :]
            except BlockingIOError:
                pass
            except OSError:
                kept, keyboard = b"", -1  # nobody reads at the other end
        elif keyboard in ready:
            typed = read(keyboard)
            kept = held + typed
            if keys and keys in kept:
                return None
            begun = (keys[:length] for length in range(len(keys) - 1, 0, -1))
            held = next((begin for begin in begun if typed and kept.endswith(begin)), b"")
            kept = kept.removesuffix(held)
            if not typed:
                keyboard = -1
                if terminal:
                    kept += b"\x04"
                else:
                    os.close(target)
                    send(channel, ("eof",))


def _codes(keys: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q", as --detach-keys of Docker has them: single letters, or ctrl- with one."""
    found = b""
    for key in keys.split(","):
        letter = key.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii():
            raise ContainerError(f"--detach-keys {keys}: letters, or ctrl- with a letter, are expected, with commas")
        found += bytes([ord(letter.upper()) & 0x1F]) if key.startswith("ctrl-") else letter.encode()
    return found


def listen(path: str) -> int:
    """A socket at this path, which may be longer than an address of unix(7)."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    by_short_name(server.bind, path)
    server.listen(64)
    return server.detach()


def accept(server: int) -> int:
    """The next client."""
    listening = socket.socket(fileno=server)
    try:
        return int(listening._accept()[0])  # type: ignore[attr-defined]  # what socket(3) of Python makes one of
    finally:
        listening.detach()


def by_short_name(call: Callable[[str], object], path: str) -> None:
    """Connect or bind to the same file, by the number of its open directory."""
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        call(f"/proc/self/fd/{parent}/{os.path.basename(path)}")
    finally:
        os.close(parent)

"""Chapter 10: the client's side of a monitor's socket: to see what a container writes, to type, to signal, to wait.

channel = connect(record)
code = follow(channel, keyboard=0, keys=KEYS)      # None: the user has detached, and the container runs on
"""

from __future__ import annotations

import _socket as socket
import contextlib
import os
import select
import signal

from minidocker.engine.monitor import short
from minidocker.engine.records import Record
from minidocker.outcome import ContainerError
from minidocker.syscalls import polled, read, receive, send
from minidocker.terminal import raw

KEYS = "ctrl-p,ctrl-q"


def connect(record: Record) -> int:
    """A socket to the monitor of a running container."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with short(f"{record.path}/socket") as address:
            client.connect(address)
    except OSError:
        client.close()
        raise ContainerError(
            f"{record.name or record.short}: this container is not running: minidocker start"
        ) from None
    return client.detach()


def ended(channel: int, timeout: float | None = None) -> int | None:
    """Wait until it ends; its exit code, or None if the time is over."""
    while polled([channel], timeout):
        message, extra = receive(channel)
        for number in extra:
            os.close(number)
        if message is None:
            raise ContainerError("the monitor of the container was killed, and the container with it", exit_code=137)
        if message[0] == "ended":
            return int(message[1])
    return None


def stop(record: Record, number: int = signal.SIGTERM, grace: float | None = 10) -> int:
    """Ask with a signal, wait `grace` seconds (None: for ever), then kill; it is not started again. Its exit code."""
    channel = connect(record)
    try:
        send(channel, ("stay",))
        send(channel, ("kill", int(number)))
        if (code := ended(channel, grace)) is None:
            send(channel, ("kill", int(signal.SIGKILL)))
            code = ended(channel)
        return code or 0
    finally:
        os.close(channel)


def follow(channel: int, keyboard: int = -1, keys: str = KEYS) -> int | None:
    """Show what it writes, and give it what is typed on `keyboard` (-1: nothing), until it ends: its exit code.

    None: the detach keys were typed. The user's terminal is raw meanwhile, if the container has one of its own.
    """
    message, extra = receive(channel)
    while message is not None and message[0] != "input":
        if message[0] == "ended":  # it could not be started
            return int(message[1])
        message, extra = receive(channel)
    terminal, target = bool(message and message[1]), extra[0] if extra else -1
    if target >= 0:
        os.set_blocking(target, False)
    with raw(keyboard, 1, target) if terminal and target >= 0 else contextlib.nullcontext():
        return _copy(channel, keyboard, target, terminal, _codes(keys) if terminal else b"")


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
                return 137 if message is None else int(message[1])
            _show(*message)
        if kept and target in ready:
            try:
                kept = kept[os.write(target, kept[: select.PIPE_BUF]) :]
            except BlockingIOError:
                pass
            except OSError:
                kept, keyboard = b"", -1  # nobody reads at the other end
        elif keyboard in ready:
            typed = read(keyboard)
            if keys and (held + typed).endswith(keys):
                return None
            held = typed[-1:] if len(keys) > 1 and keys.startswith(typed[-1:]) else b""
            kept = typed
            if not typed:
                keyboard = -1
                if terminal:
                    kept = b"\x04"
                else:
                    os.close(target)
                    send(channel, ("eof",))


def _show(stream: int, data: bytes) -> None:
    """All of it, to our own stdout or stderr."""
    while data:
        data = data[os.write(stream, data) :]


def _codes(keys: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q", as --detach-keys of Docker has them: single letters, or ctrl- with one."""
    found = b""
    for key in keys.split(",") if keys else []:
        letter = key.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii():
            raise ContainerError(f"--detach-keys {keys}: letters, or ctrl- with a letter, are expected, with commas")
        found += bytes([ord(letter.upper()) & 0x1F]) if key.startswith("ctrl-") else letter.encode()
    return found

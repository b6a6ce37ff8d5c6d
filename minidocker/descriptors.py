"""Chapter 0: descriptors. What the engine sends, waits for, keeps and closes.

    send(channel, ("a", "value"), pidfd)          # to another process, with a copy of a descriptor
    told, (pidfd,) = receive(channel)

A descriptor is a right that was granted once and is not checked again: one too many in a container is a way out of it.
"""

from __future__ import annotations

import _socket as socket  # the half that is written in C: the other takes 5 ms to import
import marshal
import os
import select
import sys

from minidocker import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def pair() -> tuple[int, int]:
    """Two connected sockets that keep the borders of messages, unix(7)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


def send(channel: int, value: Any, *descriptors: int) -> None:
    """One message through a socket: a plain value, with copies of descriptors (SCM_RIGHTS in unix(7))."""
    numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    end = socket.socket(fileno=channel)
    try:
        end.sendmsg([marshal.dumps(value)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if descriptors else [])
    finally:
        end.detach()


def receive(channel: int) -> tuple[Any, list[int]]:
    """The next message, None at the end, and the descriptors in it, which no other program inherits."""
    end = socket.socket(fileno=channel)
    try:
        text, extra, _, _ = end.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 253), socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # said once, when the other side ended without reading all; its messages come after
        return receive(channel)
    finally:
        end.detach()
    return marshal.loads(text) if text else None, [*memoryview(b"".join(data for _, _, data in extra)).cast("i")]


def fill_streams() -> None:
    """/dev/null on each of 0, 1 and 2 that is closed. What is opened next, the lock of a cgroup, would get its number,
    and would be taken for a stream of the caller: a way to the host (CVE-2024-21626)."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def polled(descriptors: Iterable[int], timeout: float | None) -> list[int]:
    """Those with something to read, or at their end, in `timeout` seconds. poll(2): select(2) stops at number 1024."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)]


def read(descriptor: int) -> bytes:
    """What is there, or nothing at the end; the end of a pseudo-terminal is an EIO."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def in_memory(content: str | bytes) -> int:
    """A descriptor of a file in memory: nobody has to stand by and feed a pipe."""
    text, file = content.encode() if isinstance(content, str) else content, os.memfd_create("minidocker")
    while text:
        text = text[os.write(file, text) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def keep(*descriptors: int) -> None:
    """Close all but these. close_range(2) takes a whole gap at once."""
    first = 0
    for number in sorted(descriptors):
        if first < number:
            syscalls.close_range(first, number - 1)
        first = number + 1
    syscalls.close_range(first)

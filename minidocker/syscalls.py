"""Chapter 0: the system calls that Python lacks, through libc, by name and not by number; and descriptors.

    >>> mount("proc", "/nowhere", "proc")
    FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'        # .syscall == "mount"

A failed call raises `OSError` as the functions of `os` do, and its attribute `syscall` says which call it was. glibc
exports each call under its own name, so nothing here depends on the architecture. A descriptor is a right that was
granted once and is not checked again: one too many in a container is a way out of it.
"""

from __future__ import annotations

import _ctypes  # the halves of these three that are written in C: the others take 5 ms each to import
import _signal  # type: ignore[import-not-found]
import _socket as socket
import marshal
import os
import select
import sys
from _collections_abc import Iterable  # the part of collections.abc that os has imported already

TYPE_CHECKING = False  # these are for a type checker, in all modules: to import typing takes longer than a start
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import NoReturn as NoReturn
else:
    Any = NoReturn = object

signal = _signal
_libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # dlopen(3): what this program consists of, libc with it
NUMBERS = {"clone3": 435, "openat2": 437}  # no wrapper; the same everywhere, as all that are younger than Linux 5.0

# <linux/sched.h>: the eight namespaces (NEWNS is that of mounts, the first), and a cgroup to be born in
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
CLONE_INTO_CGROUP = 0x200000000
# <linux/mount.h>, <sys/mount.h>, <linux/prctl.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20, 0x1000, 0x4000, 0x40000, 2
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000  # <fcntl.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15


class Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    """The long of C, as wide as a register; a bare number would be passed as an int, and be cut to 32 bits."""

    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    """A function of libc that returns an int. Its errno is kept before anything else changes it."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO


def call(name: str, *arguments: object, path: object = None) -> int:
    """Call the libc function `name`; raise `OSError` with the attribute `syscall` if it returns -1.

    Strings are encoded as file names, numbers passed as long, None as a null pointer. `path` is named in the error.
    """
    number = [NUMBERS[name]] if name in NUMBERS else []
    function = _Function(_ctypes.dlsym(_libc, "syscall" if number else name))
    encoded = (os.fsencode(word) if isinstance(word, str) else word for word in (*number, *arguments))
    result: int = function(*(Long(word) if isinstance(word, int) else word for word in encoded))
    if result == -1:
        raise error(name, _ctypes.get_errno(), path)
    return result


def structure(*numbers: int) -> bytes:
    """A C structure of 64-bit numbers, as the younger system calls take their arguments."""
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)


def error(syscall: str, number: int, path: object = None) -> OSError:
    """The `OSError` (`FileNotFoundError`, `PermissionError`, ...) of an errno, with the name of the failed call."""
    failure = OSError(number, os.strerror(number), *([path] if path is not None else []))
    failure.syscall = syscall  # type: ignore[attr-defined]
    return failure


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace."""
    call("mount", source, target, fstype, flags, data, path=target)


def mount_setattr(directory: int, path: str, flags: int, on: int = 0, off: int = 0, users: int = 0) -> None:
    """mount_setattr(2), Linux 5.12: set and clear MOUNT_ATTR_* of a mount, and (AT_RECURSIVE) of all below it."""
    call("mount_setattr", directory, path, flags, structure(on, off, 0, users), 4 * 8, path=path or None)


def prctl(option: int, argument: int | bytes = 0) -> int:
    """prctl(2): an attribute of the calling thread."""
    return call("prctl", option, argument, 0, 0, 0)


def close_range(first: int, last: int = 2**31 - 1) -> None:
    """close_range(2), Linux 5.9: close all descriptors from `first` to `last` in one call."""
    call("close_range", first, last, 0)


def clone3(flags: int, cgroup: int = 0, exit_signal: int = signal.SIGCHLD) -> int:
    """clone3(2): fork, but into new namespaces, and (CLONE_INTO_CGROUP) into the cgroup v2 behind a descriptor.

    Only for a process with one thread: unlike `os.fork`, it does not mend the locks of others in the child.
    """
    clone_args = structure(flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup)
    return call("clone3", clone_args, len(clone_args))


def openat2(directory: int, path: str | bytes, flags: int, resolve: int) -> int:
    """openat2(2), Linux 5.6: open(2) below an open directory; `resolve` judges the whole way, and not only its end.

    EAGAIN: something on this machine was renamed or mounted while `..` was looked up, and the kernel cannot be sure.
    """
    how = structure(flags, 0, resolve)
    for _ in range(10_000):
        try:
            return call("openat2", directory, path, how, len(how), path=path)
        except BlockingIOError as unsure:
            refused = unsure
    raise refused


def fill_streams() -> None:
    """/dev/null on each of 0, 1 and 2 that is closed. What is opened next, the lock of a cgroup, would get its number,
    and would be taken for a stream of the caller: a way to the host (CVE-2024-21626)."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def pair() -> tuple[int, int]:
    """Two connected sockets that keep the borders of messages, unix(7)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


def send(channel: int, value: Any, *descriptors: int) -> None:
    """One message through a socket: a plain value, with copies of descriptors (SCM_RIGHTS in unix(7))."""
    if not descriptors:  # write(2): a container's filter of system calls may know none of sockets
        os.write(channel, marshal.dumps(value))
        return
    end = socket.socket(fileno=channel)
    rights = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)  # array imports too much for that
    try:
        end.sendmsg([marshal.dumps(value)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
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

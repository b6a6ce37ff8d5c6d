"""Chapter 0: the system calls that Python lacks, through libc, by name and not by number.

Every isolator needs a few calls that the `os` module does not have (in Python 3.11: `mount`, `umount2`,
`pivot_root`, `unshare`, `setns`, `prctl`, `sethostname`). glibc exports each of them under its own name,
so nothing here depends on the architecture. Only `clone3` and `openat2` have no wrapper; their numbers, 435 and 437,
are the same everywhere, because calls younger than Linux 5.0 are numbered alike on all architectures.

A failed call raises `OSError` as the functions of `os` do, and its attribute `syscall` says which call it was:

    >>> mount("proc", "/nowhere", "proc")
    FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'        # .syscall == "mount"
"""

from __future__ import annotations

import _ctypes  # the half of `ctypes` that is written in C: the other is dear to import
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
else:
    import _signal as signal  # the same functions, without the 5 ms it takes to give each number a name of an enum

_libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # dlopen(3): what this program consists of, libc with it

# <linux/sched.h>: the eight namespaces, and a cgroup to be born in
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000  # mount: the first namespace, named when nobody expected a second
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# <linux/mount.h>, <sys/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC = 0x20, 0x1000, 0x4000
MS_PRIVATE, MS_SLAVE = 0x40000, 0x80000
MNT_DETACH = 2

# <linux/prctl.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    """The int of C, which the calls return."""

    _type_ = "i"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    """The long of C, as wide as a register; a bare number would be passed as an int, and be cut to 32 bits."""

    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    """A function of libc. Its errno is kept before anything else changes it; other threads of Python run meanwhile."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class _Fork(_Function):
    """The same, and no other thread runs meanwhile, since Python's global lock is kept."""

    _flags_ = _Function._flags_ | _ctypes.FUNCFLAG_PYTHONAPI


def call(name: str, *arguments: object, path: object = None) -> int:
    """Call the libc function `name`; raise `OSError` with the attribute `syscall` if it returns -1.

    Strings are encoded as file names, numbers passed as long, None as a null pointer. `path` is named in the error.
    """
    result: int = _Function(_ctypes.dlsym(_libc, name))(*map(_converted, arguments))
    if result == -1:
        raise error(name, _ctypes.get_errno(), path)
    return result


def _converted(argument: object) -> object:
    """A Python value as it can be passed on."""
    if isinstance(argument, str):
        return os.fsencode(argument)
    return _Long(argument) if isinstance(argument, int) else argument


def structure(*numbers: int) -> bytes:
    """A C structure of 64-bit numbers, as the younger system calls take their arguments, for a call that reads it."""
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)


def error(syscall: str, number: int, path: object = None) -> OSError:
    """The `OSError` (`FileNotFoundError`, `PermissionError`, ...) of an errno, with the name of the failed call."""
    failure = OSError(number, os.strerror(number), *([path] if path is not None else []))
    failure.syscall = syscall  # type: ignore[attr-defined]
    return failure


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace."""
    call("mount", source, target, fstype, flags, data, path=target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). With MNT_DETACH the mount disappears from the tree now and is freed when nobody uses it any more."""
    call("umount2", target, flags, path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2): `new_root` becomes the root mount of this mount namespace, the old one moves to `put_old`."""
    call("pivot_root", new_root, put_old, path=new_root)


def unshare(flags: int) -> None:
    """unshare(2): move this process into new namespaces (for PID and time: its next children)."""
    call("unshare", flags)


def setns(descriptor: int, flags: int = 0) -> None:
    """setns(2): enter a namespace (a /proc/PID/ns file), or those in `flags` of the process behind a pidfd (5.8)."""
    call("setns", descriptor, flags)


def sethostname(name: str) -> None:
    """sethostname(2), at most 64 bytes: the name of the UTS namespace that this process is in."""
    encoded = os.fsencode(name)
    call("sethostname", encoded, len(encoded), path=name)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2): attributes of the calling thread."""
    return call("prctl", option, *(*arguments, 0, 0, 0, 0)[:4])


def close_range(first: int, last: int = 2**31 - 1) -> None:
    """close_range(2), Linux 5.9: close all descriptors from `first` to `last` in one call."""
    call("close_range", first, last, 0)


def clone3(flags: int, cgroup: int = 0, exit_signal: int = signal.SIGCHLD) -> int:
    """clone3(2): fork, but into new namespaces, and (CLONE_INTO_CGROUP) into the cgroup v2 behind a descriptor.

    Only for a process with one thread: unlike `os.fork`, it does not mend the locks of others in the child. It keeps
    Python's global lock, which the child would else have to wait for.
    """
    clone_args = structure(flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup)
    pid: int = _Fork(_ctypes.dlsym(_libc, "syscall"))(435, clone_args, len(clone_args))
    if pid == -1:
        raise error("clone3", _ctypes.get_errno())
    return pid


def openat2(directory: int, path: str | bytes, flags: int, resolve: int) -> int:
    """openat2(2), Linux 5.6: open(2) below an open directory; `resolve` judges the whole way, and not only its end."""
    how, tries = structure(flags, 0, resolve), 1000
    while True:
        try:
            return call("syscall", 437, directory, path, how, len(how), path=path)
        except OSError as refused:
            tries -= isinstance(refused, BlockingIOError)  # EAGAIN: somebody renamed something while there was a ".."
            if not tries or not isinstance(refused, BlockingIOError):
                raise error("openat2", refused.errno or 0, path) from None

"""Chapter 4: the server behind the driver `aufs`: what the kernel asks through FUSE, answered by `Writable`.

    main('{"fuse": 3, "upper": "/upper", "lowers": ["/lower"], "trace": null}')     # as `aufs` starts it

A process of its own, on the host, as root. libfuse and mfusepy take the messages apart and call the methods of
`Operations` by name, one after the other. Each does to the branches what is asked for, or raises the `OSError` that
the container's process then gets.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any

from aufs.branches import Writable
from minidocker.files import OVERLAY_MARKS
from minidocker.syscalls import error

FIELDS = ("st_mode", "st_uid", "st_gid", "st_size", "st_blocks", "st_rdev", "st_nlink")


def _where_it_is(call: Callable[..., Any]) -> Callable[..., Any]:
    """The operation that does `call` to the real file, in whichever branch it is."""
    return lambda self, path, *arguments: call(self.branches.find(path)[0], *arguments)


def _in_a_copy(call: Callable[..., Any]) -> Callable[..., Any]:
    """The operation that does `call` to the file in the writable branch, after a copy-up."""
    return lambda self, path, *arguments: call(self.branches.copy_up(path), *arguments)


def _opened(call: Callable[..., Any]) -> Callable[..., Any]:
    """The operation that does `call` to an open file; FUSE names its handle last."""
    return lambda self, path, *arguments: call(arguments[-1], *arguments[:-1])


def _new(make: Callable[..., Any]) -> Callable[..., Any]:
    """The operation that makes an entry, as root, and gives it to the caller. Its first argument is the mode.

    The mode comes last, since chown(2) clears setuid. In a directory with setgid the group is the directory's, and a
    new directory has the bit, too: inode(7).
    """

    def operation(self: Operations, path: str, mode: int, *arguments: Any) -> Any:
        def made(real: str) -> Any:
            answer = make(real, mode, *arguments)
            (uid, gid), status = self.caller(), os.lstat(real)
            inherited = os.lstat(os.path.dirname(real)).st_mode & stat.S_ISGID
            os.chown(real, uid, -1 if inherited else gid, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(real, stat.S_IMODE(mode) | (inherited if stat.S_ISDIR(status.st_mode) else 0))
            return answer

        return self.branches.make(path, made)

    return operation


class Operations:
    """fuse_operations of <fuse.h>. A handle is a descriptor of the real file. `caller`: who asks, (uid, gid)."""

    use_ns = True  # times are in nanoseconds

    def __init__(self, branches: Writable, caller: Callable[[], tuple[int, int]]) -> None:
        self.branches, self.caller = branches, caller
        branches.copied = self._follow
        self._readers: dict[int, str] = {}  # handles of files in lower branches -> their paths
        self._seen: dict[str, str] = {}  # traced lookups: the kernel asks again and again
        # Of a file that is open, libfuse makes a rename to .fuse_hidden..., and the unlink at its close
        self.unlink, self.rmdir, self.rename = branches.unlink, branches.rmdir, branches.rename
        self.link = lambda new, old: branches.link(old, new)

    readlink = _where_it_is(os.readlink)
    getxattr = _where_it_is(lambda real, name: os.getxattr(real, name, follow_symlinks=False))
    listxattr = _where_it_is(lambda real: os.listxattr(real, follow_symlinks=False))

    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        """lookup and stat(2). A directory's link count cannot be told without reading all branches: 1 means that."""
        if handle is not None:
            status = os.fstat(handle)
        else:
            real, status = self.branches.find(path)
            branch = self.branches.branch(real)
            if self._seen.get(path) != branch:
                self._seen[path] = branch
                self.branches.trace(f"lookup    {path}: {branch}")
        answer = {field: int(getattr(status, field)) for field in FIELDS}
        answer |= {time: getattr(status, f"{time}_ns") for time in ("st_atime", "st_mtime", "st_ctime")}
        one = {"st_nlink": 1} if stat.S_ISDIR(status.st_mode) else {}
        return answer | one | {"st_ino": self.branches.number(status)}

    def readdir(self, path: str, _: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """The merged names, with inode number and kind, as readdir(3) gives them."""
        yield from ((name, {}, 0) for name in (".", ".."))
        for name, real in self.branches.names(path).items():
            status = os.lstat(real)
            yield name, {"st_ino": self.branches.number(status), "st_mode": status.st_mode}, 0

    def statfs(self, _: str) -> dict[str, int]:
        status = os.statvfs(self.branches.branches[0])
        return {name: int(getattr(status, name)) for name in dir(status) if name.startswith("f_")}

    def open(self, path: str, flags: int) -> int:
        """For reading where it is, for writing after a copy-up, whether or not anything is written then."""
        writes = flags & (os.O_ACCMODE | os.O_TRUNC)
        real = self.branches.copy_up(path) if writes else self.branches.find(path)[0]
        handle = os.open(real, flags & ~(os.O_CREAT | os.O_EXCL | os.O_DIRECT) | os.O_NOFOLLOW)
        if not self.branches.is_upper(real):
            self._readers[handle] = path
        return handle

    def _follow(self, path: str, target: str) -> None:
        """After a copy-up: whoever has the lower file open must read the copy from now on, under the same number."""
        for handle in [handle for handle, known in self._readers.items() if known == path]:
            copy = os.open(target, os.O_RDONLY | os.O_NOFOLLOW)
            os.dup2(copy, handle, inheritable=False)
            os.close(copy)
            del self._readers[handle]

    read = _opened(os.pread)
    write = _opened(os.pwrite)  # a handle with O_APPEND appends whatever the offset
    fsync = _opened(lambda handle, _: os.fsync(handle))

    def truncate(self, path: str, length: int, handle: int | None = None) -> None:
        os.truncate(self.branches.copy_up(path) if handle is None else handle, length)

    def release(self, _: str, handle: int) -> None:
        self._readers.pop(handle, None)
        os.close(handle)

    create = _new(lambda real, _, flags: os.open(real, flags & ~os.O_DIRECT | os.O_CREAT | os.O_EXCL, 0o600))
    mkdir = _new(lambda real, _: os.mkdir(real, 0o700))
    symlink = _new(lambda real, text: os.symlink(text, real))

    @_new
    def mknod(real: str, mode: int, device: int) -> None:
        """A FIFO, a socket, a device; also an ordinary file. OverlayFS refuses its whiteout, and so do we."""
        if stat.S_ISCHR(mode) and device == 0:
            raise error("mknod", errno.EPERM)
        os.mknod(real, mode, device)

    # The kernel has checked that the caller may
    chmod = _in_a_copy(lambda real, mode: os.chmod(real, stat.S_IMODE(mode)))
    chown = _in_a_copy(lambda real, uid, gid: os.chown(real, uid, gid, follow_symlinks=False))
    utimens = _in_a_copy(lambda real, times: os.utime(real, ns=times, follow_symlinks=False))
    removexattr = _in_a_copy(lambda real, name: os.removexattr(real, name, follow_symlinks=False))

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """A container may not mark directories as opaque."""
        if name.startswith(OVERLAY_MARKS):
            raise error("setxattr", errno.EPERM, path)
        os.setxattr(self.branches.copy_up(path), name, value, flags, follow_symlinks=False)


def main(order: str) -> None:
    """Say that we are ready, wait for the mount, and serve until it is gone.

    mfusepy would take libfuse 2 where both are; that one knows no /dev/fd/N, and would mount on the host's /dev/fuse.
    """
    os.environ.pop("FUSE_LIBRARY_PATH", None)
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    import mfusepy

    if mfusepy.fuse_version_major != 3:
        sys.exit("libfuse 3 is missing: install the package fuse3")

    class Server(mfusepy.FUSE):  # type: ignore[misc]
        def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
            """renameat2(2): mfusepy drops the flags: an exchange would become a loss. NOREPLACE, 1, is the kernel's."""
            return -errno.EINVAL if flags & ~1 else int(self.rename_fuse_2(old, new) or 0)

    settings = json.loads(order)
    trace = open(settings["trace"] or os.devnull, "a", buffering=1, errors="surrogateescape")  # one write for each line
    branches = Writable(settings["upper"], settings["lowers"], lambda line: trace.write(line + "\n"))
    os.umask(0)
    os.chdir("/")
    os.write(1, b"ready")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    if os.read(0, 1):  # nothing, if the owner died or gave up
        operations = Operations(branches, lambda: mfusepy.fuse_get_context()[:2])
        options = {"foreground": True, "nothreads": True, "use_ino": True, "attr_timeout": 0, "entry_timeout": 3600}
        Server(operations, f"/dev/fd/{settings['fuse']}", **options)

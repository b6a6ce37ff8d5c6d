"""Chapter 4: trees of files, by descriptors: walk, copy, remove, and the room that they take.

    for path, directory, name, status in walk(top): ...     # the open directory `top`, and all that is below it
    copy(image, volume)                                     # the content of one open directory into another
    remove("/var/lib/minidocker/containers/web1")

A path is looked up anew each time, and whoever shares the tree may exchange a directory for a symlink in between. So a
directory is opened in its parent, following no link, and left by `..`, which must be where we came from. This works at
any depth. Names and paths are bytes.
"""

from __future__ import annotations

import errno
import os
import stat

from minidocker.outcome import ContainerError
from minidocker.syscalls import call, openat2

# How OverlayFS marks its own directories: a copy is no part of an overlay. In a user namespace it says user. instead
OVERLAY_MARKS = ("trusted.overlay.", "user.overlay.")
RESOLVE_NO_XDEV, RESOLVE_NO_SYMLINKS, AT_EMPTY_PATH, PATH_MAX = 0x01, 0x04, 0x1000, 4096
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a FIFO in its place does not make us wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Name = str | bytes
    Owner = tuple[int, int] | None
    Skips = Callable[[bytes], bool]


class NotRemoved(ContainerError):
    """What could not be removed: `failures`. All else was: `removed`."""

    def __init__(self, failures: list[Exception], removed: Iterable[str] = ()) -> None:
        few = [
            f"{os.fsdecode(one.filename or '')}: {one.strerror}" if isinstance(one, OSError) else str(one)
            for one in failures[:3]
        ]
        few += [f"and {len(failures) - 3} more"] if failures[3:] else []
        super().__init__(f"not removed: {'; '.join(few)}: lsattr shows what is immutable, findmnt what is mounted")
        self.failures, self.removed = failures, list(removed)


def _steps(
    path: Name, dir_fd: int | None, failures: list[Exception] | None = None, skips: Skips | None = None
) -> Iterator[tuple[list[bytes], int, bytes, os.stat_result, bool]]:
    """(way, open directory, name, status, False) of an entry and all below; a directory again, with True, at its end.

    `way` is the list of names that leads there. What cannot be looked into is an error. With `failures` it is one of
    these, and so is a directory on which something is mounted.
    """
    parent, base = os.path.split(os.fsencode(path))
    here = os.open(parent or b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
    way, waiting = list[bytes](), list[tuple[bytes, tuple[os.stat_result, ...]]]([(base, ())])
    try:
        while waiting:
            name, entered = waiting.pop()
            if entered:
                status, above = entered
                _move(here, name, above=above)
                yield way, here, name, status, True
                way.pop()
                continue
            way.append(name if way else os.fsencode(path))
            try:
                status = os.lstat(name, dir_fd=here)
                yield way, here, name, status, False
                if stat.S_ISDIR(status.st_mode) and not (skips and skips(b"/".join(way[1:]))):
                    above = os.fstat(here)
                    names = _move(here, name, RESOLVE_NO_XDEV if failures is not None else 0)
                    waiting += [(name, (status, above)), *((below, ()) for below in names)]
                    continue
            except OSError as refused:
                refused.filename = b"/".join(way)
                if refused.errno == errno.EXDEV:
                    refused.strerror = "something is mounted on it"
                if failures is None:
                    raise
                failures.append(refused)
            way.pop()
    finally:
        os.close(here)


def _move(here: int, name: bytes, resolve: int = 0, above: os.stat_result | None = None) -> list[bytes]:
    """Exchange the open directory for one in it, and return what is there, last names first; or for the one above."""
    way = name if above is None or name == b"." else b".."
    there = openat2(here, way, READ | os.O_DIRECTORY, resolve | RESOLVE_NO_SYMLINKS)
    try:
        if above and not os.path.samestat(os.fstat(there), above):
            raise OSError(errno.ESTALE, "somebody moved or exchanged it meanwhile", name)
        names = [] if above else sorted(map(os.fsencode, os.listdir(there)), reverse=True)
        os.dup2(there, here, inheritable=False)
        return names
    finally:
        os.close(there)


def walk(top: int, entry: Name = ".", skips: Skips | None = None) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """(path below the entry of `top`, open directory, name in it, status); a directory before its content, by name.

    `skips` is told the path of each directory, and says whether to leave out what is in it.
    """
    for way, directory, name, status, after in _steps(entry, top, skips=skips):
        if not after:
            yield b"/".join(way[1:]), directory, name, status


def usage(paths: Iterable[Name]) -> int:
    """Bytes on the disk of everything below these paths, each file once however many names it has: du(1) -x."""
    import subprocess  # dear to import, and no start needs it

    command, names = ["du", "-sxc", "--block-size=1", "--files0-from=-"], b"\0".join(map(os.fsencode, paths))
    done = subprocess.run(command, input=names, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(done.stdout.split()[-2])


def remove(path: Name, dir_fd: int | None = None) -> int:
    """Remove an entry with all below it, if it is there; return how many bytes that freed.

    No link and no mount is followed. What cannot be removed stays, and is a `NotRemoved` when all else is gone.
    Nothing is written or moved: it works on a full disk.
    """
    failures: list[Exception] = []
    freed = 0
    for way, directory, name, status, after in _steps(path, dir_fd, failures):
        inner = stat.S_ISDIR(status.st_mode)
        try:
            if after or not inner:
                (os.rmdir if after else os.unlink)(name, dir_fd=directory)
                freed += status.st_blocks * 512 if inner or status.st_nlink == 1 else 0
            elif os.geteuid() != 0:
                os.chmod(name, 0o700, dir_fd=directory)  # OverlayFS leaves one without any rights; root needs none
        except OSError as refused:
            if refused.errno != errno.ENOTEMPTY or not failures:
                refused.filename = b"/".join(way)
                failures.append(refused)
    failures = [failed for failed in failures if not isinstance(failed, FileNotFoundError)]
    if failures:
        raise NotRemoved(failures)
    return freed


def copy(source: int, target: int) -> None:
    """Copy the content of an open directory, with all below it, into another one. Needs root for owners and devices.

    Names of one file become names of one copy.
    """
    copies = dict[tuple[int, int], bytes]()
    here, levels, umask = os.dup(target), list[os.stat_result](), os.umask(0)
    try:
        for way, directory, name, status, after in _steps(".", source):
            file = status.st_dev, status.st_ino
            if after:
                attributes(status, xattrs(place(directory, name)), here)
                _move(here, name, above=levels.pop())
            elif stat.S_ISDIR(status.st_mode):
                if way[1:]:
                    os.mkdir(name, 0o700, dir_fd=here)
                levels.append(os.fstat(here))
                _move(here, name)
            elif file in copies:
                _link(target, copies[file], here, name)
            else:
                copy_entry(directory, name, here, name)
                if status.st_nlink > 1 and len(path := b"/".join(way)) < PATH_MAX:
                    copies[file] = path
    finally:
        os.umask(umask)
        os.close(here)


def _link(top: int, path: bytes, directory: int, name: bytes) -> None:
    """linkat(2); nobody who exchanges a directory on the way for a symlink leads us to a file of the host."""
    first = openat2(top, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, RESOLVE_NO_SYMLINKS)
    try:
        call("linkat", first, "", directory, name, AT_EMPTY_PATH, path=name)
    finally:
        os.close(first)


def copy_entry(
    source: int | None,
    name: Name,
    target: int | None,
    new: Name,
    content: bool = True,
    owner: Owner = None,
    mode: int | None = None,
) -> None:
    """A file, a link, a device, and of a directory an empty one, from one open directory into another.

    Without `content` a file is empty, too. `owner`, (uid, gid), and `mode` are in place of its own.
    """
    status, writing = os.lstat(name, dir_fd=source), os.O_WRONLY | os.O_CREAT | os.O_EXCL
    if stat.S_ISREG(status.st_mode):
        with (
            open(os.open(name, READ, dir_fd=source), "rb", 0) as read,
            open(os.open(new, writing, 0o600, dir_fd=target), "wb", 0) as write,
        ):
            status = os.fstat(read.fileno())
            copy_content(read.fileno(), write.fileno(), status.st_size if content else 0)
            attributes(status, xattrs(read.fileno()), write.fileno(), owner, mode)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(os.fsencode(name), dir_fd=source), new, dir_fd=target)
    elif stat.S_ISDIR(status.st_mode):
        os.mkdir(new, 0o700, dir_fd=target)
    else:
        kind, own = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        os.mknod(new, kind | (own if mode is None else mode), status.st_rdev, dir_fd=target)
    attributes(status, xattrs(place(source, name)), place(target, new), owner, mode)


def copy_content(source: int, target: int, size: int) -> None:
    """The bytes, and the holes where no bytes were written: lseek(2), SEEK_DATA. The kernel copies: sendfile(2)."""
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: nothing but a hole is left
        hole = min(os.lseek(source, position, os.SEEK_HOLE), size)
        os.lseek(target, position, os.SEEK_SET)
        while position < hole:
            position += os.sendfile(target, source, position, hole - position) or hole


def attributes(
    status: os.stat_result, found: dict[str, bytes], target: int | Name, owner: Owner = None, mode: int | None = None
) -> None:
    """Owner first: its change takes setuid and capabilities away. Times last: the rest changes them.

    A `target` that is a path is not followed. What this file system does not have is left out, as Docker does it.
    """
    opened = isinstance(target, int)
    os.chown(target, *(owner or (status.st_uid, status.st_gid)), follow_symlinks=opened)
    for key, value in found.items():
        try:
            os.setxattr(target, key, value, follow_symlinks=opened)
        except OSError as refused:
            if refused.errno != errno.ENOTSUP:
                raise
    if opened or stat.S_ISDIR(status.st_mode):  # a link has none, and a device was made with it
        os.chmod(target, stat.S_IMODE(status.st_mode) if mode is None else mode)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=opened)


def place(directory: int | None, name: Name) -> bytes:
    """A path for calls that take no descriptor, such as those for the attributes of a link; it needs /proc."""
    return os.path.join(b"" if directory is None else b"/proc/self/fd/%d" % directory, os.fsencode(name))


def xattrs(entry: int | Name, less: tuple[str, ...] = OVERLAY_MARKS) -> dict[str, bytes]:
    """Extended attributes, xattr(7), of a descriptor or a path (not followed), less those that begin so."""
    follow = isinstance(entry, int)
    try:
        names = [name for name in os.listxattr(entry, follow_symlinks=follow) if not name.startswith(less)]
        return {name: os.getxattr(entry, name, follow_symlinks=follow) for name in names}
    except OSError as refused:
        if refused.errno not in (errno.ENOTSUP, errno.ENOENT):  # a file system without them; a jail without /proc
            raise
        return {}

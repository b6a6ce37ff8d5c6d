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
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Name = str | bytes
    Owner = tuple[int, int] | None
    Step = tuple[list[bytes], int, bytes, os.stat_result, bool]


class NotRemoved(ContainerError):
    """What could not be removed: `failures`. All else was: `removed`, which `freed` so many bytes."""

    def __init__(self, failures: list[Exception], removed: Iterable[str] = (), freed: int = 0) -> None:
        few = "; ".join(
            f"{os.fsdecode(one.filename or '')}: {one.strerror}" if isinstance(one, OSError) else str(one)
            for one in failures[:3]
        )
        more = f"; and {len(failures) - 3} more" if failures[3:] else ""
        super().__init__(f"not removed: {few}{more}: lsattr shows what is immutable, findmnt what is mounted")
        self.failures, self.removed, self.freed = failures, list(removed), freed


def _steps(
    path: Name,
    dir_fd: int | None,
    resolve: int = 0,
    failures: list[Exception] | None = None,
    skips: Callable[[bytes], bool] | None = None,
) -> Iterator[Step]:
    """(way, open directory, name, status, False) of an entry and all below; a directory again, with True, at its end.

    `way` is the list of names that leads there. What cannot be looked into is an error, or one of the `failures`.
    """
    parent, base = os.path.split(os.fsencode(path))
    directory = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    levels, way = [(os.fstat(directory), iter([base]))], list[bytes]()
    try:
        while levels:
            name = next(levels[-1][1], None)
            if name is None:
                status, _ = levels.pop()
                if levels:
                    name = way[-1] if way[1:] else base
                    directory = _left(directory, name, levels[-1][0])
                    yield way, directory, name, status, True
                    way.pop()
                continue
            way.append(name if way else os.fsencode(path))
            try:
                status = os.lstat(name, dir_fd=directory)
                yield way, directory, name, status, False
                if stat.S_ISDIR(status.st_mode) and not (skips and skips(b"/".join(way[1:]))):
                    directory = _entered(directory, name, resolve)
                    levels.append((os.fstat(directory), iter(())))
                    levels[-1] = levels[-1][0], iter(sorted(map(os.fsencode, os.listdir(directory))))
            except OSError as refused:
                refused.filename = b"/".join(way)
                if refused.errno == errno.EXDEV:
                    refused.strerror = "something is mounted on it"
                if failures is None:
                    raise
                failures.append(refused)
            if len(levels) == len(way):
                way.pop()
    finally:
        os.close(directory)


def _entered(directory: int, name: bytes, resolve: int = 0) -> int:
    """A directory, opened in place of the one that it is in."""
    below = openat2(directory, name, READ | os.O_DIRECTORY, resolve | RESOLVE_NO_SYMLINKS)
    os.close(directory)
    return below


def _left(directory: int, name: bytes, parent: os.stat_result) -> int:
    """The other way round; an error if somebody has moved the directory meanwhile."""
    above = os.open("." if name == b"." else "..", READ | os.O_DIRECTORY, dir_fd=directory)
    try:
        _check(above, parent, name)
    except OSError:
        os.close(above)
        raise
    os.close(directory)
    return above


def _check(descriptor: int, expected: os.stat_result, name: Name) -> None:
    if not os.path.samestat(os.fstat(descriptor), expected):
        raise OSError(errno.ESTALE, "somebody moved or exchanged it meanwhile", name)


def walk(top: int, skips: Callable[[bytes], bool] | None = None) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """(path below the top, open directory, name in it, status); a directory before its content, names in order.

    `skips` is told the path of each directory, and says whether to leave out what is in it.
    """
    for way, directory, name, status, after in _steps(".", top, skips=skips):
        if not after:
            yield b"/".join(way[1:]), directory, name, status


def usage(paths: Iterable[Name]) -> int:
    """Bytes on the disk of everything below these paths, each file once however many names it has: du(1) -x."""
    sizes = {}
    for path in paths:
        try:
            for _, _, _, status, _ in _steps(path, None, RESOLVE_NO_XDEV, failures=[]):
                sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
        except OSError:
            pass  # it is gone, or somebody moves directories meanwhile: what was found until then
    return sum(sizes.values())


def remove(path: Name, dir_fd: int | None = None) -> int:
    """Remove an entry with all below it, if it is there; return how many bytes that freed.

    No link and no mount is followed. What cannot be removed stays, and is a `NotRemoved` when all else is gone.
    Nothing is written or moved: it works on a full disk.
    """
    failures: list[Exception] = []
    freed = 0
    for way, directory, name, status, after in _steps(path, dir_fd, RESOLVE_NO_XDEV, failures):
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
        raise NotRemoved(failures, freed=freed)
    return freed


def copy(source: int, target: int, entry: Name = ".", new: Name | None = None) -> None:
    """Copy an entry of an open directory, with all below it, into another one; by default its whole content.

    Names of one file become names of one copy. Needs root for owners and devices.
    """
    copies: dict[tuple[int, int], tuple[bytes, os.stat_result]] = {}
    here, levels, umask = os.dup(target), [os.fstat(target)], os.umask(0)
    try:
        for way, directory, name, status, after in _steps(entry, source):
            path = [os.fsencode(new or way[0]), *way[1:]]
            if after:
                inner = os.open(name, READ | os.O_DIRECTORY, dir_fd=directory)
                attributes(inner, here)
                os.close(inner)
                here = _left(here, path[-1], levels.pop())
            elif stat.S_ISDIR(status.st_mode):
                if path[-1] != b".":
                    os.mkdir(path[-1], 0o700, dir_fd=here)
                levels.append(os.fstat(here))
                here = _entered(here, path[-1])
            elif known := copies.get((status.st_dev, status.st_ino)):
                _link(target, *known, here, path[-1])
            else:
                copy_entry(directory, name, here, path[-1])
                if status.st_nlink > 1 and len(b"/".join(path)) < PATH_MAX:
                    copies[status.st_dev, status.st_ino] = b"/".join(path), os.lstat(path[-1], dir_fd=here)
    finally:
        os.umask(umask)
        os.close(here)


def _link(top: int, path: bytes, expected: os.stat_result, directory: int, name: bytes) -> None:
    """linkat(2) from the copy that we made, and from nothing that somebody put in its place."""
    first = openat2(top, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, RESOLVE_NO_SYMLINKS)
    try:
        _check(first, expected, path)
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
    """A file, a link, a FIFO, a socket or a device, from one open directory into another. Without `content`, empty.

    `owner`, (uid, gid), and `mode` are in place of its own.
    """
    status = os.lstat(name, dir_fd=source)
    if stat.S_ISREG(status.st_mode):
        with (
            open(os.open(name, READ, dir_fd=source), "rb", 0) as read,
            open(os.open(new, WRITE, 0o600, dir_fd=target), "wb", 0) as write,
        ):
            _check(read.fileno(), status, name)
            copy_content(read.fileno(), write.fileno(), status.st_size if content else 0)
            attributes(read.fileno(), write.fileno(), owner, mode)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(os.fsencode(name), dir_fd=source), new, dir_fd=target)
    else:
        kind, own = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        os.mknod(new, kind | (own if mode is None else mode), status.st_rdev, dir_fd=target)
    os.chown(new, *(owner or (status.st_uid, status.st_gid)), dir_fd=target, follow_symlinks=False)
    _set(place(target, new), xattrs(place(source, name)))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


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


def attributes(source: int, target: int | str, owner: Owner = None, mode: int | None = None) -> None:
    """Of descriptors. Owner first: its change takes setuid and capabilities away. Times last: the rest changes them."""
    status = os.fstat(source)
    os.chown(target, *(owner or (status.st_uid, status.st_gid)))
    _set(target, xattrs(source))
    os.chmod(target, stat.S_IMODE(status.st_mode) if mode is None else mode)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _set(entry: int | Name, attributes: dict[str, bytes]) -> None:
    """One that this file system does not have is left out, as Docker does it."""
    for key, value in attributes.items():
        try:
            os.setxattr(entry, key, value, follow_symlinks=isinstance(entry, int))
        except OSError as refused:
            if refused.errno != errno.ENOTSUP:
                raise


def place(directory: int | None, name: Name) -> bytes:
    """A path for calls that take no descriptor, such as those for the attributes of a link; it needs /proc."""
    return os.path.join(b"" if directory is None else b"/proc/self/fd/%d" % directory, os.fsencode(name))


def xattrs(entry: int | Name) -> dict[str, bytes]:
    """Extended attributes, xattr(7), of a descriptor or a path (not followed), less the marks of OverlayFS."""
    follow = isinstance(entry, int)
    try:
        names = [name for name in os.listxattr(entry, follow_symlinks=follow) if not name.startswith(OVERLAY_MARKS)]
        return {name: os.getxattr(entry, name, follow_symlinks=follow) for name in names}
    except OSError as refused:
        if refused.errno not in (errno.ENOTSUP, errno.ENOENT):  # a file system without them; a jail without /proc
            raise
        return {}

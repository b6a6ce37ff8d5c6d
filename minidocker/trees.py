"""Chapter 4: trees of files, by descriptors: walk, and remove. A container's end needs the second.

    for path, directory, name, status in walk(top): ...     # the open directory `top`, and all that is below it
    remove("/var/lib/minidocker/containers/web1")

A path is looked up anew each time, and whoever shares the tree may exchange a directory for a symlink in between. So a
directory is opened in its parent, following no link, and left by `..`, which must be where we came from. This works at
any depth. Names and paths are bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from _collections_abc import Callable, Iterable, Iterator

from minidocker.outcome import ContainerError
from minidocker.syscalls import openat2

RESOLVE_NO_XDEV, RESOLVE_NO_SYMLINKS = 0x01, 0x04
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a FIFO in its place does not make us wait

Name = str | bytes
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


def steps(
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
                move(here, name, above=above)
                yield way, here, name, status, True
                way.pop()
                continue
            way.append(name if way else os.fsencode(path))
            try:
                status = os.lstat(name, dir_fd=here)
                yield way, here, name, status, False
                if stat.S_ISDIR(status.st_mode) and not (skips and skips(b"/".join(way[1:]))):
                    above = os.fstat(here)
                    names = move(here, name, RESOLVE_NO_XDEV if failures is not None else 0)
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


def move(here: int, name: bytes, resolve: int = 0, above: os.stat_result | None = None) -> list[bytes]:
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
    for way, directory, name, status, after in steps(entry, top, skips=skips):
        if not after:
            yield b"/".join(way[1:]), directory, name, status


def remove(path: Name, dir_fd: int | None = None) -> int:
    """Remove an entry with all below it, if it is there; return how many bytes that freed.

    No link and no mount is followed. What cannot be removed stays, and is a `NotRemoved` when all else is gone.
    Nothing is written or moved: it works on a full disk.
    """
    failures: list[Exception] = []
    freed = 0
    for way, directory, name, status, after in steps(path, dir_fd, failures):
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

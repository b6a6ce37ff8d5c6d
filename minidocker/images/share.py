"""Chapter 5: what sharing of layers misses. Layers that differ in one file have nothing in common, by their digests.

    share(target, [(b"usr/lib/libc.so.6", "9f86d081"), …], "/var/lib/minidocker/layers/files")

Below the unpacked layers, files can be one nevertheless. A pool holds a hard link to each large file, under a name made
of its checksum, size, path, owner, mode and time. A file that the pool has already, after comparing every byte, is
replaced by a link to that one. It is safe because nobody writes to a lower layer: OverlayFS copies a file up before the
first change. The path is part of the name, so that no two names that a container sees become one file; all it can
notice is a larger count of links. Some programs mind that (cron refuses such a crontab), one reason more to leave small
files alone. A checksum, not a digest: it finds what to compare, and costs a tenth; a forged one gains nothing.

Where the file system can clone (btrfs, xfs), files with other names, owners, modes or times share their blocks as well:
ioctl_ficlonerange(2). The pool needs no list: what only the pool has a link to is garbage.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat

from minidocker.images.diff import open_directory
from minidocker.images.restore import CHUNK

SMALLEST = 1 << 16  # bytes: few files are larger, and they hold most of a root's bytes
FICLONE = 0x40049409  # <linux/fs.h>
TEMPORARY = ".wh..wh.shared"  # a name that is in no layer: it would be a whiteout
# Then the file stays as it is, and that is all. ENOENT: the jail has named a file that is not there
REFUSED = (errno.EMLINK, errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EXDEV)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def share(target: str, files: Iterable[tuple[bytes, str]], pool: str) -> int:
    """Share the files (name below `target`, checksum of the content) with the pool; return how many bytes that saves.

    Host side, root. Names and tree are as hostile as the layer was, but nothing runs in it any more: no symlink is
    followed, and nothing climbs.
    """
    os.makedirs(pool, mode=0o700, exist_ok=True)
    top, shared = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in (target, pool))
    saved = 0
    try:
        clones = _can_clone(shared)
        for parent, group in itertools.groupby(files, lambda file: os.path.dirname(file[0])):
            try:
                directory = open_directory(top, parent)
            except OSError:
                continue  # the way leads through a symlink of the layer, or nowhere
            try:
                times = os.fstat(directory)
                saved += sum(_share(shared, directory, *file, clones) for file in group)
                os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))
            finally:
                os.close(directory)
    finally:
        os.close(top)
        os.close(shared)
    return saved


def _share(pool: int, directory: int, name: bytes, checksum: str, clones: bool) -> int:
    """Share one file; return the bytes that this saves. A file with several names in its layer is left alone."""
    try:
        file = _File(pool, directory, name, checksum)
        single = stat.S_ISREG(file.status.st_mode) and file.status.st_nlink == 1
        return file.share(clones) if single else 0
    except OSError as refused:
        if refused.errno not in REFUSED:
            raise
        return 0


class _File:
    """One file of the layer: `base` in the open `directory`; and the pool, an open directory too."""

    def __init__(self, pool: int, directory: int, name: bytes, checksum: str) -> None:
        self.pool, self.directory, self.base = pool, directory, os.path.basename(name)
        self.status = status = os.stat(self.base, dir_fd=directory, follow_symlinks=False)
        identity = b"%o %d %d %d " % (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns) + name
        self.content = f"{checksum}-{status.st_size}"
        self.key = f"{self.content}-{hashlib.sha256(identity).hexdigest()[:32]}"
        self.bytes = status.st_blocks * 512

    def share(self, clones: bool) -> int:
        """Become a link to the pool's file, or else become that; with `clones`, take the blocks of a similar one."""
        if self._is_in_pool(self.key):
            self._replace()
            return self.bytes
        saved = self._clone() if clones else 0
        for name in [self.key, *([self.content] if clones and not saved else [])]:
            with contextlib.suppress(FileExistsError):  # another process was faster, or had another content
                os.link(self.base, name, src_dir_fd=self.directory, dst_dir_fd=self.pool)
        return saved

    def _replace(self) -> None:
        """Put a link to the pool's file in its place, at once."""
        os.link(self.key, TEMPORARY, src_dir_fd=self.pool, dst_dir_fd=self.directory)
        try:
            os.rename(TEMPORARY, self.base, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except OSError:
            os.unlink(TEMPORARY, dir_fd=self.directory)
            raise

    def _is_in_pool(self, name: str) -> bool:
        """Whether the pool has a file of this name, with the same content."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            theirs = os.open(name, flags, dir_fd=self.pool)
        except FileNotFoundError:
            return False
        ours = os.open(self.base, flags, dir_fd=self.directory)
        try:
            while data := os.read(ours, CHUNK):
                if data != os.read(theirs, CHUNK):
                    return False
            return True
        finally:
            os.close(ours)
            os.close(theirs)

    def _clone(self) -> int:
        """Give the file the blocks of the pool's file with the same content, if there is one."""
        if not self._is_in_pool(self.content):
            return 0
        source = os.open(self.content, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.pool)
        target = os.open(self.base, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)
        try:
            fcntl.ioctl(target, FICLONE, source)
            os.utime(target, ns=(self.status.st_atime_ns, self.status.st_mtime_ns))
        finally:
            os.close(source)
            os.close(target)
        return self.bytes


def _can_clone(pool: int) -> bool:
    """Whether the file system can: ask it for a clone of one empty file, which has no name."""
    opened: list[int] = []
    try:
        for _ in range(2):
            opened.append(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=pool))
        fcntl.ioctl(opened[0], FICLONE, opened[1])
    except OSError:  # nor does every file system have files without a name
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


def _pool(pool: str) -> Iterator[tuple[list[str], os.stat_result]]:
    """Each file of the pool: its paths there, and its status."""
    found: dict[int, tuple[list[str], os.stat_result]] = {}
    if os.path.isdir(pool):
        with os.scandir(pool) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.setdefault(status.st_ino, ([], status))[0].append(entry.path)
    yield from found.values()


def prune(pool: str) -> int:
    """Remove what no layer has any more; return the bytes that this frees. Layers may come and go meanwhile."""
    freed = 0
    for paths, status in _pool(pool):
        if status.st_nlink == len(paths):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            freed += status.st_blocks * 512
    return freed

"""Chapter 4: a faithful copy of one entry of a file system: content, kind, owner, mode, times, extended attributes.

    copy_entry("/lower/etc/motd", "/upper/etc/motd")

A copy-up makes one of these; the driver `copy` makes one for each file of a root. Needs root for owners and devices.
"""

from __future__ import annotations

import errno
import os
import stat

# How OverlayFS marks its own directories: a copy is no part of an overlay. In a user namespace it says user. instead
OVERLAY_MARKS = ("trusted.overlay.", "user.overlay.")


def copy_entry(source: str, target: str, content: bool = True) -> None:
    """Make `target` a copy of `source`, which is not followed if it is a link; of a directory, an empty one.

    Without `content` a file stays empty: whoever opens it with O_TRUNC does not want to wait for the rest.
    """
    status = os.lstat(source)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(target, 0o700)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(source, target, status.st_size if content else 0)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)
    copy_attributes(source, target, status)


def _copy_file(source: str, target: str, size: int) -> None:
    """The bytes, and the holes where no bytes were written: lseek(2), SEEK_DATA. The kernel copies: sendfile(2)."""
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(write, size)
        position = 0
        while position < size:
            try:
                position = os.lseek(read, position, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: nothing but a hole is left
            hole = min(os.lseek(read, position, os.SEEK_HOLE), size)
            os.lseek(write, position, os.SEEK_SET)
            while position < hole:
                position += os.sendfile(write, read, position, hole - position) or hole
    finally:
        os.close(read)
        os.close(write)


def attributes(path: str) -> set[str]:
    """The names of its extended attributes, xattr(7); none where the file system has no such thing."""
    try:
        return set(os.listxattr(path, follow_symlinks=False))
    except OSError as refused:
        if refused.errno != errno.ENOTSUP:
            raise
        return set()


def copy_attributes(source: str, target: str, status: os.stat_result) -> None:
    """Owner first: its change takes setuid bits and file capabilities away. Times last: the rest changes them."""
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    for name in attributes(source):
        if not name.startswith(OVERLAY_MARKS):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)

"""Chapter 4: copies of files, with all that belongs to a file; and the room that files take.

    copy(image, volume)                                     # the content of one open directory into another

Nobody who changes either tree meanwhile leads us out of it: both are walked by descriptors, see `trees`.
"""

from __future__ import annotations

import errno
import os
import stat
from _collections_abc import Iterable

from minidocker.syscalls import openat2
from minidocker.trees import READ, RESOLVE_NO_SYMLINKS, Name, move, steps

# How OverlayFS marks its own directories: a copy is no part of an overlay. In a user namespace it says user. instead
OVERLAY_MARKS = ("trusted.overlay.", "user.overlay.")
PATH_MAX = 4096

Owner = tuple[int, int] | None


def usage(paths: Iterable[Name]) -> int:
    """Bytes on the disk of everything below these paths, each file once however many names it has: du(1) -x."""
    import subprocess  # dear to import, and no start needs it

    command, names = ["du", "-sxc", "--block-size=1", "--files0-from=-"], b"\0".join(map(os.fsencode, paths))
    done = subprocess.run(command, input=names, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(done.stdout.split()[-2])


def copy(source: int, target: int) -> None:
    """Copy the content of an open directory, with all below it, into another one. Needs root for owners and devices.

    Names of one file become names of one copy.
    """
    copies = dict[tuple[int, int], bytes]()
    here, levels, umask = os.dup(target), list[os.stat_result](), os.umask(0)
    try:
        for way, directory, name, status, after in steps(".", source):
            file = status.st_dev, status.st_ino
            if after:
                attributes(status, xattrs(place(directory, name)), here)
                move(here, name, above=levels.pop())
            elif stat.S_ISDIR(status.st_mode):
                if way[1:]:
                    os.mkdir(name, 0o700, dir_fd=here)
                levels.append(os.fstat(here))
                move(here, name)
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
    """link(2); nobody who exchanges a directory on the way for a symlink leads us to a file of the host."""
    first = openat2(top, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, RESOLVE_NO_SYMLINKS)
    try:
        os.link(f"/proc/self/fd/{first}", name, dst_dir_fd=directory)
    finally:
        os.close(first)


def copy_entry(
    source: int | None, name: Name, target: int | None, new: Name, owner: Owner = None, mode: int | None = None
) -> None:
    """A file, a link, a device, and of a directory an empty one, from one open directory into another.

    `owner`, (uid, gid), and `mode` are in place of its own.
    """
    status, writing = os.lstat(name, dir_fd=source), os.O_WRONLY | os.O_CREAT | os.O_EXCL
    if stat.S_ISREG(status.st_mode):
        with (
            open(os.open(name, READ, dir_fd=source), "rb", 0) as read,
            open(os.open(new, writing, 0o600, dir_fd=target), "wb", 0) as write,
        ):
            status = os.fstat(read.fileno())
            copy_content(read.fileno(), write.fileno(), status.st_size)
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

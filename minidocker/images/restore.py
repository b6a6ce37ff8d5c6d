"""Chapter 5: one entry of an archive becomes one file, exactly: kind, content, owner, mode, times, extended attributes.

    make(entry, stream)              # a file of any kind but a directory; the stream holds its content

Paths are relative to the current directory, which is the root of the jail. Needs root. Raises `BadTar`, or the
`OSError` of the kernel's refusal.
"""

from __future__ import annotations

import os
import stat

from isal import isal_zlib

from minidocker.files import OVERLAY_MARKS
from minidocker.images import tar
from minidocker.images.tar import BadTar, Entry
from minidocker.state import remove_tree

MAX_TAIL = 1 << 20  # bytes after the end mark; archivers fill up to a record, at most some kilobytes
CHUNK = 1 << 20

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


def make(entry: Entry, stream: BinaryIO, summed: bool = False) -> str:
    """Make the file; with `summed`, return the CRC-32 of its content. Nothing is read if the name is taken."""
    if entry.type == tar.REGULAR:
        return _regular(entry, stream, summed)
    if entry.type == tar.HARDLINK:
        _link(entry)
    elif entry.type == tar.SYMLINK:
        os.symlink(entry.link, entry.name)
    elif entry.type == tar.DIRECTORY:
        os.mkdir(entry.name or b".", 0o700)
        return ""  # what it is to look like comes last, or making files in it would change it
    else:
        os.mknod(entry.name, _KINDS[entry.type], os.makedev(entry.major, entry.minor))
    if entry.type != tar.HARDLINK:
        attributes(entry)
    return ""


_KINDS = {tar.CHARACTER: stat.S_IFCHR, tar.DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}


def _regular(entry: Entry, stream: BinaryIO, summed: bool) -> str:
    """A regular file: content, then owner, mode (a change of owner clears setuid), attributes, time."""
    descriptor = os.open(entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, entry.mode & 0o777)
    try:
        checksum = _content(descriptor, entry.size, stream, summed)
        os.fchown(descriptor, entry.uid, entry.gid)  # always: a setgid directory gives its group to what is made in it
        if entry.mode & 0o7000:
            os.fchmod(descriptor, entry.mode)
        for key, value in entry.xattrs.items():
            os.setxattr(descriptor, key, value)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(descriptor)
    return checksum


def _content(descriptor: int, size: int, stream: BinaryIO, summed: bool) -> str:
    """Copy the content, in pieces, with holes where there are long runs of zeros."""
    checksum, left = 0, size
    while left:
        data = exactly(stream, CHUNK if left > CHUNK else tar.padded(left))
        data = data if len(data) <= left else data[:left]
        left -= _write(descriptor, data)
        if summed:
            checksum = isal_zlib.crc32(data, checksum)
    if size >= CHUNK:
        os.ftruncate(descriptor, size)  # the end may be a hole
    return f"{checksum:08x}" if summed else ""


def _link(entry: Entry) -> None:
    """A second name for a file, also for a symlink; it must be in this layer, and not as something removed."""
    if not os.path.lexists(entry.link) or is_whiteout(entry.link):
        raise BadTar(f"{text(entry.name)}: a hard link to {text(entry.link)}, which is not in the layer")
    os.link(entry.link, entry.name, follow_symlinks=False)


def _write(descriptor: int, data: bytes) -> int:
    """Write the data; a whole chunk of zeros becomes a hole, as it probably was before."""
    if len(data) == CHUNK and not any(data[:64]) and data.count(0) == CHUNK:
        os.lseek(descriptor, CHUNK, os.SEEK_CUR)
    else:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    return len(data)


def exactly(stream: BinaryIO, size: int) -> bytes:
    """That many bytes, or the archive is cut off."""
    data = stream.read(size)
    if len(data) != size:
        raise BadTar("the archive ends in the middle of a file")
    return data


def skip(stream: BinaryIO, size: int) -> None:
    """Read over a content that nobody needs."""
    left = tar.padded(size)
    while left:
        left -= len(exactly(stream, min(left, CHUNK)))


def tail(stream: BinaryIO) -> None:
    """Read to the end, which the digest of the layer includes."""
    total = 0
    while data := stream.read(CHUNK):
        total += len(data)
        if total > MAX_TAIL:
            raise BadTar("more data after the end mark of the archive")


def attributes(entry: Entry) -> None:
    """Owner, mode, attributes and time of what is not a regular file; a symlink has no mode."""
    name = entry.name or b"."
    os.chown(name, entry.uid, entry.gid, follow_symlinks=False)
    if entry.type != tar.SYMLINK:
        os.chmod(name, entry.mode)
    for key, value in entry.xattrs.items():
        os.setxattr(name, key, value, follow_symlinks=False)
    os.utime(name, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def closed(name: bytes) -> Entry:
    """Close a directory to all but root; return the entry that makes it again what it was."""
    status = os.stat(name)
    entry = Entry(b"", tar.DIRECTORY, stat.S_IMODE(status.st_mode))
    entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
    os.chmod(name, 0o700)
    return entry


def clear(name: bytes) -> None:
    """Remove all extended attributes of a directory: what an entry does not say, it does not have."""
    for key in os.listxattr(name):
        if not key.startswith(OVERLAY_MARKS):  # a mark that came before the directory
            os.removexattr(name, key)


def clean(name: bytes) -> bytes:
    """A path below the current directory, whatever it began with; a part ".." is a lie in any case."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadTar(f"{text(name)}: a path that climbs")
    return b"/".join(parts)


def is_directory(path: bytes) -> bool:
    """Whether it is one itself; a link to one is not."""
    return os.path.isdir(path) and not os.path.islink(path)


def is_whiteout(path: bytes) -> bool:
    """Whether it is the character device 0/0, OverlayFS's mark."""
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def remove(path: bytes) -> None:
    """Whatever it is, with all that is in it; nothing if it is not there. The jail keeps this inside."""
    if is_directory(path):
        remove_tree(os.fsdecode(path))
    elif os.path.lexists(path):
        os.unlink(path)


def text(name: bytes) -> str:
    """A name for an error message."""
    return name.decode(errors="backslashreplace") or "the root"

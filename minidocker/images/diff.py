"""Chapter 5: a directory becomes a layer, in a form that depends on nothing but the directory.

    write_layer(upper, stream, "overlay")      # what a container changed: OverlayFS's upper directory
    write_layer(root, stream, "none")          # a whole root file system: the base of an image

Entries come in the order of their names, with numbers for owners and without the names of this machine, so that the
same tree gives the same bytes, and the same digest. Whiteouts leave as `.wh.` files, whichever form they had.
"""

from __future__ import annotations

import os
import stat

from minidocker.images import tar
from minidocker.images.apply import AUFS_PRIVATE, CHUNK, OPAQUE, WHITEOUT
from minidocker.images.tar import Entry
from minidocker.outcome import ContainerError

OVERLAY = b".overlay."  # attributes "trusted.overlay.*" and "user.overlay.*" belong to the union, not to the files
_TYPES = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.DEVICE,
    stat.S_IFIFO: tar.FIFO,
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


def write_layer(directory: str, stream: BinaryIO, whiteouts: str = "none") -> None:
    """Write the layer to `stream`. `whiteouts`: what those of the directory are: "overlay", "aufs", or "none" has any.

    Needs the right to read all of it, and CAP_SYS_ADMIN for attributes of the kind "trusted": root.
    """
    links: dict[tuple[int, int], bytes] = {}  # device and inode -> the name under which the content went out
    for name, path, status in _walk(os.fsencode(directory)):
        base = os.path.basename(name)
        if whiteouts == "overlay" and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            stream.write(tar.write(Entry(os.path.join(os.path.dirname(name), WHITEOUT + base), mode=0)))
        elif base.startswith(WHITEOUT) and whiteouts != "aufs":
            raise ContainerError(f"{os.fsdecode(path)}: a layer cannot hold a file of this name: it is a whiteout there")
        elif not stat.S_ISSOCK(status.st_mode) and (not base.startswith(AUFS_PRIVATE) or base == OPAQUE):
            _write_entry(name, path, status, links, stream)
    stream.write(tar.END)


def _write_entry(
    name: bytes, path: bytes, status: os.stat_result, links: dict[tuple[int, int], bytes], stream: BinaryIO
) -> None:
    """One file: header, content, and for an opaque directory its mark, before anything that is in it."""
    entry = Entry(name, _TYPES[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode))
    entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
    identity = (status.st_dev, status.st_ino)
    if entry.type != tar.DIRECTORY and status.st_nlink > 1 and identity in links:
        entry.type, entry.link = tar.HARDLINK, links[identity]
        stream.write(tar.write(entry))
        return
    links[identity] = name
    attributes = {os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in _attributes(path)}
    entry.xattrs = {key: value for key, value in attributes.items() if OVERLAY not in key}
    if entry.type == tar.SYMLINK:
        entry.link = os.readlink(path)
    elif entry.type in (tar.CHARACTER, tar.DEVICE):
        entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif entry.type == tar.DIRECTORY:
        entry.name += b"/"
    entry.size = status.st_size if entry.type == tar.REGULAR else 0
    stream.write(tar.write(entry))
    if entry.size:
        _copy(path, entry.size, stream)
    if any(value == b"y" for key, value in attributes.items() if key.endswith(OVERLAY + b"opaque")):
        stream.write(tar.write(Entry(os.path.join(name, OPAQUE), mode=0)))


def _walk(top: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """(name below the top, path, status) of the top and all below it, a directory before what is in it, by name."""
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        path = os.path.join(top, name) if name else top
        status = os.lstat(path)
        yield name or b".", path, status
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(name, base) for base in sorted(os.listdir(path), reverse=True)]


def _attributes(path: bytes) -> list[str]:
    """The names of the extended attributes; a file system without them has none."""
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return []


def _copy(path: bytes, size: int, stream: BinaryIO) -> None:
    """The content, filled up to whole blocks. A file that changes meanwhile would make a broken archive: an error."""
    left = size
    with open(path, "rb", buffering=0) as file:
        while left:
            data = file.read(min(left, CHUNK))
            if not data:
                raise ContainerError(f"{os.fsdecode(path)}: it became shorter while it was read")
            stream.write(data)
            left -= len(data)
    stream.write(bytes(tar.padded(size) - size))

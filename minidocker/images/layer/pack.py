"""Chapter 5: a directory becomes a layer, in a form that depends on nothing but the directory.

    diff_id = pack("/…/upper", file)                            # packed: what a container changed
    write_layer(root, stream)                                   # or the tar alone: a whole root file system

Entries come in the order of their names, with numbers for owners and without the names of this machine. The diff ID is
the digest of the tar, and says what the layer is. Packed by another program, it is another blob of the same layer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from isal import isal_zlib  # the same format as zlib's: much faster, and a little larger

from minidocker.files import OVERLAY_MARKS, place, xattrs
from minidocker.images import tar
from minidocker.images.tar import CHUNK, OPAQUE, WHITEOUT, BadTar, Entry
from minidocker.outcome import ContainerError
from minidocker.trees import READ, walk

# What belongs to this machine and not to the files: labels of its security policy, access lists of its file server
HOST = ("security.selinux", "security.ima", "security.evm", "system.nfs4_acl")
LONGEST = 4095  # bytes: no system call takes a longer path, so no tool could unpack it
GZIP_WINDOW = 16 + 15  # deflateInit2 of zlib.h: 15 is the largest window, and 16 asks for gzip's header, without a time
Links = dict[tuple[int, int], bytes]  # device and inode -> the name under which the content went out


class Packer:
    """A stream that packs what is written to it into `file`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.gzip, self.tar = file, isal_zlib.compressobj(wbits=GZIP_WINDOW), hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Take a piece of the tar."""
        self.tar.update(data)
        self.file.write(self.gzip.compress(data))

    def close(self) -> str:
        """The end of the tar: its digest is the diff ID."""
        self.file.write(self.gzip.flush())
        return f"sha256:{self.tar.hexdigest()}"


def pack(source: str | BinaryIO, file: BinaryIO) -> str:
    """Write a directory, or a tar, as a packed layer; return its diff ID. Needs the right to read all of it."""
    packer = Packer(file)
    if isinstance(source, str):
        write_layer(source, packer)
    else:
        shutil.copyfileobj(source, packer, CHUNK)
    return packer.close()


def write_layer(directory: str, stream: BinaryIO | Packer, live: bool = False, one: str = ".", to: bytes = b"") -> None:
    """Write it to `stream`, or `one` thing in it, called `to`. Needs root, to read all of it with all attributes.

    A container may still be at work in the directory: no symlink in it is followed, whatever it puts where meanwhile.
    """
    links, path = Links(), b""
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, parent, name, status in walk(top, one):
            for piece in add(os.path.join(to, path).rstrip(b"/"), place(parent, name), status, links, live):
                stream.write(piece)
    except (OSError, BadTar) as refused:
        where = os.path.join(directory, os.fsdecode(path))
        why = getattr(refused, "strerror", None) or refused
        raise ContainerError(f"{where}: it cannot become part of a layer: {why}", path=where) from refused
    finally:
        os.close(top)
    stream.write(tar.END)


def add(name: bytes, path: bytes, status: os.stat_result, links: Links, live: bool = False) -> Iterator[bytes]:
    """What the tar has of one file, whatever it stands for; only the last part of `path` can be a symlink."""
    directory, base = os.path.split(name)
    if len(name) > LONGEST:
        raise BadTar(os.strerror(errno.ENAMETOOLONG))
    if base.startswith(WHITEOUT):
        raise BadTar("a file of this name is a whiteout in a layer")
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        yield tar.write(Entry(os.path.join(directory, WHITEOUT + base), mode=0))
    elif not stat.S_ISSOCK(status.st_mode):  # nobody could answer on its socket any more
        yield from _entry(name, path, status, links, live)


def _entry(name: bytes, path: bytes, status: os.stat_result, links: Links, live: bool) -> Iterator[bytes]:
    """A file: header, content, and for an opaque directory its mark, before anything that is in it."""
    kind, file, opaque = stat.S_IFMT(status.st_mode), (status.st_dev, status.st_ino), False
    entry = Entry(name or b".", b"%d" % tar.KINDS.index(kind), stat.S_IMODE(status.st_mode))
    entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
    entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if file in links:
        entry.type, entry.link = tar.HARDLINK, links[file]
    else:
        entry.xattrs, opaque = attributes(path)
    if entry.type == tar.SYMLINK:
        entry.link = os.readlink(path)
    elif entry.type == tar.DIRECTORY:
        entry.name += b"/"
    elif entry.type == tar.REGULAR:
        entry.size = status.st_size
    yield tar.write(entry)
    if entry.size:
        yield from content(path, status, live)
    if opaque:
        yield tar.write(Entry(os.path.join(name, OPAQUE), mode=0))
    if status.st_nlink > 1 and entry.type != tar.DIRECTORY:
        links.setdefault(file, name)


def attributes(path: bytes) -> tuple[dict[bytes, bytes], bool]:
    """The extended attributes that are the file's own; and whether one says that it is an opaque directory."""
    found = xattrs(path, less=HOST)
    marks = {key.rpartition(".")[2]: value for key, value in found.items() if key.startswith(OVERLAY_MARKS)}
    if "redirect" in marks or "metacopy" in marks:
        raise BadTar("its content is in a layer below: mount OverlayFS with redirect_dir=off,metacopy=off")
    own = {os.fsencode(key): value for key, value in found.items() if not key.startswith(OVERLAY_MARKS)}
    return own, marks.get("opaque") == b"y"


def content(path: bytes, status: os.stat_result, live: bool) -> Iterator[bytes]:
    """The content, filled up to whole blocks. It may have become a FIFO: then this does not wait for the other end.

    A file that changes meanwhile would make a broken archive, or, unless it may be `live`, one that no moment looked
    like: an error."""
    with open(os.open(path, READ), "rb", buffering=0) as file:
        left = status.st_size
        while data := file.read(min(CHUNK, left)):
            yield data
            left -= len(data)
        after = os.fstat(file.fileno())
    same = () if live else ("st_ino", "st_size", "st_mtime_ns")
    if left or any(getattr(status, field) != getattr(after, field) for field in same):
        raise BadTar("it changed while it was read")
    yield bytes(tar.padded(status.st_size) - status.st_size)

"""Chapter 5: a directory becomes a layer, in a form that depends on nothing but the directory.

    digest, diff_id, size = pack("/…/upper", file)              # packed: what a container changed
    write_layer(root, stream, "none")                           # or the tar alone: a whole root file system

Entries come in the order of their names, with numbers for owners and without the names of this machine, so that the
same tree gives the same bytes. The diff ID is the digest of the tar, and says what the layer is; the digest is that of
the blob, the packed tar, and says what is transferred. Packed by another program, it is another blob of the same layer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from isal import isal_zlib  # the same format as zlib's: much faster, and a little larger

from minidocker.files import place, walk
from minidocker.images import tar
from minidocker.images.layer import CHUNK, DIRECTING, OPAQUE, WHITEOUT
from minidocker.images.tar import BadTar, Entry
from minidocker.outcome import ContainerError

# What belongs to this machine and not to the files: labels of its security policy, access lists of its file server
HOST = (b"security.selinux", b"security.ima", b"security.evm", b"system.nfs4_acl")
LONGEST = 4095  # bytes: no system call takes a longer path, so no tool could unpack it
GZIP_WINDOW = 16 + 15  # deflateInit2 of zlib.h: 15 is the largest window, and 16 asks for gzip's header, without a time
ZEROS = bytes(CHUNK)
TYPES = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.DEVICE,
    stat.S_IFIFO: tar.FIFO,
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


class Packer:
    """A stream that packs what is written to it into `file`: see `diff_id`, `digest` and `size` after `close`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._packer = file, isal_zlib.compressobj(wbits=GZIP_WINDOW)
        self._tar, self._blob, self.size = hashlib.sha256(), hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Take a piece of the tar."""
        self._tar.update(data)
        self._out(self._packer.compress(data))
        return len(data)

    def close(self) -> None:
        """The end of the tar: write what is still in the packer."""
        self._out(self._packer.flush())
        self.diff_id, self.digest = (f"sha256:{taken.hexdigest()}" for taken in (self._tar, self._blob))

    def _out(self, data: bytes) -> None:
        self._blob.update(data)
        self._file.write(data)
        self.size += len(data)


def pack(directory: str, file: BinaryIO, whiteouts: str = "overlay") -> tuple[str, str, int]:
    """Write a directory as a packed layer; return (digest, diff ID, size). Needs the right to read all of it."""
    packer = Packer(file)
    write_layer(directory, packer, whiteouts)  # type: ignore[arg-type]  # of a file, it needs to write only
    packer.close()
    return packer.digest, packer.diff_id, packer.size


def write_layer(directory: str, stream: BinaryIO, whiteouts: str = "none") -> None:
    """Write the layer to `stream`. `whiteouts`: "overlay" if the directory has those of OverlayFS, or "none".

    Needs the right to read all of it, and CAP_SYS_ADMIN for attributes of the kind "trusted": root. A container may
    still be at work in the directory: no symlink in it is followed, whatever it puts where meanwhile.
    """
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    layer, path = Layer(stream, whiteouts), b""
    try:
        for path, parent, name, status in walk(top):
            layer.add(path, place(parent, name), status)
    except (OSError, BadTar) as refused:
        where = os.path.join(directory, os.fsdecode(path))
        why = getattr(refused, "strerror", None) or refused
        raise ContainerError(f"{where}: it cannot become part of a layer: {why}", path=where) from refused
    finally:
        os.close(top)
    stream.write(tar.END)


class Layer:
    """The layer that is being written: where to, and what of it must be remembered."""

    def __init__(self, stream: BinaryIO, whiteouts: str) -> None:
        self.stream, self.whiteouts = stream, whiteouts
        self.links: dict[tuple[int, int], bytes] = {}  # device and inode -> the name under which the content went out

    def add(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        """One file of the directory, whatever it stands for; only the last part of `path` can be a symlink."""
        directory, base = os.path.split(name)
        if base.startswith(WHITEOUT):
            raise BadTar("a file of this name is a whiteout in a layer")
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            if self.whiteouts != "overlay":
                raise BadTar("a character device 0/0 is a whiteout of OverlayFS")
            self._mark(os.path.join(directory, WHITEOUT + base))
        elif not stat.S_ISSOCK(status.st_mode):  # nobody could answer on its socket any more
            self._entry(name, path, status)

    def _mark(self, name: bytes) -> None:
        """A whiteout, without time and owner."""
        self.stream.write(tar.write(Entry(name, mode=0)))

    def _entry(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        """A file: header, content, and for an opaque directory its mark, before anything that is in it."""
        if len(name) > LONGEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        entry = Entry(name or b".", TYPES[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode))
        entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
        first = self.links.get((status.st_dev, status.st_ino))
        if first is not None:
            entry.type, entry.link = tar.HARDLINK, first
            self.stream.write(tar.write(entry))
            return
        if status.st_nlink > 1 and entry.type != tar.DIRECTORY:
            self.links[status.st_dev, status.st_ino] = name
        entry.xattrs, opaque = attributes(path)
        if entry.type == tar.SYMLINK:
            entry.link = os.readlink(path)
        elif entry.type in (tar.CHARACTER, tar.DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        elif entry.type == tar.DIRECTORY:
            entry.name += b"/"
        elif entry.type == tar.REGULAR:
            entry.size = status.st_size
        self.stream.write(tar.write(entry))
        if entry.size:
            content(path, status, self.stream)
        if opaque:
            self._mark(os.path.join(name, OPAQUE))


def attributes(path: bytes) -> tuple[dict[bytes, bytes], bool]:
    """The extended attributes that are the file's own; and whether one says that it is an opaque directory."""
    found = {}
    try:
        for key in os.listxattr(path, follow_symlinks=False):
            found[os.fsencode(key)] = os.getxattr(path, key, follow_symlinks=False)
    except OSError as refused:
        if refused.errno != errno.ENOTSUP:  # a file system without them has none
            raise
    marks = {key.rpartition(b".")[2]: value for key, value in found.items() if key.startswith(DIRECTING)}
    if b"redirect" in marks or b"metacopy" in marks:
        raise BadTar("its content is in a layer below: mount OverlayFS with redirect_dir=off,metacopy=off")
    own = {key: value for key, value in found.items() if not key.startswith((*DIRECTING, *HOST))}
    return own, marks.get(b"opaque") == b"y"


def content(path: bytes, status: os.stat_result, stream: BinaryIO) -> None:
    """The content, filled up to whole blocks. A hole need not be read: lseek(2), SEEK_DATA.

    A file that changes meanwhile would make a broken archive, or one that no moment looked like: an error. And it may
    have become another one, so this does not wait for the other end of a FIFO.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        position = 0
        while position < status.st_size:
            try:
                start = min(os.lseek(descriptor, position, os.SEEK_DATA), status.st_size)
            except OSError:
                start = status.st_size  # ENXIO: nothing but a hole is left
            for left in range(start - position, 0, -CHUNK):
                stream.write(ZEROS[:left])
            data = os.pread(descriptor, min(CHUNK, status.st_size - start), start)
            if not data and start < status.st_size:
                break
            stream.write(data)
            position = start + len(data)
        after = os.fstat(descriptor)
        if any(getattr(status, field) != getattr(after, field) for field in ("st_ino", "st_size", "st_mtime_ns")):
            raise BadTar("it changed while it was read")
    finally:
        os.close(descriptor)
    stream.write(bytes(tar.padded(status.st_size) - status.st_size))

"""Chapter 5: a directory becomes a layer, in a form that depends on nothing but the directory.

    write_layer(upper, stream, "overlay")      # what a container changed: OverlayFS's upper directory
    write_layer(root, stream, "none")          # a whole root file system: the base of an image

Entries come in the order of their names, with numbers for owners and without the names of this machine, so that the
same tree gives the same bytes, and the same digest. Whiteouts leave as `.wh.` files, whichever form they had.
"""

from __future__ import annotations

import errno
import os
import stat

from minidocker.images import tar
from minidocker.images.apply import AUFS_PRIVATE, DIRECTING, OPAQUE, WHITEOUT
from minidocker.images.restore import CHUNK
from minidocker.images.tar import BadTar, Entry
from minidocker.outcome import ContainerError

# What belongs to this machine and not to the files: labels of its security policy, access lists of its file server
HOST = (b"security.selinux", b"security.ima", b"security.evm", b"system.nfs4_acl")
LONGEST = 4095  # bytes: no system call takes a longer path, so no tool could unpack it
ZEROS = bytes(CHUNK)
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

    Needs the right to read all of it, and CAP_SYS_ADMIN for attributes of the kind "trusted": root. A container may
    still be at work in the directory: no symlink in it is followed, whatever it puts where meanwhile.
    """
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    name = b""
    try:
        layer = _Layer(stream, whiteouts)
        for name, path, status in _walk(top):
            layer.add(name, path, status)
    except (OSError, BadTar) as refused:
        place = os.path.join(directory, os.fsdecode(name))
        why = getattr(refused, "strerror", refused)
        raise ContainerError(f"{place}: it cannot become part of a layer: {why}", path=place) from refused
    finally:
        os.close(top)
    stream.write(tar.END)


def open_directory(top: int, path: bytes) -> int:
    """Open the directory `path` below the open directory `top`; neither a symlink on the way nor ".." is a way out."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    parts = [part for part in path.split(b"/") if part]
    if b".." in parts:
        raise NotADirectoryError(errno.ENOTDIR, "a path that climbs", path)
    current = os.open(".", flags, dir_fd=top)
    for part in parts:
        before = current
        try:
            current = os.open(part, flags, dir_fd=before)
        finally:
            os.close(before)
    return current


def _walk(top: int) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """(name below the top, path, status) of the top and all below it, a directory before what is in it, by name.

    A path leads through the descriptor of the directory that the file is in, so only its last part can be a symlink.
    """
    waiting, opened, directory = [b""], b"", os.dup(top)
    try:
        while waiting:
            name = waiting.pop()
            parent, base = os.path.split(name)
            if parent != opened:
                os.close(directory)
                opened, directory = parent, open_directory(top, parent)
            path = b"/proc/self/fd/%d/%s" % (directory, base or b".")
            status = os.lstat(path)
            yield name, path, status
            if stat.S_ISDIR(status.st_mode):
                waiting += [os.path.join(name, below) for below in _names(top, name)]
    finally:
        os.close(directory)


def _names(top: int, name: bytes) -> list[bytes]:
    """The names in a directory, in reverse order; a whiteout where its name is: the same order in both formats."""
    directory = open_directory(top, name)
    try:
        names = map(os.fsencode, os.listdir(directory))
        return sorted(names, key=lambda base: (base.removeprefix(WHITEOUT), base), reverse=True)
    finally:
        os.close(directory)


class _Layer:
    """The layer that is being written: where to, and what of it must be remembered."""

    def __init__(self, stream: BinaryIO, whiteouts: str) -> None:
        self.stream, self.whiteouts = stream, whiteouts
        self.links: dict[tuple[int, int], bytes] = {}  # device and inode -> the name under which the content went out

    def add(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        """One file of the directory, whatever it stands for."""
        directory, base = os.path.split(name)
        if base.startswith(WHITEOUT) or b"/" + WHITEOUT in b"/" + directory:
            self._aufs(name, directory)
        elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            if self.whiteouts != "overlay":
                raise BadTar("a character device 0/0 is a whiteout of OverlayFS")
            self._mark(os.path.join(directory, WHITEOUT + base))
        elif not stat.S_ISSOCK(status.st_mode):  # nobody could answer on its socket any more
            self._entry(name, path, status)

    def _aufs(self, name: bytes, directory: bytes) -> None:
        """A file of AUFS's format, or one in a directory that AUFS keeps. An opaque directory has said so before."""
        if self.whiteouts != "aufs":
            raise BadTar("a file of this name is a whiteout in a layer")
        if b"/" + AUFS_PRIVATE not in b"/" + name and b"/" + WHITEOUT not in b"/" + directory:
            self._mark(name)

    def _mark(self, name: bytes) -> None:
        """A whiteout, the same for every format, time and owner."""
        self.stream.write(tar.write(Entry(name, mode=0)))

    def _entry(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        """A file: header, content, and for an opaque directory its mark, before anything that is in it."""
        if len(name) > LONGEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        entry = Entry(name or b".", _TYPES[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode))
        entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
        identity = (status.st_dev, status.st_ino)
        if identity in self.links:
            entry.type, entry.link = tar.HARDLINK, self.links[identity]
            self.stream.write(tar.write(entry))
            return
        if status.st_nlink > 1 and entry.type != tar.DIRECTORY:
            self.links[identity] = name
        opaque = self._attributes(entry, path)
        if entry.type == tar.SYMLINK:
            entry.link = os.readlink(path)
        elif entry.type in (tar.CHARACTER, tar.DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        elif entry.type == tar.DIRECTORY:
            entry.name += b"/"
            opaque = opaque or (self.whiteouts == "aufs" and os.path.lexists(os.path.join(path, OPAQUE)))
        elif entry.type == tar.REGULAR:
            entry.size = status.st_size
        self.stream.write(tar.write(entry))
        if entry.size:
            _copy(path, status, self.stream)
        if opaque:
            self._mark(os.path.join(name, OPAQUE))

    def _attributes(self, entry: Entry, path: bytes) -> bool:
        """Take the extended attributes that are the file's own; whether one says that it is an opaque directory."""
        found = {}
        try:
            for key in os.listxattr(path, follow_symlinks=False):
                found[os.fsencode(key)] = os.getxattr(path, key, follow_symlinks=False)
        except OSError as refused:
            if refused.errno != errno.ENOTSUP:  # a file system without them has none
                raise
        entry.xattrs = {key: value for key, value in found.items() if not key.startswith((*DIRECTING, *HOST))}
        marks = {key.rpartition(b".")[2]: value for key, value in found.items() if key.startswith(DIRECTING)}
        if b"redirect" in marks or b"metacopy" in marks:
            raise BadTar("its content is in a layer below: mount OverlayFS with redirect_dir=off,metacopy=off")
        return marks.get(b"opaque") == b"y"


def _copy(path: bytes, status: os.stat_result, stream: BinaryIO) -> None:
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

"""Chapter 5: the entries of a layer become files, in the current directory, which is the root of a jail.

    layer = Layer()
    layer.fill(stream)         # a tar
    layer.finish()

The jail (module `unpack`) is why a symlink to /etc means the layer's own /etc, and there is nothing else to reach. What
no wall can notice is checked here: paths that climb, links to nothing, sizes that lie, entries without end.
"""

from __future__ import annotations

import errno
import os
import stat

from minidocker.images import tar
from minidocker.images.layer import AUFS_PRIVATE, CHUNK, DIRECTING, OPAQUE, WHITEOUT
from minidocker.images.tar import BadTar, Entry

MAX_ENTRIES = 2_000_000
MAX_HELD = 256 << 20  # bytes of what has to be remembered to the end: a bomb of directories is one of memory
MAX_TAIL = 1 << 20  # bytes after the end mark; archivers fill up to a record, at most some kilobytes
NOT_HELD = (errno.ENOTSUP, errno.EPERM)  # attributes that this file system does not have, of a Mac for example

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


class Layer:
    """The directory that a layer becomes: the current one, which is also the root. `fill` it, then `finish`."""

    def __init__(self) -> None:
        status, space = os.stat("."), os.statvfs(".")
        # Modes and times of directories come last, or making files in them would change them
        self.directories = {b"": Entry(b"", tar.DIRECTORY, stat.S_IMODE(status.st_mode))}
        self.directories[b""].mtime = status.st_mtime_ns
        os.chmod(".", 0o700)  # until the end it lets nobody else in
        self.room = space.f_bavail * space.f_frsize
        self.entries = min(space.f_favail or MAX_ENTRIES, MAX_ENTRIES)
        self.held = MAX_HELD

    def fill(self, stream: BinaryIO) -> None:
        """Every entry in turn, and then to the end, which the digest includes. Raises `BadTar`."""
        for entry in tar.read(stream):
            try:
                self._add(entry, stream)
            except (OSError, BadTar) as bad:
                raise BadTar(f"{text(entry.name)}: {getattr(bad, 'strerror', None) or bad}") from None
        total = 0
        while data := stream.read(CHUNK):
            total += len(data)
            if total > MAX_TAIL:
                raise BadTar("more data after the end mark of the archive")

    def finish(self) -> None:
        """What the directories are to look like, when nothing is made in them any more."""
        for name, entry in self.directories.items():
            try:
                attributes(entry)
            except OSError as refused:
                raise BadTar(f"{text(name)}: {refused.strerror}") from None

    def _add(self, entry: Entry, stream: BinaryIO) -> None:
        """One entry: a whiteout by its name, whatever it is else; anything else as what it is."""
        entry.name = clean(entry.name)
        self.room -= entry.size
        self.entries -= 1
        if self.entries < 0 or self.room < 0:
            what = "more entries" if self.entries < 0 else "a larger content"
            raise BadTar(f"the layer has {what} than there is room for")
        directory, _, base = entry.name.rpartition(b"/")
        private = b"/" + AUFS_PRIVATE in b"/" + directory or (base.startswith(AUFS_PRIVATE) and base != OPAQUE)
        if b"/" + WHITEOUT in b"/" + directory and not private:
            raise BadTar("a path through a whiteout")
        if not base.startswith(WHITEOUT) and not private:
            return self._place(entry, stream)
        if not private:
            self._whiteout(directory, base)
        for _ in range(0, tar.padded(entry.size), tar.BLOCK):
            exactly(stream, tar.BLOCK)
        return None

    def _whiteout(self, directory: bytes, base: bytes) -> None:
        """What the layers below have under this name is gone; or, if opaque, all that they have in this directory."""
        hidden = os.path.join(directory, base[len(WHITEOUT) :])
        if base[len(WHITEOUT) :] in (b"", b".", b".."):
            raise BadTar("a whiteout of nothing, or of a parent")
        self._parents(directory)
        if base == OPAQUE:
            opaque(directory)
        elif not os.path.lexists(hidden):
            os.mknod(hidden, stat.S_IFCHR, 0)
        elif is_directory(hidden):  # the layer has both: its own directory stays, without what is below
            opaque(hidden)

    def _place(self, entry: Entry, stream: BinaryIO) -> None:
        """Make it, after its parents if those are missing; a whiteout of that name has come too early, and goes."""
        check(entry)
        name = entry.name
        if entry.type == tar.DIRECTORY:
            self._remember(entry)
            if is_directory(name or b"."):
                return
        try:
            make(entry, stream)
        except (FileNotFoundError, NotADirectoryError):
            self._parents(os.path.dirname(name))
            make(entry, stream)
        except FileExistsError:
            if not is_whiteout(name):
                raise BadTar("the layer has it twice") from None
            os.unlink(name)
            make(entry, stream)
            if entry.type == tar.DIRECTORY:
                opaque(name)

    def _parents(self, directory: bytes) -> None:
        """Make the directories that the archive took for granted; one in a whiteout's place hides what was below."""
        missing = []
        while directory and not os.path.isdir(directory) and (not os.path.lexists(directory) or is_whiteout(directory)):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for name in reversed(missing):
            hides = os.path.lexists(name)
            if hides:
                os.unlink(name)
            os.mkdir(name, 0o700)
            self._remember(Entry(name, tar.DIRECTORY, 0o755))
            if hides:
                opaque(name)

    def _remember(self, entry: Entry) -> None:
        """For the end. An object has a size of its own; and one entry can name a thousand directories."""
        self.held -= 512 + len(entry.name) + sum(map(len, entry.xattrs.values()))
        if self.held < 0:
            raise BadTar("the layer has more to remember than there is room for")
        self.directories[entry.name] = entry


def clean(name: bytes) -> bytes:
    """A path below the current directory, whatever it began with; one that leads above it is a lie in any case."""
    parts = list[bytes]()
    for part in name.split(b"/"):
        if part == b".." and not parts:
            raise BadTar("a path that climbs")
        if part == b"..":
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def check(entry: Entry) -> None:
    """What the kernel would take, and no layer may have."""
    if not entry.name and entry.type != tar.DIRECTORY:
        raise BadTar("the root of the layer is not a directory")
    if entry.type == tar.HARDLINK:
        entry.link = clean(entry.link)
    if entry.type in (tar.HARDLINK, tar.SYMLINK) and not entry.link:
        raise BadTar("a link to nothing")
    if entry.type == tar.CHARACTER and entry.major == entry.minor == 0:
        raise BadTar("a device 0/0, which would be a whiteout of OverlayFS")
    for key in entry.xattrs:
        if key.startswith(DIRECTING):
            raise BadTar(f"an attribute {text(key)}, which would direct OverlayFS")


def make(entry: Entry, stream: BinaryIO) -> None:
    """One file, exactly. Nothing is read if the name is taken."""
    name = entry.name
    if entry.type == tar.REGULAR:
        return regular(entry, stream)
    if entry.type == tar.DIRECTORY:
        return os.mkdir(name, 0o700)  # what it is to look like comes last
    if entry.type == tar.HARDLINK:  # a second name, also for a symlink; of this layer, and not of something removed
        if not os.path.lexists(entry.link) or is_whiteout(entry.link):
            raise BadTar(f"a hard link to {text(entry.link)}, which is not in the layer")
        return os.link(entry.link, name, follow_symlinks=False)
    if entry.type == tar.SYMLINK:
        os.symlink(entry.link, name)
    else:
        kinds = {tar.CHARACTER: stat.S_IFCHR, tar.DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        os.mknod(name, kinds[entry.type], os.makedev(entry.major, entry.minor))
    return attributes(entry)


def regular(entry: Entry, stream: BinaryIO) -> None:
    """The content in pieces, with holes where there are long runs of zeros; then what it is to look like."""
    file = os.open(entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, entry.mode & 0o777)
    try:
        left = entry.size
        while left:
            data = exactly(stream, min(CHUNK, tar.padded(left)))[:left]
            left -= len(data)
            if len(data) == CHUNK and not any(data[:64]) and data.count(0) == CHUNK:
                os.lseek(file, CHUNK, os.SEEK_CUR)
                data = b""
            while data:
                data = data[os.write(file, data) :]
        if entry.size >= CHUNK:
            os.ftruncate(file, entry.size)  # the end may be a hole
        os.fchown(file, entry.uid, entry.gid)  # always: a setgid directory gives its group to what is made in it
        if entry.mode & 0o7000:
            os.fchmod(file, entry.mode)  # after the owner, whose change clears setuid
        hold(file, entry)
        os.utime(file, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(file)


def attributes(entry: Entry) -> None:
    """Owner, mode, attributes and time of what is not a regular file; a symlink has no mode."""
    name = entry.name or b"."
    os.chown(name, entry.uid, entry.gid, follow_symlinks=False)
    if entry.type != tar.SYMLINK:
        os.chmod(name, entry.mode)
    hold(name, entry)
    os.utime(name, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def hold(file: int | bytes, entry: Entry) -> None:
    """Its extended attributes. One that this file system does not have is left out, as Docker does it."""
    for key, value in entry.xattrs.items():
        try:
            os.setxattr(file, key, value, follow_symlinks=isinstance(file, int))
        except OSError as refused:
            if refused.errno not in NOT_HELD:
                raise


def exactly(stream: BinaryIO, size: int) -> bytes:
    """That many bytes, or the archive is cut off."""
    data = stream.read(size)
    if len(data) != size:
        raise BadTar("the archive ends in the middle of a file")
    return data


def opaque(directory: bytes) -> None:
    """Nothing of the layers below shows through it."""
    if not is_directory(directory or b"."):
        raise BadTar("to be opaque, it must be a directory")
    os.setxattr(directory or b".", "trusted.overlay.opaque", b"y")


def is_directory(path: bytes) -> bool:
    """Whether it is one itself; a link to one is not."""
    return os.path.isdir(path) and not os.path.islink(path)


def is_whiteout(path: bytes) -> bool:
    """Whether it is the character device 0/0, OverlayFS's mark."""
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def text(name: bytes) -> str:
    """A name for an error message; nobody reads more of it."""
    return (name[:300] + b"..." * (len(name) > 300)).decode(errors="backslashreplace") or "the root"

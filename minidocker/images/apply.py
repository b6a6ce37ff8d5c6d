"""Chapter 5: a layer becomes a directory. The layer is hostile until it has proved otherwise, so this runs in a jail.

    unpack("layer.tar.gz", "/var/lib/minidocker/layers/…", expected="sha256:…")

The new process has the target as its root (chapter 1), no network, and no other mount; a symlink that points to /etc
points to the /etc of the layer, and there is nothing else to reach. A second process in the same jail decompresses.
What no jail can notice is checked here: paths that climb, links to nothing, sizes that lie, entries without end.
"""

from __future__ import annotations

import os
import shutil
import stat

from minidocker.images import tar
from minidocker.images.tar import BadTar, Entry

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_PRIVATE = b".wh..wh."  # AUFS's own bookkeeping (.wh..wh.plnk, .wh..wh.aufs): not part of the content
MAX_ENTRIES = 4_000_000
MAX_TAIL = 1 << 20  # bytes after the end mark; archivers fill up to a record, at most some kilobytes
CHUNK = 1 << 20

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO


class Apply:
    """Apply one layer to the current directory, which is also the root: `Apply("overlay").all(stream)`.

    `whiteouts` says what becomes of a `.wh.` entry: "overlay", a character device 0/0 or the opaque attribute, for a
    directory of its own that OverlayFS will stack; "aufs", it stays as it is, for AUFS's format; "remove", what it
    hides is removed, for a directory that holds the layers below already.
    """

    def __init__(self, whiteouts: str) -> None:
        self.whiteouts = whiteouts
        self.directories: dict[bytes, Entry] = {}  # their modes and times come last, or writing into them would change them
        self.made: set[bytes] = set()
        space = os.statvfs(".")
        self.room = space.f_bavail * space.f_frsize
        self.entries = min(space.f_favail or MAX_ENTRIES, MAX_ENTRIES)

    def all(self, stream: BinaryIO) -> None:
        """Every entry in turn; then what the directories are to look like, when nothing is made in them any more."""
        os.umask(0)
        for entry in tar.read(stream):
            self._admit(entry)
            directory, _, base = entry.name.rpartition(b"/")
            if base.startswith(WHITEOUT) and self.whiteouts != "aufs":
                self._hide(directory, base)
                _skip(stream, entry.size)
            else:
                self._make(entry, stream)
        for name, entry in self.directories.items():
            _finish(entry, name)
        _tail(stream)

    def _admit(self, entry: Entry) -> None:
        """The checks that need no file system; names come out relative, without "." and empty parts."""
        entry.name = _clean(entry.name)
        self.entries -= 1
        self.room -= entry.size
        if self.entries < 0 or self.room < 0:
            raise BadTar(f"{_text(entry.name)}: the layer is larger than the free space")
        if entry.type == tar.HARDLINK:
            entry.link = _clean(entry.link)
        if entry.type == tar.CHARACTER and entry.major == entry.minor == 0:
            raise BadTar(f"{_text(entry.name)}: a device 0/0, which would be a whiteout of OverlayFS")
        for name in entry.xattrs:
            if b".overlay." in name:
                raise BadTar(f"{_text(entry.name)}: an attribute {_text(name)}, which would direct OverlayFS")

    def _hide(self, directory: bytes, base: bytes) -> None:
        """A whiteout says: what the layers below have under this name is gone. The opaque one: all that they have here."""
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise BadTar(f"{_text(base)}: a whiteout of nothing, or of a parent")
        target = os.path.join(directory, hidden)
        if base == OPAQUE:
            self._opaque(directory)
        elif base.startswith(AUFS_PRIVATE):
            pass
        elif self.whiteouts == "remove":
            if target not in self.made:
                _remove(target)
        else:
            self._place(target, lambda: os.mknod(target, stat.S_IFCHR, 0))

    def _opaque(self, directory: bytes) -> None:
        """Mark the directory, or empty it of all that this layer did not bring."""
        if directory and not os.path.lexists(directory):
            os.makedirs(directory)
        if self.whiteouts == "overlay":
            os.setxattr(directory or b".", "trusted.overlay.opaque", b"y")
        else:
            self._empty(directory)

    def _empty(self, directory: bytes) -> None:
        for name in os.listdir(directory or b"."):
            path = os.path.join(directory, name)
            if path in self.directories:
                self._empty(path)
            elif path not in self.made:
                _remove(path)

    def _make(self, entry: Entry, stream: BinaryIO) -> None:
        """Make the file; what is in its way belongs to a lower layer, unless this layer has made it: then it is a lie."""
        name = entry.name or b"."
        if entry.type == tar.DIRECTORY:
            if not (os.path.isdir(name) and not os.path.islink(name)):
                self._place(name, lambda: os.mkdir(name))
            self.directories[name] = entry
            return
        if not entry.name:
            raise BadTar("an entry without a name")
        if entry.type == tar.REGULAR:
            self._place(name, lambda: _regular(entry, stream))
        elif entry.type == tar.SYMLINK:
            self._place(name, lambda: os.symlink(entry.link, name))
        elif entry.type == tar.HARDLINK:
            self._place(name, lambda: os.link(entry.link, name, follow_symlinks=False))
        else:
            self._place(name, lambda: os.mknod(name, _MODES[entry.type] | entry.mode, os.makedev(entry.major, entry.minor)))
        if entry.type not in (tar.REGULAR, tar.HARDLINK):
            _finish(entry, name)
        self.made.add(name)

    def _place(self, name: bytes, make: Callable[[], None]) -> None:
        """Make it; if that fails for want of the parents, or because of something in the way, mend that and try again."""
        try:
            make()
        except FileNotFoundError:
            parent = os.path.dirname(name)
            if not parent or os.path.isdir(parent):
                raise  # it is not the parents: a hard link to nothing
            os.makedirs(parent, 0o755, exist_ok=True)
            make()
        except FileExistsError:
            if name in self.made or name in self.directories:
                raise BadTar(f"{_text(name)}: the layer has it twice") from None
            _remove(name)
            make()


_MODES = {tar.CHARACTER: stat.S_IFCHR, tar.DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}


def _regular(entry: Entry, stream: BinaryIO) -> None:
    """A regular file: content, then owner, mode (a change of owner clears setuid), attributes, time."""
    descriptor = os.open(entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, entry.mode & 0o777)
    try:
        left = entry.size
        while left > CHUNK:
            left -= _write(descriptor, _exactly(stream, CHUNK))
        if left:
            _write(descriptor, _exactly(stream, tar.padded(left))[:left])
        if entry.size > CHUNK:
            os.ftruncate(descriptor, entry.size)  # the end may be a hole
        if entry.uid or entry.gid:
            os.fchown(descriptor, entry.uid, entry.gid)
        if entry.mode & 0o7000:
            os.fchmod(descriptor, entry.mode)
        for key, value in entry.xattrs.items():
            os.setxattr(descriptor, key, value)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> int:
    """Write the data; a whole chunk of zeros becomes a hole, as it probably was before."""
    if len(data) == CHUNK and not any(data[:64]) and data.count(0) == CHUNK:
        os.lseek(descriptor, CHUNK, os.SEEK_CUR)
    else:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    return len(data)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """That many bytes, or the archive is cut off."""
    data = stream.read(size)
    if len(data) != size:
        raise BadTar("the archive ends in the middle of a file")
    return data


def _skip(stream: BinaryIO, size: int) -> None:
    """Read over a content that nobody needs."""
    left = tar.padded(size)
    while left:
        left -= len(_exactly(stream, min(left, CHUNK)))


def _tail(stream: BinaryIO) -> None:
    """Read to the end, which the digest of the layer includes."""
    total = 0
    while data := stream.read(CHUNK):
        total += len(data)
        if total > MAX_TAIL:
            raise BadTar("more data after the end mark of the archive")


def _finish(entry: Entry, name: bytes) -> None:
    """Owner, mode, attributes and time of what is not a regular file; a symlink has no mode."""
    os.chown(name, entry.uid, entry.gid, follow_symlinks=False)
    if entry.type != tar.SYMLINK:
        os.chmod(name, entry.mode)
    for key, value in entry.xattrs.items():
        os.setxattr(name, key, value, follow_symlinks=False)
    os.utime(name, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def _clean(name: bytes) -> bytes:
    """A path below the current directory, whatever it began with; a part ".." is a lie in any case."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadTar(f"{_text(name)}: a path that climbs")
    return b"/".join(parts)


def _remove(path: bytes) -> None:
    """Whatever it is, with all that is in it; nothing if it is not there. The jail keeps this inside."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _text(name: bytes) -> str:
    """A name for an error message."""
    return name.decode(errors="backslashreplace") or "the root"

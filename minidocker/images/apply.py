"""Chapter 5: a layer becomes a directory. The layer is hostile until it has proved otherwise, so this runs in a jail.

    layer = Apply("overlay")
    layer.all(stream)                      # into the current directory, which is the root of the jail
    layer.finish()

The jail (module `unpack`) is why a symlink to /etc means the /etc of the layer, and there is nothing else to reach.
What no jail can notice is checked here: paths that climb, links to nothing, sizes that lie, entries without end.
"""

from __future__ import annotations

import os
import stat

from minidocker.files import OVERLAY_MARKS
from minidocker.images import restore, tar
from minidocker.images.restore import clean, is_directory, is_whiteout, remove, skip, tail, text
from minidocker.images.tar import BadTar, Entry

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_PRIVATE = b".wh..wh."  # AUFS's own bookkeeping (.wh..wh.plnk, .wh..wh.aufs): not part of the content
DIRECTING = tuple(map(os.fsencode, OVERLAY_MARKS))
MAX_ENTRIES = 2_000_000
MAX_HELD = 256 << 20  # bytes of what has to be remembered to the end: a bomb of directories is one of memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO


class Apply:
    """Apply one layer to the current directory, which is also the root.

    `whiteouts` says what becomes of a `.wh.` entry: "overlay", a character device 0/0 or the opaque attribute, for an
    empty directory that OverlayFS will stack; "aufs", an empty file of that name, for an empty directory in AUFS's
    format; "remove", what it hides is removed, for a directory that holds the layers below already. `report(name,
    checksum)` is told of each file of at least `smallest` bytes the CRC-32 of its content.
    """

    def __init__(self, whiteouts: str, report: Callable[[bytes, str], object] | None = None, smallest: int = 0) -> None:
        self.whiteouts, self.report, self.smallest = whiteouts, report, smallest
        os.umask(0)
        # Modes and times come last, or writing would change them; the root's too: until then it lets nobody else in
        self.directories = {b"": restore.closed(b".")}
        self.made: set[bytes] = set()  # for "remove": what is this layer's own, with all directories on the way
        space = os.statvfs(".")
        self.room = space.f_bavail * space.f_frsize
        self.entries = min(space.f_favail or MAX_ENTRIES, MAX_ENTRIES)
        self.held = MAX_HELD

    def all(self, stream: BinaryIO) -> None:
        """Every entry in turn. Raises `BadTar`, also if the kernel refuses something: then, too, there is no layer."""
        name = b""
        try:
            for entry in tar.read(stream):
                name = self._admit(entry)
                self._apply(entry, stream)
        except OSError as refused:
            raise BadTar(f"{text(name)}: {refused.strerror}") from refused
        tail(stream)

    def finish(self) -> None:
        """What the directories are to look like, when nothing is made in them any more, and nobody else is here."""
        for entry in self.directories.values():
            try:
                restore.attributes(entry)
            except OSError as refused:
                raise BadTar(f"{text(entry.name)}: {refused.strerror}") from refused

    def _admit(self, entry: Entry) -> bytes:
        """The checks that need no file system; names come out relative, without "." and empty parts."""
        entry.name = clean(entry.name)
        self.entries -= 1
        self.room -= entry.size
        if self.entries < 0 or self.room < 0:
            what = "more entries" if self.entries < 0 else "a larger content"
            raise BadTar(f"{text(entry.name)}: the layer has {what} than there is room for")
        if entry.type == tar.HARDLINK:
            entry.link = clean(entry.link)
        if entry.type in (tar.HARDLINK, tar.SYMLINK) and not entry.link:
            raise BadTar(f"{text(entry.name)}: a link to nothing")
        if entry.type == tar.CHARACTER and entry.major == entry.minor == 0:
            raise BadTar(f"{text(entry.name)}: a device 0/0, which would be a whiteout of OverlayFS")
        for name in entry.xattrs:
            if name.startswith(DIRECTING):
                raise BadTar(f"{text(entry.name)}: an attribute {text(name)}, which would direct OverlayFS")
        return entry.name

    def _hold(self, name: bytes, attributes: int = 0) -> None:
        """Account for a name that is remembered; an object has a size of its own. One entry can name a thousand."""
        self.held -= 512 + len(name) + attributes
        if self.held < 0:
            raise BadTar(f"{text(name)}: the layer has more to remember than there is room for")

    def _apply(self, entry: Entry, stream: BinaryIO) -> None:
        """A whiteout by its name, whatever it is else; anything else as what it is."""
        directory, _, base = entry.name.rpartition(b"/")
        if b"/" + AUFS_PRIVATE in b"/" + directory:
            skip(stream, entry.size)  # AUFS kept files of its own there, and some early images have them
        elif b"/" + WHITEOUT in b"/" + directory:
            raise BadTar(f"{text(entry.name)}: a path through a whiteout")
        elif base.startswith(WHITEOUT):
            self._whiteout(entry.name, directory, base)
            skip(stream, entry.size)
        else:
            self._make(entry, stream)

    def _whiteout(self, name: bytes, directory: bytes, base: bytes) -> None:
        """What the layers below have under this name is gone; or, if opaque, all that they have in this directory."""
        hidden = base[len(WHITEOUT) :]
        target = os.path.join(directory, hidden)
        if hidden in (b"", b".", b".."):
            raise BadTar(f"{text(name)}: a whiteout of nothing, or of a parent")
        if base.startswith(AUFS_PRIVATE) and base != OPAQUE:
            return
        if self.whiteouts == "aufs":
            self._parents(directory)
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o444))
        elif base == OPAQUE:
            self._parents(directory)
            self._opaque(directory)
        elif target in self.made or (self.whiteouts == "overlay" and os.path.lexists(target)):
            if is_directory(target):  # the layer has both: its own directory stays, without what is below
                self._opaque(target)
        elif self.whiteouts == "remove":
            remove(target)
        else:
            self._place(target, lambda: _hide(target))

    def _opaque(self, directory: bytes) -> None:
        """Mark the directory; or empty it of all that this layer did not bring."""
        if not is_directory(directory or b"."):
            raise BadTar(f"{text(directory)}: to be opaque, it must be a directory")
        if self.whiteouts == "overlay":
            os.setxattr(directory or b".", "trusted.overlay.opaque", b"y")
            return
        waiting = [directory]
        while waiting:
            current = waiting.pop()
            for path in (os.path.join(current, name) for name in os.listdir(current or b".")):
                if path not in self.made:
                    remove(path)
                elif is_directory(path):
                    waiting.append(path)

    def _make(self, entry: Entry, stream: BinaryIO) -> None:
        """Make the file; what is in its way is of a lower layer, or else the layer has it twice."""
        name = entry.name
        if entry.type == tar.DIRECTORY:
            if is_directory(name or b"."):
                restore.clear(name or b".")  # it may be a lower layer's
            else:
                self._place(name, lambda: restore.make(entry, stream))
            self._hold(name, sum(map(len, entry.xattrs.values())))
            self.directories[name] = entry
        elif not name:
            raise BadTar("the root of the layer is not a directory")
        else:
            summed = self.report is not None and entry.size >= self.smallest and entry.type == tar.REGULAR
            checksum = self._place(name, lambda: restore.make(entry, stream, summed and not entry.xattrs))
            if checksum and self.report:
                self.report(name, checksum)
        while self.whiteouts == "remove" and name and name not in self.made:
            self._hold(name)
            self.made.add(name)
            name = os.path.dirname(name)

    def _place(self, name: bytes, make: Callable[[], str]) -> str:
        """Make it; if that fails for want of the parents, or because something is in the way, mend that, and again."""
        try:
            return make()
        except FileNotFoundError:
            self._parents(os.path.dirname(name))
            return make()
        except FileExistsError:
            hidden = self.whiteouts == "overlay" and is_whiteout(name)
            if not hidden and (self.whiteouts != "remove" or name in self.made):
                raise BadTar(f"{text(name)}: the layer has it twice") from None
            remove(name)
            checksum = make()
            if hidden and is_directory(name):
                self._opaque(name)
            return checksum

    def _parents(self, directory: bytes) -> None:
        """Make the directories that the archive took for granted."""
        missing = []
        while directory and not os.path.lexists(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for name in reversed(missing):
            self._hold(name)
            os.mkdir(name, 0o700)
            self.directories[name] = Entry(name, tar.DIRECTORY, 0o755)


def _hide(path: bytes) -> str:
    """OverlayFS's whiteout: the character device 0/0."""
    os.mknod(path, stat.S_IFCHR, 0)
    return ""

"""Chapter 4: what a change does in a union: copy-up, whiteouts, opaque directories. All of it in the writable branch.

    union = Writable("/upper", ["/layer2", "/layer1"], trace=print)
    union.copy_up("/etc/motd")         # before the first change: a copy in the writable branch
    union.unlink("/etc/motd")          # /upper/etc/.wh.motd: a whiteout, which hides the name below

Everything that changed is in the writable branch, and nothing that changed is anywhere else. Chapter 5 makes a layer
of it; so a hard link does not outlive a copy-up, and a directory that is partly below cannot be renamed (EXDEV).
"""

from __future__ import annotations

import errno
import os
import stat

from aufs.branches import OPAQUE, Branches, look, refuse, split, whiteout
from minidocker.files import attributes, copy_entry, xattrs

TEMPORARY = ".wh..wh.copy-up"  # a copy that is not whole yet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Made = TypeVar("Made")


class Writable(Branches):
    """Branches of which the first, `upper`, is written to. `trace` gets a line for each copy-up and whiteout."""

    upper: str

    def __init__(self, upper: str, lowers: Sequence[str], trace: Callable[[str], object] | None = None) -> None:
        super().__init__([upper, *lowers])
        self.upper = upper
        self.trace = trace or (lambda line: None)
        self.copied: Callable[[str, str], object] = lambda path, target: None  # who holds the lower file open may care

    def copy_up(self, path: str, content: bool = True) -> str:
        """Make sure that the entry is in the writable branch, with the directories on the way; return where it is.

        Only a whole copy gets the name: killed half-way, it leaves a private file, and the union is as it was.
        """
        real, status = self.find(path)
        if path == "/" or self.is_upper(real):
            return real
        target = self._place(path)
        parent = os.path.dirname(target)
        temporary, before = os.path.join(parent, TEMPORARY), os.stat(parent)
        _remove(temporary)  # of a copy that was killed
        try:
            _copy(real, status, temporary, content)
        except OSError:
            _remove(temporary)  # the disk is full, perhaps
            raise
        copied = os.lstat(temporary)
        self._numbers.pop((copied.st_dev, copied.st_ino), None)  # of a deleted file that had this number on the disk
        if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):  # a name of several becomes a file of its own
            self._numbers[copied.st_dev, copied.st_ino] = self.number(status)
        os.rename(temporary, target)
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))  # nobody changed what is in this directory
        self._stacks.clear()
        self.copied(path, target)
        what = "directory" if stat.S_ISDIR(copied.st_mode) else f"{copied.st_size} bytes"
        self.trace(f"copy-up   {path}: {what} from {self.branch(real)}")
        return target

    def make(self, path: str, maker: Callable[[str], Made]) -> Made:
        """Let `maker(real)` make a new entry in the writable branch, and take the whiteout away that hid the name."""
        if self.exists(path):
            raise refuse(errno.EEXIST, path)
        real = self._place(path)
        made = maker(real)
        if os.path.isdir(real) and not os.path.islink(real) and os.path.lexists(whiteout(real)):
            self._cover(real, path)
        _remove(whiteout(real))
        return made

    def unlink(self, path: str) -> None:
        """The whiteout comes first: killed in between, the name still shows its file, and no older one."""
        real, status = self.find(path)
        if stat.S_ISDIR(status.st_mode):
            raise refuse(errno.EISDIR, path)
        self._hide(path)
        if self.is_upper(real):
            os.unlink(real)

    def rmdir(self, path: str) -> None:
        """A directory is empty if the union shows nothing in it, whatever whiteouts there are, and what they hide."""
        if self.names(path):
            raise refuse(errno.ENOTEMPTY, path)
        self._hide(path)
        self._remove_empty(path)

    def rename(self, old: str, new: str) -> None:
        """A file is copied up and moved; a directory is moved if the writable branch has all of it, else EXDEV.

        Programs such as mv(1) answer EXDEV by copying: they meet it wherever two file systems meet.
        """
        real, status = self.find(old)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and (len(self.stack(old)) > 1 or not self.is_upper(real)):
            raise refuse(errno.EXDEV, old)
        self._check_replaced(new, is_directory)
        source, target = self.copy_up(old), self._place(new)
        if os.path.lexists(target) and os.path.samestat(os.lstat(source), os.lstat(target)):
            return  # two names of one file: rename(2) does nothing
        if is_directory:
            self._remove_empty(new)
            if self._is_below(new):
                self._cover(source, new)
        self._hide(old)
        os.rename(source, target)
        _remove(whiteout(target))
        self._stacks.clear()

    def link(self, old: str, new: str) -> None:
        """A hard link cannot reach into another branch: copy up, then link(2) there."""
        if self.exists(new):
            raise refuse(errno.EEXIST, new)
        source = self.copy_up(old)
        self.make(new, lambda real: os.link(source, real, follow_symlinks=False))

    def _check_replaced(self, path: str, by_directory: bool) -> None:
        """What rename(2) demands of an entry that it replaces."""
        if not self.exists(path):
            return
        is_directory = stat.S_ISDIR(self.find(path)[1].st_mode)
        if by_directory and not is_directory:
            raise refuse(errno.ENOTDIR, path)
        if is_directory and not by_directory:
            raise refuse(errno.EISDIR, path)
        if is_directory and self.names(path):
            raise refuse(errno.ENOTEMPTY, path)

    def _place(self, path: str) -> str:
        """Where an entry of this path belongs in the writable branch; its directory is copied up."""
        parent, name = split(path, errno.EPERM)
        self.stack(parent)  # ENOTDIR, if it is none
        return os.path.join(self.copy_up(parent), name)

    def is_upper(self, real: str) -> bool:
        """Whether this path of a branch is in the writable one."""
        return real.startswith(self.upper + "/")

    def _is_below(self, path: str) -> bool:
        """Whether a branch below the writable one would show something here."""
        parent, name = split(path, errno.ENOENT)
        entries = (look(directory, name) for directory in self.stack(parent) if not self.is_upper(directory + "/"))
        first = next((entry for entry in entries if entry is not None), None)
        return first is not None and first[1] is not None

    def _hide(self, path: str) -> None:
        """Make a whiteout, if there is something below to hide."""
        if self._is_below(path):
            os.close(os.open(whiteout(self._place(path)), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
            self.trace(f"whiteout  {path}")

    def _cover(self, directory: str, path: str) -> None:
        """Make a directory of the writable branch opaque: it is new, and what is below belongs to another one."""
        os.close(os.open(os.path.join(directory, OPAQUE), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        self._stacks.clear()
        self.trace(f"opaque    {path}")

    def _remove_empty(self, path: str) -> None:
        """Remove the writable branch's part of an empty directory: it holds nothing but names of the format."""
        real = self._place(path)
        if os.path.isdir(real):
            for name in os.listdir(real):
                os.unlink(os.path.join(real, name))
            os.rmdir(real)
        self._stacks.clear()


def _copy(real: str, status: os.stat_result, temporary: str, content: bool) -> None:
    """Of a directory, an empty one."""
    if not stat.S_ISDIR(status.st_mode):
        return copy_entry(None, real, None, temporary, content)
    os.mkdir(temporary, 0o700)
    attributes(status, xattrs(real), temporary)


def _remove(real: str) -> None:
    """Remove a file or an empty directory of a branch, if it is there."""
    try:
        os.rmdir(real) if stat.S_ISDIR(os.lstat(real).st_mode) else os.unlink(real)
    except FileNotFoundError:
        pass

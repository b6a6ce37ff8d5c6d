"""Chapter 4: the rules of a union, on plain directories, in the format of AUFS. No mount is needed to watch them.

    union = Branches("/upper", ["/layer2", "/layer1"], trace=print)
    union.find("/etc/motd")            # the first branch from the top that has it
    union.copy_up("/etc/motd")         # before the first change: a copy in the writable branch
    union.unlink("/etc/motd")          # /upper/etc/.wh.motd: a whiteout, which hides the name below

Names that begin with .wh. belong to the format: `.wh.NAME` hides NAME in the branches below, `.wh..wh..opq` in a
directory hides all that is below it, and other names that begin with `.wh..wh.` are private. In lower branches
OverlayFS's marks are understood as well: the character device 0/0, and an attribute of the directory.

Everything that changed is in the writable branch, and nothing that changed is anywhere else. Chapter 5 makes a layer
of it; so a hard link does not outlive a copy-up, and a directory that is partly below cannot be renamed (EXDEV).
"""

from __future__ import annotations

import errno
import os
import stat

from minidocker.union.entries import copy_entry

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
TEMPORARY = ".wh..wh.copy-up"
ORPHAN = ".wh..wh.orphan"
ORPHANS = ".fuse_hidden"  # what libfuse calls a file that was deleted while it is open
OVERLAY_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Made = TypeVar("Made")


def _refuse(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _split(path: str, refused: int) -> tuple[str, str]:
    """(parent, name) of a path in the union, which starts with "/"; `refused` is the errno for a name of the format."""
    parent, _, name = path.rpartition("/")
    if name.startswith(WHITEOUT):
        raise _refuse(refused, path)
    return parent or "/", ORPHAN + name if name.startswith(ORPHANS) else name


def _whiteout(real: str) -> str:
    """The whiteout that stands beside, or in place of, this entry of a branch."""
    parent, name = os.path.split(real)
    return os.path.join(parent, WHITEOUT + name)


def _is_overlay_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(directory: str) -> bool:
    """Whether nothing of the branches below shows through this directory."""
    if os.path.lexists(os.path.join(directory, OPAQUE)):
        return True
    marks = set(os.listxattr(directory)).intersection(OVERLAY_OPAQUE)
    return any(os.getxattr(directory, mark) == b"y" for mark in marks)


def _entry(directory: str, name: str) -> tuple[str, os.stat_result | None] | None:
    """What one branch says about a name: its path and status, (path, None) if it hides the name, None if nothing."""
    real = os.path.join(directory, name)
    try:
        status = os.lstat(real)
    except FileNotFoundError:
        return (real, None) if os.path.lexists(_whiteout(real)) else None
    return real, None if _is_overlay_whiteout(status) else status


def _remove(real: str) -> None:
    """Remove a file or an empty directory of a branch, if it is there."""
    try:
        os.rmdir(real) if stat.S_ISDIR(os.lstat(real).st_mode) else os.unlink(real)
    except FileNotFoundError:
        pass


class Branches:
    """Directories, the top one first, that look like one. `upper` is written to; without it the union is read-only.

    Paths are those of the union and begin with "/". One thread at a time. Nobody else may change the branches.
    """

    def __init__(self, upper: str | None, lowers: Sequence[str], trace: Callable[[str], object] | None = None) -> None:
        self.upper = upper
        self.branches = [*([upper] if upper else []), *lowers]
        self.trace = trace or (lambda line: None)
        self._stacks: dict[str, list[str]] = {}  # a directory of the union -> the directories that it is made of
        self._numbers: dict[tuple[int, int], int] = {}  # (device, inode) of what was copied up -> its number before
        self._devices: dict[int, int] = {}  # each file system counts its inodes for itself: the bits that tell them apart

    def stack(self, path: str) -> list[str]:
        """The directories of the branches that make up this one, from the top; down to an opaque one, or a whiteout."""
        if path == "/":
            return self.branches
        if path not in self._stacks:
            parent, name = _split(path, errno.ENOENT)
            found: list[str] = []
            for directory in self.stack(parent):
                entry = _entry(directory, name)
                if entry is None:
                    continue
                if entry[1] is None or not stat.S_ISDIR(entry[1].st_mode):
                    if not found and entry[1] is not None:
                        raise _refuse(errno.ENOTDIR, path)
                    break
                found.append(entry[0])
                if _is_opaque(entry[0]) or os.path.lexists(_whiteout(entry[0])):
                    break
            if not found:
                raise _refuse(errno.ENOENT, path)
            self._stacks[path] = found
        return self._stacks[path]

    def find(self, path: str) -> tuple[str, os.stat_result]:
        """Where the entry really is, and its status. `FileNotFoundError` if no branch has it, or one hides it."""
        if path == "/":
            return self.branches[0], os.lstat(self.branches[0])
        parent, name = _split(path, errno.ENOENT)
        for directory in self.stack(parent):
            entry = _entry(directory, name)
            if entry is not None and entry[1] is not None:
                return entry[0], entry[1]
            if entry is not None:
                break
        raise _refuse(errno.ENOENT, path)

    def exists(self, path: str) -> bool:
        """Whether the union shows this path."""
        try:
            return bool(self.find(path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def names(self, path: str) -> dict[str, str]:
        """The names in a directory, each with where it really is: all branches' names, less what is hidden."""
        shown: dict[str, str] = {}
        hidden: set[str] = set()
        for directory in self.stack(path):
            covered = set()
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith(WHITEOUT):
                        covered.add(entry.name.removeprefix(WHITEOUT))
                    elif entry.name not in hidden and entry.name not in shown:
                        if _is_overlay_whiteout(entry.stat(follow_symlinks=False)):
                            covered.add(entry.name)
                        else:
                            shown[entry.name] = entry.path
            hidden |= covered
        return shown

    def number(self, status: os.stat_result) -> int:
        """The inode number that the union shows: the same before and after a copy-up, and never that of another file."""
        device = self._devices.setdefault(status.st_dev, len(self._devices))
        return self._numbers.get((status.st_dev, status.st_ino), device << 48 | status.st_ino)

    def branch(self, real: str) -> str:
        """The name of the branch that an entry is in, for people: upper, lower 1 (the top one), lower 2, ..."""
        index = max(i for i, top in enumerate(self.branches) if os.path.join(real, "").startswith(os.path.join(top, "")))
        return "upper" if self.upper and index == 0 else f"lower {index + (not self.upper)}"

    # --- changes ---

    def copy_up(self, path: str, content: bool = True) -> str:
        """Make sure that the entry is in the writable branch, with the directories on the way; return where it is.

        Only a whole copy gets the name: killed half-way, it leaves a private file, and the union is as it was.
        """
        real, status = self.find(path)
        if path == "/" or self._is_upper(real):
            return real
        target = self._place(path)
        temporary = os.path.join(os.path.dirname(target), TEMPORARY)
        _remove(temporary)  # of a copy that was killed
        try:
            copy_entry(real, temporary, content)
        except OSError:
            _remove(temporary)  # the disk is full, perhaps
            raise
        copied = os.lstat(temporary)
        if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):  # a name of several becomes a file of its own
            self._numbers[copied.st_dev, copied.st_ino] = self.number(status)
        os.rename(temporary, target)
        self._stacks.clear()
        what = "directory" if stat.S_ISDIR(copied.st_mode) else f"{copied.st_size} bytes"
        self.trace(f"copy-up   {path}: {what} from {self.branch(real)}")
        return target

    def make(self, path: str, maker: Callable[[str], Made]) -> Made:
        """Let `maker(real)` make a new entry in the writable branch, and take the whiteout away that hid the name."""
        if self.exists(path):
            raise _refuse(errno.EEXIST, path)
        real = self._place(path)
        made = maker(real)
        if os.path.isdir(real) and not os.path.islink(real) and os.path.lexists(_whiteout(real)):
            self._cover(real, path)
        _remove(_whiteout(real))
        return made

    def unlink(self, path: str) -> None:
        """The whiteout comes first: killed in between, the name still shows its file, and no older one."""
        real, status = self.find(path)
        if stat.S_ISDIR(status.st_mode):
            raise _refuse(errno.EISDIR, path)
        self._hide(path)
        if self._is_upper(real):
            os.unlink(real)

    def rmdir(self, path: str) -> None:
        """A directory is empty if the union shows nothing in it; in the branches there may be whiteouts, and what they hide."""
        if self.names(path):
            raise _refuse(errno.ENOTEMPTY, path)
        self._hide(path)
        self._remove_empty(path)

    def rename(self, old: str, new: str) -> None:
        """A file is copied up and moved; a directory is moved if the writable branch has all of it, else EXDEV.

        Programs such as mv(1) answer EXDEV by copying: they meet it wherever two file systems meet.
        """
        real, status = self.find(old)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and (len(self.stack(old)) > 1 or not self._is_upper(real)):
            raise _refuse(errno.EXDEV, old)
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
        _remove(_whiteout(target))
        self._stacks.clear()

    def link(self, old: str, new: str) -> None:
        """A hard link cannot reach into another branch: copy up, then link(2) there."""
        if self.exists(new):
            raise _refuse(errno.EEXIST, new)
        source = self.copy_up(old)
        self.make(new, lambda real: os.link(source, real, follow_symlinks=False))

    def _check_replaced(self, path: str, by_directory: bool) -> None:
        """What rename(2) demands of an entry that it replaces."""
        if not self.exists(path):
            return
        is_directory = stat.S_ISDIR(self.find(path)[1].st_mode)
        if by_directory and not is_directory:
            raise _refuse(errno.ENOTDIR, path)
        if is_directory and not by_directory:
            raise _refuse(errno.EISDIR, path)
        if is_directory and self.names(path):
            raise _refuse(errno.ENOTEMPTY, path)

    def _place(self, path: str) -> str:
        """Where an entry of this path belongs in the writable branch; its directory is copied up."""
        parent, name = _split(path, errno.EPERM)
        self.stack(parent)  # ENOTDIR, if it is none
        return os.path.join(self.copy_up(parent), name)

    def _is_upper(self, real: str) -> bool:
        return self.upper is not None and real.startswith(self.upper + "/")

    def _is_below(self, path: str) -> bool:
        """Whether a branch below the writable one would show something here."""
        parent, name = _split(path, errno.ENOENT)
        entries = (_entry(directory, name) for directory in self.stack(parent) if not self._is_upper(directory + "/"))
        first = next((entry for entry in entries if entry is not None), None)
        return first is not None and first[1] is not None

    def _hide(self, path: str) -> None:
        """Make a whiteout, if there is something below to hide."""
        if self._is_below(path):
            os.close(os.open(_whiteout(self._place(path)), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
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

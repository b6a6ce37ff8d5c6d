"""Chapter 4: how several directories look like one, and where a change goes: AUFS's format, on plain directories.

    union = Branches(["/layer2", "/layer1"])       # the first is the top one
    union.find("/etc/motd")                        # where it really is: in the first branch from the top that has it
    union.names("/etc")                            # the names that the union shows there
    union = Writable("/upper", ["/layer2", "/layer1"], trace=print)
    union.copy_up("/etc/motd")                     # before the first change: a copy in the writable branch
    union.unlink("/etc/motd")                      # /upper/etc/.wh.motd: a whiteout, which hides the name below

Names that begin with .wh. belong to the format, aufs(5): `.wh.NAME` hides NAME in the branches below,
`.wh..wh..opq` in a directory hides all that is below it, and other names that begin with `.wh..wh.` are private. In
lower branches OverlayFS's marks are understood as well: the character device 0/0, and an attribute of the directory.
What the kernel checks before it asks a file system, is not checked here: whether a name is free, or a directory's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from minidocker.files import copy_entry
from minidocker.syscalls import error
from minidocker.trees import remove

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ORPHAN = ".wh..wh.orphan"
ORPHANS = ".fuse_hidden"  # what libfuse calls a file that was deleted while it is open
TEMPORARY = ".wh..wh.copy-up"  # a copy that is not whole yet
OVERLAY_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def split(path: str, refused: int) -> tuple[str, str]:
    """(parent, name) of a path in the union, which starts with "/"; `refused` is the errno for a name of the format."""
    parent, _, name = path.rpartition("/")
    if name.startswith(WHITEOUT):
        raise error("lookup", refused, path)
    return parent or "/", ORPHAN + name if name.startswith(ORPHANS) else name


def whiteout(real: str) -> str:
    """The whiteout that stands beside, or in place of, this entry of a branch."""
    parent, name = os.path.split(real)
    return os.path.join(parent, WHITEOUT + name)


def _is_overlay_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(directory: str) -> bool:
    """Whether nothing of the branches below shows through this directory."""
    if os.path.lexists(os.path.join(directory, OPAQUE)):
        return True
    found = os.listxattr(directory)
    return any(mark in found and os.getxattr(directory, mark) == b"y" for mark in OVERLAY_OPAQUE)


def look(directory: str, name: str) -> tuple[str, os.stat_result | None] | None:
    """What one branch says about a name: its path and status, (path, None) if it hides the name, None if nothing."""
    real = os.path.join(directory, name)
    try:
        status = os.lstat(real)
    except FileNotFoundError:
        return (real, None) if os.path.lexists(whiteout(real)) else None
    return real, None if _is_overlay_whiteout(status) else status


class Branches:
    """Directories, the top one first, that look like one. Only read here; `Writable` makes the first one an upper one.

    Paths are those of the union and begin with "/". One thread at a time. Nobody else may change the branches.
    """

    upper = ""

    def __init__(self, branches: Sequence[str]) -> None:
        self.branches = [*branches]
        self._stacks: dict[str, list[str]] = {}  # a directory of the union -> the directories that it is made of
        self._numbers: dict[tuple[int, int], int] = {}  # (device, inode) of what was copied up -> its number before
        self._devices: dict[int, int] = {}  # each file system counts its inodes for itself: the bits to tell them apart

    def _entries(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        """What the branches have of this name, from the top: down to an opaque directory, or a whiteout."""
        if path == "/":
            yield self.branches[0], os.lstat(self.branches[0])
            return
        parent, name = split(path, errno.ENOENT)
        for real, status in filter(None, (look(directory, name) for directory in self.stack(parent))):
            if status is None:
                return
            yield real, status
            if stat.S_ISDIR(status.st_mode) and (_is_opaque(real) or os.path.lexists(whiteout(real))):
                return

    def stack(self, path: str) -> list[str]:
        """The directories of the branches that make up this one. A file in between covers what is below it."""
        if path == "/":
            return self.branches
        if path not in self._stacks:
            if not stat.S_ISDIR(self.find(path)[1].st_mode):
                raise error("lookup", errno.ENOTDIR, path)
            directories = takewhile(lambda entry: stat.S_ISDIR(entry[1].st_mode), self._entries(path))
            self._stacks[path] = [real for real, _ in directories]
        return self._stacks[path]

    def find(self, path: str) -> tuple[str, os.stat_result]:
        """Where the entry really is, and its status. `FileNotFoundError` if no branch has it, or one hides it."""
        for entry in self._entries(path):
            return entry
        raise error("lookup", errno.ENOENT, path)

    def names(self, path: str) -> dict[str, str]:
        """The names in a directory, each with where it really is: all branches' names, less what is hidden."""
        shown, hidden = dict[str, str](), set[str]()
        for directory in self.stack(path):
            covered = set()
            for entry in os.scandir(directory):
                if entry.name.startswith(WHITEOUT):
                    covered.add(entry.name.removeprefix(WHITEOUT))
                elif _is_overlay_whiteout(entry.stat(follow_symlinks=False)):
                    covered.add(entry.name)
                elif entry.name not in hidden:
                    shown.setdefault(entry.name, entry.path)
            hidden |= covered
        return shown

    def number(self, status: os.stat_result) -> int:
        """The inode number that the union shows: the same before and after a copy-up, never that of another file."""
        device = self._devices.setdefault(status.st_dev, len(self._devices))
        return self._numbers.get((status.st_dev, status.st_ino), device << 48 | status.st_ino)

    def branch(self, real: str) -> str:
        """The name of the branch that an entry is in, for people: upper, lower 1 (the top one), lower 2, ..."""
        tops = [os.path.join(top, "") for top in self.branches]
        index = max(number for number, top in enumerate(tops) if os.path.join(real, "").startswith(top))
        return "upper" if self.upper and index == 0 else f"lower {index + (not self.upper)}"


class Writable(Branches):
    """Branches of which the first, `upper`, is written to. `trace` gets a line for each copy-up and whiteout.

    Everything that changed is there, and nothing that changed is anywhere else. Chapter 5 makes a layer of it; so a
    hard link does not outlive a copy-up, and a directory that is partly below cannot be renamed (EXDEV).
    """

    def __init__(self, upper: str, lowers: Sequence[str], trace: Callable[[str], object] | None = None) -> None:
        super().__init__([upper, *lowers])
        self.upper = upper
        self.trace = trace or (lambda line: None)
        self.copied: Callable[[str, str], object] = lambda path, target: None  # who holds the lower file open may care

    def copy_up(self, path: str) -> str:
        """Make sure that the entry is in the writable branch, with the directories on the way; return where it is.

        Only a whole copy gets the name: killed half-way, it leaves a private file, and the union is as it was.
        """
        real, status = self.find(path)
        if path == "/" or self.is_upper(real):
            return real
        target = self._place(path)
        parent = os.path.dirname(target)
        temporary, before = os.path.join(parent, TEMPORARY), os.stat(parent)
        remove(temporary)  # of a copy that was killed
        try:
            copy_entry(None, real, None, temporary)
        except OSError:
            remove(temporary)  # the disk is full, perhaps
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

    def make(self, path: str, maker: Callable[[str], Any]) -> Any:
        """Let `maker(real)` make a new entry in the writable branch, and take the whiteout away that hid the name."""
        real = self._place(path)
        made = maker(real)
        if stat.S_ISDIR(os.lstat(real).st_mode) and os.path.lexists(whiteout(real)):
            self._mark("opaque", path, os.path.join(real, OPAQUE))
        remove(whiteout(real))
        return made

    def unlink(self, path: str) -> None:
        """The whiteout comes first: killed in between, the name still shows its file, and no older one."""
        real = self.find(path)[0]
        self._hide(path)
        if self.is_upper(real):
            os.unlink(real)

    def rmdir(self, path: str) -> None:
        """A directory is empty if the union shows nothing in it, whatever whiteouts there are, and what they hide."""
        if self.names(path):
            raise error("rmdir", errno.ENOTEMPTY, path)
        self._hide(path)
        remove(self._place(path))  # it holds nothing but names of the format
        self._stacks.clear()

    def rename(self, old: str, new: str) -> None:
        """A file is copied up and moved; a directory is moved if the writable branch has all of it, else EXDEV.

        Programs such as mv(1) answer EXDEV by copying: they meet it wherever two file systems meet.
        """
        real, status = self.find(old)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and (len(self.stack(old)) > 1 or not self.is_upper(real)):
            raise error("rename", errno.EXDEV, old)
        if is_directory and os.path.basename(new) in self.names(os.path.dirname(new)):
            self.rmdir(new)
        source, target = self.copy_up(old), self._place(new)
        if os.path.lexists(target) and os.path.samestat(os.lstat(source), os.lstat(target)):
            return  # two names of one file: rename(2) does nothing
        if is_directory and self._is_below(new):
            self._mark("opaque", new, os.path.join(source, OPAQUE))
        self._hide(old)
        os.rename(source, target)
        remove(whiteout(target))
        self._stacks.clear()

    def link(self, old: str, new: str) -> None:
        """A hard link cannot reach into another branch: copy up, then link(2) there."""
        source = self.copy_up(old)
        self.make(new, lambda real: os.link(source, real, follow_symlinks=False))

    def _place(self, path: str) -> str:
        """Where an entry of this path belongs in the writable branch; its directory is copied up."""
        parent, name = split(path, errno.EPERM)
        return os.path.join(self.copy_up(parent), name)

    def is_upper(self, real: str) -> bool:
        return real.startswith(self.upper + "/")

    def _is_below(self, path: str) -> bool:
        """Whether a branch below the writable one would show something here."""
        parent, name = split(path, errno.ENOENT)
        below = [directory for directory in self.stack(parent) if not self.is_upper(directory + "/")]
        entries = filter(None, (look(directory, name) for directory in below))
        return next(entries, (path, None))[1] is not None

    def _hide(self, path: str) -> None:
        if self._is_below(path):
            self._mark("whiteout", path, whiteout(self._place(path)))

    def _mark(self, what: str, path: str, mark: str) -> None:
        """Make an empty file of the format. An opaque directory is a new one: what is below belongs to another."""
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY, 0o444))
        self._stacks.clear()
        self.trace(f"{what:<10}{path}")

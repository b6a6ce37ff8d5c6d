"""Chapter 4: how several directories look like one: lookup order, whiteouts, opaque directories, in AUFS's format.

    union = Branches(["/layer2", "/layer1"])       # the first is the top one
    union.find("/etc/motd")                        # where it really is: in the first branch from the top that has it
    union.names("/etc")                            # the names that the union shows there

Names that begin with .wh. belong to the format, aufs(5): `.wh.NAME` hides NAME in the branches below,
`.wh..wh..opq` in a directory hides all that is below it, and other names that begin with `.wh..wh.` are private. In
lower branches OverlayFS's marks are understood as well: the character device 0/0, and an attribute of the directory.
No mount is needed to watch this. Reading is here; what a change does is in the module `changes`.
"""

from __future__ import annotations

import errno
import os
import stat

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ORPHAN = ".wh..wh.orphan"
ORPHANS = ".fuse_hidden"  # what libfuse calls a file that was deleted while it is open
OVERLAY_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def refuse(number: int, path: str) -> OSError:
    """The answer to a call that the union cannot do: `raise refuse(errno.ENOENT, path)`."""
    return OSError(number, os.strerror(number), path)


def split(path: str, refused: int) -> tuple[str, str]:
    """(parent, name) of a path in the union, which starts with "/"; `refused` is the errno for a name of the format."""
    parent, _, name = path.rpartition("/")
    if name.startswith(WHITEOUT):
        raise refuse(refused, path)
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

    upper: str | None = None

    def __init__(self, branches: Sequence[str]) -> None:
        self.branches = [*branches]
        self._stacks: dict[str, list[str]] = {}  # a directory of the union -> the directories that it is made of
        self._numbers: dict[tuple[int, int], int] = {}  # (device, inode) of what was copied up -> its number before
        self._devices: dict[
            int, int
        ] = {}  # each file system counts its inodes for itself: the bits that tell them apart

    def stack(self, path: str) -> list[str]:
        """The directories of the branches that make up this one, from the top; down to an opaque one, or a whiteout."""
        if path == "/":
            return self.branches
        if path not in self._stacks:
            parent, name = split(path, errno.ENOENT)
            found: list[str] = []
            for directory in self.stack(parent):
                entry = look(directory, name)
                if entry is None:
                    continue
                if entry[1] is None or not stat.S_ISDIR(entry[1].st_mode):
                    if not found and entry[1] is not None:
                        raise refuse(errno.ENOTDIR, path)
                    break
                found.append(entry[0])
                if _is_opaque(entry[0]) or os.path.lexists(whiteout(entry[0])):
                    break
            if not found:
                raise refuse(errno.ENOENT, path)
            self._stacks[path] = found
        return self._stacks[path]

    def find(self, path: str) -> tuple[str, os.stat_result]:
        """Where the entry really is, and its status. `FileNotFoundError` if no branch has it, or one hides it."""
        if path == "/":
            return self.branches[0], os.lstat(self.branches[0])
        parent, name = split(path, errno.ENOENT)
        for directory in self.stack(parent):
            entry = look(directory, name)
            if entry is not None and entry[1] is not None:
                return entry[0], entry[1]
            if entry is not None:
                break
        raise refuse(errno.ENOENT, path)

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
        """The inode number that the union shows: the same before and after a copy-up, never that of another file."""
        device = self._devices.setdefault(status.st_dev, len(self._devices))
        return self._numbers.get((status.st_dev, status.st_ino), device << 48 | status.st_ino)

    def branch(self, real: str) -> str:
        """The name of the branch that an entry is in, for people: upper, lower 1 (the top one), lower 2, ..."""
        index = max(
            i for i, top in enumerate(self.branches) if os.path.join(real, "").startswith(os.path.join(top, ""))
        )
        return "upper" if self.upper and index == 0 else f"lower {index + (not self.upper)}"

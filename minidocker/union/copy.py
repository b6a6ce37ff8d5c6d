"""Chapter 4: the driver `copy`. No sharing: each container gets all files of its branches, as a virtual machine does.

    Union([root], driver="copy")

The first write costs nothing, since everything is there already; the start costs as much as the root is large. It
reads lower branches with the whiteouts of AUFS or of OverlayFS. The measure of what the other two save.
"""

from __future__ import annotations

import os
import stat

from minidocker.outcome import ContainerError
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import MS_BIND, mount
from minidocker.union import Union
from minidocker.union.branches import Branches
from minidocker.union.entries import attributes, copy_attributes, copy_entry

MARK = "trusted.minidocker.copy"  # xattr(7): only the host's root may set an attribute of this kind, or see it


class Copy(Union):
    """Copy what the branches show into the upper directory, and bind that to `root`."""

    needs_root = True

    def prepare(self) -> None:
        """A kept directory has a mark if an earlier container filled it, whatever became of the files since."""
        if MARK in attributes(self.upper):
            return
        if os.listdir(self.upper):
            what = "has something in it, and is no whole copy: empty it, or name another directory"
            raise ContainerError(f"Copy: {self.upper} {what}", isolator="Copy", path=self.upper)
        flatten(Branches(self.lowers), self.upper)
        os.setxattr(self.upper, MARK, b"")

    def inside(self) -> None:
        """mount(2) with MS_BIND: the same directory, seen in a second place."""
        make_mounts_private()
        mount(self.upper, self.root, flags=MS_BIND)


def flatten(branches: Branches, target: str) -> None:
    """Copy what a union shows into the empty directory `target`; hard links stay hard links."""
    copies: dict[tuple[int, int], str] = {}
    waiting, directories = ["/"], [("/", branches.find("/")[0])]
    while waiting:
        parent = waiting.pop()
        for name, real in branches.names(parent).items():
            path = os.path.join(parent, name)
            if _copy_once(real, target + path, copies):
                waiting.append(path)
                directories.append((path, real))
    for path, real in reversed(
        directories
    ):  # from the leaves to the root: each new entry changed the time of its parent
        copy_attributes(real, target + path, os.lstat(real))


def _copy_once(real: str, copy: str, copies: dict[tuple[int, int], str]) -> bool:
    """Copy an entry, or link to the copy that there is of it; whether it is a directory."""
    status = os.lstat(real)
    first = copies.setdefault((status.st_dev, status.st_ino), copy)
    if first == copy or stat.S_ISDIR(status.st_mode):
        copy_entry(real, copy)
    else:
        os.link(first, copy, follow_symlinks=False)
    return stat.S_ISDIR(status.st_mode)

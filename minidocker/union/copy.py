"""Chapter 4: the driver `copy`. No sharing: each container gets all files of all its branches, as a virtual machine does.

    Union([root], driver="copy")

The first write costs nothing, since everything is there already; the start costs as much as the root is large. It
reads lower branches with the whiteouts of AUFS or of OverlayFS. The measure of what the other two save.
"""

from __future__ import annotations

import os
import stat

from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import MS_BIND, mount
from minidocker.union import Union
from minidocker.union.branches import Branches
from minidocker.union.entries import copy_attributes, copy_entry


class Copy(Union):
    """Copy what the branches show into the upper directory, and bind that to `root`. Needs root."""

    def prepare(self) -> None:
        """A kept directory that has something in it was filled by an earlier container."""
        if not os.listdir(self.upper):
            flatten(Branches(None, self.lowers), self.upper)

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
    for path, real in reversed(directories):  # from the leaves to the root: each new entry changed the time of its parent
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

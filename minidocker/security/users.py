"""Chapter 9: --userns remap: root inside is root of a user namespace, and nobody outside.

    remap("remap", isolators)                          # of a container, before it starts

Root outside makes all mounts before, so that nobody inside can undo one. That files belong to those inside all the same
is an affair of mounts, too: id-mapped ones, mount_setattr(2), since Linux 5.12 (under OverlayFS 5.19, of tmpfs 6.3).
"""

from __future__ import annotations

import os
import stat

from minidocker.isolator import Isolator
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.rootfs import make_mounts_private
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, CLONE_NEWUSER, Any, call, mount_setattr, signal
from minidocker.union import Union, initial

FIRST, COUNT = 0x7FFF0000, 65536  # nobody's: useradd(8) and systemd give away lower numbers
OPEN_TREE_CLONE, MOUNT_ATTR_IDMAP, MOVE_MOUNT_EMPTY_PATHS = 1, 0x100000, 0x44  # <linux/mount.h>


def remap(who: str, isolators: list[Any]) -> None:
    """Put the wall after all mounts and before all that speaks of rights, and the covers before all mounts."""
    if who != "remap" or not initial():
        raise ContainerError(f"--userns {who}: it is host, or remap, for root of the machine", exit_code=125)
    union = next(one for one in isolators if isinstance(one, Union))
    users = Users(union, [one for one in isolators if hasattr(one, "source")])
    isolators.insert([isinstance(one, Seccomp) for one in isolators].index(True), users)
    isolators.insert(isolators.index(union), Mapped(users.maps))
    for memory in (one for one in users.volumes if isinstance(getattr(one, "options", None), str)):
        memory.options += f",uid={FIRST},gid={FIRST}"


class Mapped(Isolator):
    """Cover layers and volumes, in the mount namespace of the container, with themselves under other owners: by the
    maps of user namespaces, path -> descriptor."""

    def __init__(self, maps: dict[str, int]) -> None:
        self.maps = maps

    def inside(self) -> None:
        """All are opened before one is covered."""
        make_mounts_private()
        opened = []
        for path, users in self.maps.items():
            tree = call("open_tree", AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC, path=path)
            try:
                mount_setattr(tree, "", AT_EMPTY_PATH, MOUNT_ATTR_IDMAP, users=users)
            except OSError as refused:
                raise OSError(refused.errno, "no id-mapped mounts of this file system, in this kernel", path) from None
            opened.append((tree, os.open(path, os.O_PATH | os.O_CLOEXEC)))
        for tree, place in opened:
            call("move_mount", tree, "", place, "", MOVE_MOUNT_EMPTY_PATHS)
            os.close(tree)
            os.close(place)


class Users(Isolator):
    """Enter the user namespace, when there is nothing left to mount."""

    def __init__(self, union: Union, volumes: list[Any]) -> None:
        self.union, self.volumes, self.maps = union, volumes, dict[str, int]()

    def __enter__(self) -> Isolator:
        """After the union and volumes. In ours, n on the disk is n inside; in others', the owner is root inside."""
        self.own = namespace(f"0 {FIRST} {COUNT}", f"0 {FIRST} {COUNT}")
        ours = [*self.union.lowers, *(one.source for one in self.volumes if hasattr(one, "directory"))]  # named ones
        for path in {*ours, *filter(None, (one.source for one in self.volumes))}:
            owner = os.stat(path)
            if path in ours:
                shifted = f"0 {FIRST} {COUNT}\n{COUNT} 0 1"  # root outside fills volumes, and has to be somebody there
                self.maps[path] = namespace(shifted, shifted)
            elif 0 < owner.st_uid < FIRST:  # what is root's outside is never theirs
                self.maps[path] = namespace(owned(owner.st_uid), owned(owner.st_gid))
        self.descriptors = (self.own, *self.maps.values())
        os.chown(self.union.upper, FIRST, FIRST)
        return self

    def inside(self) -> None:
        """The pipes and the terminal are root's inside, too, who opens /dev/stdout."""
        for stream in range(3):
            if os.isatty(stream) or stat.S_ISFIFO(os.fstat(stream).st_mode):
                os.fchown(stream, FIRST, -1)
        call("setns", self.own, CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.maps.clear()


def namespace(uids: str, gids: str) -> int:
    """A user namespace with these maps, and nobody in it: its descriptor."""
    with start(signal.pause, Namespaces("user", uid_map=uids, gid_map=gids)) as holder:
        return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def owned(number: int) -> str:
    """The map by which this number on the disk is root inside, and those inside are nobody on the disk."""
    return f"{number} {FIRST} 1\n{FIRST + 1} {FIRST + 1} {COUNT - 1}" if number else f"{FIRST} {FIRST} {COUNT}"

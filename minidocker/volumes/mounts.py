"""Chapter 6: where a mount lands, and how it is made read-only, whoever is changing links meanwhile.

    root = os.open("/merged", os.O_PATH)
    place, _ = landing(root, "/var/www", directory=True)  # a descriptor below root, whatever links the image has
    tree = clone("/srv/pages")                            # a mount that nobody sees yet
    read_only(tree); attach(tree, place)

What a path leads to can change between two uses (CVE-2021-30465). So a path is used once, to open a descriptor, and the
rest is done with that: in the new process, with CAP_SYS_ADMIN over its mount namespace, before the root changes.
"""

from __future__ import annotations

import errno
import os
import stat

from minidocker.syscalls import call, openat2, structure

RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10  # <linux/openat2.h>
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, AT_FDCWD = 1, 0x8000, 0x1000, -100  # <linux/mount.h>, <fcntl.h>
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH, MOUNT_ATTR_RDONLY = 0x04, 0x40, 1
TRIES = 10_000  # lookups that somebody disturbs; each takes microseconds
NOT_THERE = "nothing can be mounted on the root, nor on or below /proc"


def lookup(root: int, path: str) -> int:
    """Open `path` as if the directory `root` were the root of everything, for links and `..` as well.

    Links of /proc, which lead anywhere, are refused. EAGAIN says that a directory was moved while `..` was looked up.
    """
    for _ in range(TRIES):
        try:
            return openat2(root, path, os.O_PATH | os.O_CLOEXEC, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except BlockingIOError:
            pass
    raise OSError(errno.EAGAIN, "somebody moves directories all the time", path)


def landing(root: int, target: str, directory: bool) -> tuple[int, bool]:
    """A descriptor of the target, below `root`, and whether it was there; what is missing is made, at the end a file
    unless it is to be a `directory`. What must not be covered is an error: programs trust what they read in /proc.
    """
    there = True
    try:
        place = lookup(root, target)
    except FileNotFoundError:
        there, place = False, _made(root, target.strip("/").split("/"), directory)
    inside = name_of(place).removeprefix(name_of(root).rstrip("/"))
    if inside in ("", "/") or inside.split("/")[1] == "proc":
        raise OSError(errno.EPERM, NOT_THERE, target)
    if stat.S_ISDIR(os.fstat(place).st_mode) != directory:
        kinds = ("a directory", "a file") if directory else ("a file", "a directory")
        raise OSError(errno.ENOTDIR, f"{kinds[0]} cannot be mounted on {kinds[1]}, which the root has here", target)
    return place, there


def _made(root: int, parts: list[str], directory: bool) -> int:
    """The same, where something is missing: each part is looked up from the root, or made in the one before it."""
    place = os.dup(root)
    for number, part in enumerate(parts, 1):
        parent = place
        try:
            place = lookup(root, "/".join(parts[:number]))
        except FileNotFoundError:
            place = _make(parent, part, directory or number < len(parts))
        finally:
            os.close(parent)
    return place


def _make(parent: int, name: str, directory: bool) -> int:
    """A new directory or file, and a descriptor of it. A link of that name leads nowhere, and is not followed."""
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        pass  # another container was faster, or it is a link
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    if stat.S_ISLNK(os.fstat(made).st_mode):
        os.close(made)
        raise OSError(errno.ENOENT, "a symbolic link on the way to the target leads nowhere", name)
    return made


def clone(path: str) -> int:
    """open_tree(2): a copy of the mount at `path` with those below it, attached nowhere. Closing it ends it."""
    return call("open_tree", AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC, path=path)


def attach(tree: int, place: int) -> None:
    """move_mount(2), from one descriptor to another: no path is looked up, so none can be changed."""
    call("move_mount", tree, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH, path=name_of(place))


def name_of(descriptor: int) -> str:
    """The path that the kernel knows for it, now."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def read_only(tree: int) -> None:
    """mount_setattr(2), Linux 5.12: this mount and all below it, in one step, before anybody sees them.

    A read-only bind mount made by mount(2) leaves the mounts below it writable.
    """
    attributes = structure(MOUNT_ATTR_RDONLY, 0, 0, 0)
    call("mount_setattr", tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attributes, len(attributes))

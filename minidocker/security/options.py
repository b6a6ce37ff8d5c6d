"""Chapter 9: what a container has only if it is asked for: devices of the host, and a root that nobody writes to.

run(argv, ..., Filesystems(root), Nodes(root, ["/dev/fuse"]), PivotRoot(root), NoDevices(…), ReadOnly("/srv"), …)
"""

from __future__ import annotations

import os
import stat

from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import AT_FDCWD, MS_BIND, MS_RDONLY, mount, mount_setattr

OF_THE_CONTAINER = ("/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Nodes(Isolator):
    """Devices of the host in the container's /dev, as after --device; all of them are those of /dev.

    After `Filesystems` and before volumes, so nothing is in the way in /dev. `own` is for `NoDevices`.
    """

    def __init__(self, root: str, asked: Sequence[str]) -> None:
        self.root, self.nodes = root, dict(pair for text in asked for pair in _named(text))
        there = [os.stat(path) for path in self.nodes.values()]
        self.own = {(stat.S_IFMT(status.st_mode), status.st_rdev) for status in there}

    def inside(self) -> None:
        """The host's nodes are mounted: with owner and mode, and in a user namespace, too, where none can be made."""
        for target, source in self.nodes.items():
            if not os.path.lexists(self.root + target):
                os.makedirs(os.path.dirname(self.root + target), exist_ok=True)
                os.mknod(self.root + target)
                mount(source, self.root + target, flags=MS_BIND)


def _named(text: str) -> list[tuple[str, str]]:
    """(path in the container, path here) of HOST[:CONTAINER[:RIGHTS]]; of a directory, all devices in it.

    A device opens, or does not: to tell reading from writing would take a devices cgroup.
    """
    source, *rest = text.split(":")
    target, top = source, os.path.realpath(source)
    if rest and rest[0].startswith("/"):
        target = rest.pop(0)
    if rest not in ([], ["rw"], ["rwm"]) or not f"{os.path.normpath(target)}/".startswith("/dev/"):
        raise ContainerError(f"--device {text}: write HOST[:/dev/NAME[:rwm]]; fewer rights than rw cannot be enforced")
    paths = [f"{place}/{name}" for place, _, names in os.walk(top) for name in names] or [top]
    there = [path for path in paths if os.path.lexists(path) and not path.startswith(OF_THE_CONTAINER)]
    found = [path for path in there if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)]
    if not found:
        raise ContainerError(f"--device {text}: there is no device {source} on this host")
    return [(os.path.normpath(target + path.removeprefix(top)), path) for path in found]


class ReadOnly(Isolator):
    """The root of the container, but not what is mounted on it: after the change of root, before the change of user.

    The working directory, which `User` would make there, is made before.
    """

    def __init__(self, cwd: str = "/") -> None:
        self.cwd = cwd

    def inside(self) -> None:
        """As in Docker, so are the files of /etc that are the container's own: some may be missing, or no mounts."""
        os.makedirs(self.cwd, exist_ok=True)
        mount_setattr(AT_FDCWD, "/", 0, MS_RDONLY)
        for path in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf"):
            try:
                mount_setattr(AT_FDCWD, path, 0, MS_RDONLY)
            except OSError:
                pass

"""Chapter 9: what a container has, or is denied, only if it is asked for: Docker's flags about devices and rights.

    options = privileges(["no-new-privileges"], ["nofile=1024:4096"], read_only="/srv")
    argv, isolators, settings = container(image, mounts=lambda root: [Nodes(root, ["/dev/fuse"])], **options)

It is imported for volumes and networks as well, so it imports nothing that takes its time.
"""

from __future__ import annotations

import os
import stat
from _collections_abc import Mapping, Sequence

from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import AT_FDCWD, MS_BIND, MS_RDONLY, Any, call, mount, mount_setattr, prctl, structure

OF_THE_CONTAINER = ("/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm")
PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>
RESOURCES = (  # in the order of <asm-generic/resource.h>: the first is number 0
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip
NOTHING_TO_DO = ("no-new-privileges=false", "apparmor=unconfined", "label=disable")


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


class NoNewPrivileges(Isolator):
    """From here on execve(2) gives no rights: set-user-ID and capabilities of files are without effect."""

    def inside(self) -> None:
        """Nobody can take it back, prctl(2)."""
        prctl(PR_SET_NO_NEW_PRIVS, 1)


class Rlimits(Isolator):
    """Limits of each process, getrlimit(2): {"nofile": (soft, hard)}; -1 is no limit."""

    def __init__(self, limits: Mapping[str, tuple[int, int]]) -> None:
        self.limits = limits

    def inside(self) -> None:
        """A hard limit above the caller's needs CAP_SYS_RESOURCE."""
        for name, pair in self.limits.items():
            call("prlimit64", 0, RESOURCES.index(name), structure(*(limit % 2**64 for limit in pair)), None, path=name)


def privileges(security_opt: Sequence[str], ulimit: Sequence[str], read_only: str = "") -> dict[str, Any]:
    """Docker's flags --security-opt, --ulimit and, with the working directory, --read-only: options of `container`."""
    found: dict[str, Any] = {"walls": [ReadOnly(read_only)] if read_only else []}
    for word in security_opt:
        if word in ("no-new-privileges", "no-new-privileges=true"):
            found["walls"].append(NoNewPrivileges())
        elif word.startswith("seccomp=") and word != "seccomp=":
            found["seccomp"] = word.removeprefix("seccomp=")
        elif word == "systempaths=unconfined":
            found["covered"] = False
        elif word not in NOTHING_TO_DO:
            raise ContainerError(
                f"--security-opt {word}: it is no-new-privileges, seccomp=FILE or systempaths=unconfined"
            )
    limits = {}
    for word in ulimit:
        name, _, numbers = word.partition("=")
        pair = (numbers if ":" in numbers else f"{numbers}:{numbers}").split(":")
        right = all(one == "-1" or one.isascii() and one.isdecimal() and len(one) < 20 for one in pair)
        if name not in RESOURCES or not right or len(pair) > 2 or int(pair[0]) % 2**64 > int(pair[1]) % 2**64:
            raise ContainerError(f"--ulimit {word}: NAME=SOFT[:HARD], e.g. nofile=1024; {', '.join(RESOURCES)}")
        limits[name] = int(pair[0]), int(pair[1])
    found["walls"].append(Rlimits(limits))
    return found

"""Chapter 10: one more process in a running container, `docker exec`: its namespaces, its groups, and its walls."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from minidocker.cgroups.hierarchy import Hierarchy, hierarchies
from minidocker.images.inside import User
from minidocker.isolator import Isolator
from minidocker.namespaces import Init, Join
from minidocker.outcome import ContainerError
from minidocker.security.capabilities import Bounding, Capabilities, capabilities
from minidocker.security.options import ReadOnly
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import CLONE_NEWPID, CLONE_NEWUSER, Any, call


class Groups(Isolator):
    """Into the control groups of the container `name`, which its monitor holds. Host side as root."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Isolator:
        """Open where to write, since inside there are other paths; in version 2 the process is born in the group."""
        try:
            there = [one for one in hierarchies() if os.path.isdir(_group(one, self.name))]
            self.descriptors = tuple(os.open(f"{_group(one, self.name)}/cgroup.procs", os.O_WRONLY) for one in there)
        except FileNotFoundError:
            raise ContainerError(f"{self.name}: this container has just ended") from None
        return self

    def inside(self) -> None:
        """ "0" means the process that writes it: cgroups(7)."""
        for descriptor in self.descriptors:
            call("write", descriptor, b"0", 1, path="cgroup.procs")

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def _group(hierarchy: Hierarchy, name: str) -> str:
    return f"{hierarchy.parent}/{name}"


class Enter(Join):
    """Into the namespaces of a container, but for that of processes, where we would be seen: root in there may have
    CAP_SYS_PTRACE, and could take over a process that still has all rights of the host (CVE-2016-9962)."""

    def __enter__(self) -> Isolator:
        """So we are not born in there, either. Without root, each command has a user namespace of its own."""
        try:
            super().__enter__()
        except PermissionError:
            remedy = "run -it, start -ai and attach work without root: exec needs sudo, and a container of root's"
            raise ContainerError(f"process {self.pid} belongs to another user namespace: {remedy}") from None
        self.pid_namespace = None
        return self

    def inside(self) -> None:
        """Only children will be born in that; it belongs to the host's users, even if `super` makes us others."""
        call("setns", self.descriptors[0], CLONE_NEWPID, path=f"process {self.pid}")
        for stream in range(3) if self.flags & CLONE_NEWUSER else ():
            if stat.S_ISFIFO(os.fstat(stream).st_mode):  # as at a start: root in there opens /dev/stdout
                os.fchown(stream, int(self.maps[0].split()[1]), -1)
        super().inside()


class Born(Init):
    """Last of all: a child, which is seen, has no more than the container has."""

    clone_flags = 0


def walls_of(
    pid: int, name: str, terminal: Sequence[Isolator], user: str, privileged: bool, asked: Mapping[str, Any]
) -> list[Isolator]:
    """The isolators of one more process: what the first one has, as /proc tells, and what was `asked` for it.

    The groups come first, while their files can still be written; the rights go last, as at a start.
    """
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    mask = int(status["CapBnd"], 16)
    kept = capabilities(privileged=True) if privileged else frozenset(bit for bit in range(64) if mask >> bit & 1)
    profile = "unconfined" if privileged or status["Seccomp"] == "0" else str(asked.get("seccomp", ""))
    walls = [wall for wall in asked.get("walls", ()) if not isinstance(wall, ReadOnly)]
    rights = [Seccomp(kept, profile), Bounding(kept), User(user), Capabilities(kept)]
    return [Groups(name), Enter(pid), *terminal, *walls, *rights, Born()]

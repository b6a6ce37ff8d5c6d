"""Chapter 10: one more process in a running container, `docker exec`: its namespaces, its groups, and its walls."""

from __future__ import annotations

import os
from collections.abc import Sequence

from minidocker.cgroups.hierarchy import Hierarchy, hierarchies
from minidocker.images.inside import User
from minidocker.isolator import Isolator
from minidocker.namespaces import Join
from minidocker.outcome import ContainerError
from minidocker.security.capabilities import Bounding, Capabilities, capabilities
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import call


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


def walls_of(pid: int, name: str, terminal: Sequence[Isolator], user: str, privileged: bool) -> list[Isolator]:
    """The isolators of one more process: what the first one has, as /proc tells.

    The groups come first, while their files can still be written; the rights go last, as at a start.
    """
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    mask = int(status["CapBnd"], 16)
    kept = capabilities(privileged=True) if privileged else frozenset(bit for bit in range(64) if mask >> bit & 1)
    profile = "unconfined" if privileged or status["Seccomp"] == "0" else ""
    walls: list[Isolator] = [Groups(name), Join(pid), *terminal, Seccomp(kept, profile), Bounding(kept)]
    return [*walls, User(user), Capabilities(kept)]

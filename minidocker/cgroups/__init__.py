"""Chapter 3: control groups, a fence. What a container may use of the CPU, the memory, the disk and the process table.

    fence = Cgroup(memory="64m", cpus=0.5, pids=32)
    result = run(["sh"], Namespaces("pid mount"), fence, Namespaces("cgroup"), PivotRoot(root))
    fence.oom_killed, fence.statistics()

Namespaces decide what a process sees; this decides what it gets. The process is in the group before its command runs,
and so is everything that the command ever starts. `prune` removes what killed owners left behind.
"""

from __future__ import annotations

import os

from minidocker import state
from minidocker.cgroups.hierarchy import Group, Hierarchy, freeze, hierarchies, kill, prune, read, remove, write
from minidocker.cgroups.limits import Limits, Statistics
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, call

__all__ = ["Cgroup", "Hierarchy", "Limits", "Statistics", "hierarchies", "prune"]

# Joined wherever they are, whatever is limited: for the statistics, and to end and freeze the whole group
USED = ("cpu", "cpuacct", "memory", "pids", "io", "blkio", "freezer")


class Cgroup(Isolator):
    """A control group with limits: `memory`, `memory_swap`, `cpus`, `cpu_weight`, `pids`, `io`.

    `memory` in bytes or as "64m"; `memory_swap` is memory and swap together (default: no swap); `cpus` in CPUs, 0.5 is
    half of one; `cpu_weight` 1 to 10000 against others of 100; `pids` counts processes and threads; `io` is
    {path of a device or a file: {"rbps": bytes per second, "wbps", "riops": operations per second, "wiops"}}.
    Needs root. A limit that this machine cannot set is a `ContainerError`. One object fences one container at a time.
    """

    hierarchies = staticmethod(hierarchies)  # in which its groups are made

    def __init__(self, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self.groups: dict[str, Group] = {}  # controller -> the group that has it, while the container exists
        self._last: Statistics | None = None

    def __enter__(self) -> Isolator:
        """End what runs in the groups of dead owners; make a group in each hierarchy that we use; set the limits."""
        if self.groups:
            raise ContainerError("Cgroup: it fences a container already: make one for each")
        try:
            for hierarchy in hierarchies()[:1]:  # where processes are frozen and killed
                state.prune(hierarchy.parent, remove=remove)
        except (ContainerError, OSError):
            pass  # `prune` says what resisted
        try:
            for hierarchy in self.hierarchies():
                if names := hierarchy.controllers & {*USED} - {*self.groups}:
                    self.groups.update(dict.fromkeys(names, Group(hierarchy, self.container)))
            for file, text in self.limits.settings(self.groups):
                write(file, text)
            if not self.groups:
                raise ContainerError("Cgroup: no control groups here: see the lines on cgroups of minidocker doctor")
            self.cgroup = next((group.lock for group in self._all() if group.version == 2), None)
            old = [group.path for group in self._all() if group.version == 1]
            self.descriptors = tuple(os.open(f"{path}/tasks", os.O_WRONLY) for path in old)
        except BaseException:
            self.__exit__()
            raise
        return self

    def inside(self) -> None:
        """Join the groups of version 1; in that of version 2 the process was born. "0" means the process that writes
        it; any other number makes the kernel wait for all CPUs.
        """
        for descriptor in self.descriptors:
            call("write", descriptor, b"0", 1, path="tasks")

    def __exit__(self, *_: object) -> None:
        """Keep the last statistics, end what is left in the groups, and remove them."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.cgroup, self.descriptors = None, ()
        self._last = self.statistics()
        groups, self.groups = self._all(), {}
        for group in groups:
            state.release(group.path, group.lock, remove)

    def statistics(self) -> Statistics:
        """What the container has used so far; after its end, what it had used."""
        return Statistics(self.groups) if self.groups or self._last is None else self._last

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed one of its processes because the memory limit was reached: Docker's OOMKilled."""
        return bool(self.statistics().oom_kills)

    def update(self, **limits: Any) -> None:
        """Change these limits while the container runs: `docker update`."""
        self._first()
        for file, text in Limits(**limits).settings(self.groups):
            write(file, text)

    def processes(self) -> list[int]:
        """The numbers of its processes, as the caller sees them."""
        return [int(pid) for group in self._all()[:1] for pid in read(f"{group.path}/cgroup.procs").split()]

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, however fast they fork."""
        kill(self._first())

    def freeze(self, frozen: bool = True) -> None:
        """Stop all of its processes where they are, and return when they have: `docker pause`. They notice nothing."""
        if not freeze(self._first(), frozen):
            raise ContainerError(f"Cgroup: {self._first()}: a process of it has not stopped: it waits for a device")

    def thaw(self) -> None:
        """Let them go on: `docker unpause`."""
        self.freeze(False)

    def _all(self) -> list[Group]:
        """Each group once; several controllers may share one. The one that freezes is in front."""
        return [*dict.fromkeys(self.groups.values())]

    def _first(self) -> str:
        if not self.groups:
            raise ContainerError("Cgroup: no container runs behind it")
        return self._all()[0].path

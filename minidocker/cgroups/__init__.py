"""Chapter 3: control groups, a fence. What a container may use of the CPU, the memory, the disk and the process table.

    fence = Cgroup(memory="64m", cpus=0.5, pids=32)
    result = run(["sh"], Namespaces("pid mount"), fence, Namespaces("cgroup"), PivotRoot(root))
    fence.oom_killed, fence.statistics()

Namespaces decide what a process sees; this decides what it gets. The group is joined by the process itself before its
command runs, so that everything the command ever starts is in it. `prune` removes what killed owners left behind.
"""

from __future__ import annotations

import os

from minidocker.cgroups.hierarchy import Group, Hierarchy, freeze, hierarchies, kill, processes, prune
from minidocker.cgroups.limits import Limits
from minidocker.cgroups.statistics import Statistics
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.syscalls import call

__all__ = ["Cgroup", "Hierarchy", "Limits", "Statistics", "hierarchies", "prune"]

# Joined wherever they are, whatever is limited: for the statistics, and to end and freeze the whole group
USED = ("cpu", "cpuacct", "memory", "pids", "io", "blkio", "freezer")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Cgroup(Isolator):
    """A control group with limits: `memory`, `memory_swap`, `cpus`, `cpu_weight`, `pids`, `io`.

    `memory` in bytes or as "64m"; `memory_swap` is memory and swap together (default: no swap); `cpus` in CPUs, 0.5 is
    half of one; `cpu_weight` 1 to 10000 against others of 100; `pids` counts processes and threads; `io` is
    {path of a device or a file: {"rbps": bytes per second, "wbps", "riops": operations per second, "wiops"}}.
    Needs root. A limit that this machine cannot set is a `ContainerError`. One object fences one container at a time.
    """

    def __init__(self, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self.groups: dict[str, Group] = {}  # controller -> the group that has it, while the container exists
        self._last: Statistics | None = None

    def __enter__(self) -> Isolator:
        """Make a group in each hierarchy that has a controller which we use, and set the limits."""
        if self.groups:
            raise ContainerError("Cgroup: it fences a container already: make one for each")
        try:
            for hierarchy in hierarchies():
                if names := hierarchy.controllers & {*USED} - {*self.groups}:
                    self.groups.update(dict.fromkeys(names, Group(hierarchy, self.container)))
            if not self.groups:
                raise ContainerError("Cgroup: no control groups here: see the lines on cgroups of minidocker doctor")
            self._write(self.limits)
            self._open_doors()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _write(self, limits: Limits) -> None:
        """Set each limit where its controller is."""
        for group, file, text in limits.settings(self._group):
            group.write(file, text)

    def _group(self, controller: str) -> Group:
        """The group that has a controller, under its name in either version; an error if this machine has none."""
        if not self.groups:
            raise ContainerError("Cgroup: no container runs behind it")
        old_name = {"io": "blkio"}.get(controller, controller)
        group = self.groups.get(controller) or self.groups.get(old_name)
        if group is None:
            places = ", ".join(hierarchy.path for hierarchy in hierarchies()) or "/proc/self/mountinfo"
            raise ContainerError(f"Cgroup: controller {controller} is missing here, looked for it in {places}")
        return group

    def _all(self) -> list[Group]:
        """Each group once; several controllers may share one."""
        return [*dict.fromkeys(self.groups.values())]

    def _open_doors(self) -> None:
        """How the process gets in: it is born into a version 2 group, and writes itself into those of version 1."""
        self.cgroup = next((group.lock for group in self._all() if group.version == 2), None)
        files = [f"{group.path}/tasks" for group in self._all() if group.version == 1]
        self.descriptors = tuple(os.open(file, os.O_WRONLY | os.O_CLOEXEC) for file in files)

    def inside(self) -> None:
        """Join the groups of version 1. "0" is whoever writes it; a number would make the kernel wait for all CPUs."""
        for descriptor in self.descriptors:
            call("write", descriptor, b"0", 1, path="tasks")

    def __exit__(self, *_: object) -> None:
        """Keep the last statistics, end what is left in the groups, and remove them."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.cgroup, self.descriptors = None, ()
        if self.groups:
            self._last = Statistics(self.groups)
        groups, self.groups = self._all(), {}
        for group in groups:
            group.remove()

    def statistics(self) -> Statistics:
        """What the container has used so far; after its end, what it had used."""
        if self.groups or self._last is None:
            return Statistics(self.groups)
        return self._last

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed one of its processes because the memory limit was reached: Docker's OOMKilled."""
        return bool(self.statistics().oom_kills)

    def update(self, **limits: Any) -> None:
        """Change these limits while the container runs: `docker update`."""
        self._write(Limits(**limits))

    def processes(self) -> list[int]:
        """The numbers of its processes, as the caller sees them."""
        return processes(self._all()[0].path) if self.groups else []

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, however fast they fork."""
        kill(self._group("freezer").path)

    def freeze(self) -> None:
        """Stop all of its processes where they are, and return when they have: `docker pause`. They cannot notice it.

        With version 1 alone not even SIGKILL ends what is frozen: `kill` thaws, `Process.kill` waits for a `thaw`.
        """
        self._freeze(True)

    def thaw(self) -> None:
        """Let them go on: `docker unpause`."""
        self._freeze(False)

    def _freeze(self, frozen: bool) -> None:
        """An error if it takes longer than `PATIENCE`."""
        group = self._group("freezer")
        if not freeze(group.path, frozen):
            raise ContainerError(f"Cgroup: {group.path}: not all of its processes have stopped: one waits for a device")

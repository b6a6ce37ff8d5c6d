"""Chapter 8: how much memory one needs that does nothing, and how many fit. The same count for containers and machines.

    with Fleet(container) as fleet:             # container(fence) starts one behind that fence
        fleet.grow(100)
        sum(fleet.memory()) / 100               # bytes for one

Each stands behind a fence of its own, also each QEMU: so the count is the same. It is the proportional set size of its
processes (a page that k processes share counts as 1/k for each, proc(5), smaps) and what the kernel holds on its
account. Not on its account is what the kernel made before the process joined its group, such as network namespaces:
so `used` asks the whole machine, too.
"""

import resource
import sys
import time
from collections.abc import Callable
from typing import Self

from minidocker.cgroups import Cgroup
from minidocker.cgroups.hierarchy import read
from minidocker.outcome import ContainerError
from minidocker.process import Process

DESCRIPTORS = 18  # open at once for one container: pipes, pidfd, lock, and with version 1 two for each of five groups


class Fleet:
    """Instances that run at the same time. `make(fence)` starts one behind that fence, and returns when it is ready."""

    def __init__(self, make: Callable[[Cgroup], Process]) -> None:
        self.make = make
        self.members: list[tuple[Process, Cgroup]] = []

    def __enter__(self) -> Self:
        return self

    def grow(self, number: int) -> None:
        """Start more, until there are `number` of them."""
        open_files(DESCRIPTORS * number)
        while len(self.members) < number:
            fence = Cgroup()
            self.members.append((self.make(fence), fence))

    def memory(self) -> list[int]:
        """Bytes that each of them needs."""
        return [sum(map(pss, fence.processes())) + kernel_memory(fence) for _, fence in self.members]

    def cpu(self, seconds: float) -> float:
        """CPUs that all of them use while nobody wants anything from them, over so many seconds."""
        before = sum(fence.statistics().cpu_seconds or 0 for _, fence in self.members)
        time.sleep(seconds)
        return (sum(fence.statistics().cpu_seconds or 0 for _, fence in self.members) - before) / seconds

    def __exit__(self, *_: object) -> None:
        """First ask all of them to end, then wait for each."""
        for process, _fence in self.members:
            process.kill()
        for process, _fence in self.members:
            process.wait()


def pss(pid: int) -> int:
    """The proportional set size of a process, in bytes; 0 if it has ended. Root, or its user."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kernel_memory(fence: Cgroup) -> int:
    """Bytes that the kernel holds for a group: stacks, page tables, inodes, sockets."""
    group = fence.groups["memory"]
    if group.version == 1:
        return int(read(f"{group.path}/memory.kmem.usage_in_bytes") or 0)
    table = dict(line.split() for line in read(f"{group.path}/memory.stat").splitlines())
    return int(table.get("kernel", 0))  # Linux 5.18


def used() -> int:
    """Bytes of this machine's memory that a new program could not have: proc(5), meminfo. Others change it, too."""
    with open("/proc/meminfo") as file:
        table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    return table["MemTotal"] - table["MemAvailable"]


def open_files(number: int) -> None:
    """Let this process, and its launcher if it has one, have `number` files open, above the usual limit of 1024.

    The hard limit, too, if this process has CAP_SYS_RESOURCE, as root usually has (setrlimit(2)).
    """
    launcher = sys.modules.get("minidocker.launcher")
    pids = [0, launcher._Caller.pid] if launcher and launcher._Caller.pid else [0]
    for pid in pids:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)  # -1 is no limit
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(soft, number), max(hard, number) if hard >= 0 else hard))
        except (OSError, ValueError) as error:
            remedy = "a hard limit is raised with CAP_SYS_RESOURCE, up to fs.nr_open"
            raise ContainerError(f"{number} open files: {error}; {remedy}") from None

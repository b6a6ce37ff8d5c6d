"""Chapter 3: what the limits are called in each version, and how to read back what was used.

                   version 2                          version 1
    cpus           cpu.max                            cpu.cfs_quota_us, cpu.cfs_period_us
    cpu_weight     cpu.weight (100)                   cpu.shares (1024)
    memory         memory.max                         memory.limit_in_bytes
    memory_swap    memory.swap.max: swap              memory.memsw.limit_in_bytes: memory and swap together
    pids           pids.max                           pids.max
    io             io.max                             blkio.throttle.read_bps_device and three more

Sources: the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import os

from minidocker.outcome import ContainerError

PERIOD = 100_000  # microseconds: the kernel's and Docker's; a fence of half a CPU is 50 ms of every 100
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
IO_V1 = {"rbps": "read_bps", "wbps": "write_bps", "riops": "read_iops", "wiops": "write_iops"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from minidocker.cgroups.hierarchy import Group

    Size = int | str
    Setting = tuple[Group, str, str]  # where, in which file, what


def size(value: Size) -> int:
    """Bytes from a number or from Docker's spelling: "64m", "64M", "1g", "512k"."""
    text = str(value).strip().lower().removesuffix("ib")
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    if not number.isdigit() or unit not in UNITS or int(number) == 0:
        raise ContainerError(f"Cgroup: {value!r} is no size: write bytes, or a number with k, m or g, such as 64m")
    return int(number) * UNITS[unit]


class Limits:
    """The limits of one container; None is no limit. `settings` says what to write where."""

    def __init__(
        self,
        memory: Size | None = None,
        memory_swap: Size | None = None,
        cpus: float | None = None,
        cpu_weight: int | None = None,
        pids: int | None = None,
        io: Mapping[str, Mapping[str, Size]] | None = None,
    ) -> None:
        self.memory = None if memory is None else size(memory)
        self.memory_swap = self.memory if memory_swap is None else size(memory_swap)
        self.swap_asked = memory_swap is not None
        self.cpus, self.cpu_weight, self.pids = cpus, cpu_weight, pids
        self.io = {
            device(path): {key: size(value) for key, value in rates.items()} for path, rates in (io or {}).items()
        }
        self._check()

    def _check(self) -> None:
        """What the kernel would refuse with a bare EINVAL, or take for something else."""
        if self.cpus is not None and self.cpus < 0.01:
            raise ContainerError(f"Cgroup: cpus={self.cpus}: the smallest share is 0.01, a millisecond of every 100")
        if self.cpu_weight is not None and not 1 <= self.cpu_weight <= 10_000:
            raise ContainerError(f"Cgroup: cpu_weight={self.cpu_weight} is not between 1 and 10000; 100 is the default")
        if self.pids is not None and self.pids < 1:
            raise ContainerError(f"Cgroup: pids={self.pids}: the command itself is one")
        if self.memory is None and self.memory_swap is not None:
            raise ContainerError("Cgroup: memory_swap is memory and swap together: it needs memory, too")
        if self.memory is not None and self.memory_swap is not None and self.memory_swap < self.memory:
            raise ContainerError(
                f"Cgroup: memory_swap={self.memory_swap} includes memory={self.memory}: it is too small"
            )
        for rates in self.io.values():
            if set(rates) - set(IO_V1):
                raise ContainerError(f"Cgroup: io takes {', '.join(IO_V1)}, not {', '.join(set(rates) - set(IO_V1))}")

    def settings(self, group_of: Callable[[str], Group]) -> Iterator[Setting]:
        """(group, file, text) for each limit, in an order that the kernel takes; `group_of` finds a controller."""
        if self.cpus is not None or self.cpu_weight is not None:
            yield from self._cpu(group_of("cpu"))
        if self.memory is not None:
            yield from self._memory(group_of("memory"))
        if self.pids is not None:
            yield group_of("pids"), "pids.max", str(self.pids)
        if self.io:
            yield from self._io(group_of("io"))

    def _cpu(self, group: Group) -> Iterator[Setting]:
        quota = None if self.cpus is None else round(self.cpus * PERIOD)
        if quota is not None and group.version == 2:
            yield group, "cpu.max", f"{quota} {PERIOD}"
        elif quota is not None:
            yield group, "cpu.cfs_period_us", str(PERIOD)
            yield group, "cpu.cfs_quota_us", str(quota)
        if self.cpu_weight is not None and group.version == 2:
            yield group, "cpu.weight", str(self.cpu_weight)
        elif self.cpu_weight is not None:
            yield group, "cpu.shares", str(max(2, self.cpu_weight * 1024 // 100))

    def _memory(self, group: Group) -> Iterator[Setting]:
        """Without `memory_swap` there is no swap: a hog would swap the machine to a crawl before it is killed.

        Where the kernel does not account for swap, the file is missing, and an error only if swap was asked for.
        """
        assert self.memory is not None and self.memory_swap is not None
        new = group.version == 2
        settings = [
            (group, "memory.max" if new else "memory.limit_in_bytes", str(self.memory)),
            (group, "memory.swap.max", str(self.memory_swap - self.memory))
            if new
            else (group, "memory.memsw.limit_in_bytes", str(self.memory_swap)),
        ]
        if not self.swap_asked and not group.has(settings[1][1]):
            settings.pop()
        grows = not new and int(group.read("memory.limit_in_bytes")) < self.memory
        yield from reversed(settings) if grows else settings  # version 1 keeps the first at or below the second

    def _io(self, group: Group) -> Iterator[Setting]:
        for number, rates in self.io.items():
            if group.version == 2:
                yield group, "io.max", " ".join([number, *(f"{key}={rate}" for key, rate in rates.items())])
            else:
                for key, rate in rates.items():
                    yield group, f"blkio.throttle.{IO_V1[key]}_device", f"{number} {rate}"


def device(path: str) -> str:
    """The "MAJOR:MINOR" of the disk behind a device file, or under any other file; the disk also for a partition."""
    try:
        status = os.stat(path)
    except OSError as failure:
        raise ContainerError(f"Cgroup: io: {path}: {os.strerror(failure.errno or 0).lower()}") from failure
    number = status.st_rdev or status.st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    place = os.path.realpath(f"/sys/dev/block/{name}")
    if not os.path.exists(place):
        raise ContainerError(f"Cgroup: io: {path} is not on a disk of its own (device {name}): see lsblk")
    if os.path.exists(f"{place}/partition"):
        with open(f"{os.path.dirname(place)}/dev") as file:
            return file.read().strip()
    return name

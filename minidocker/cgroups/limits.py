"""Chapter 3: what each limit and each figure is called, in both versions: two tables with a line for each.

    Limits(memory="64m", cpus=0.5)          # checked, before anything is made
    Statistics(groups).memory_bytes         # read now, in the group of each controller

Sources: the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import os
from _collections_abc import Mapping, Sequence

from minidocker.cgroups.hierarchy import Group, hierarchies, read
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any

Size = int | str

# The name, then controller, file and line in version 2, and the same in version 1
LIMITS = (
    ("cpus", ("cpu", "cpu.max", "{} 100000"), ("cpu", "cpu.cfs_quota_us", "{}")),
    ("cpu_weight", ("cpu", "cpu.weight", "{0}"), ("cpu", "cpu.shares", "{1}")),
    ("memory", ("memory", "memory.max", "{}"), ("memory", "memory.limit_in_bytes", "{}")),
    ("memory_swap", ("memory", "memory.swap.max", "{0}"), ("memory", "memory.memsw.limit_in_bytes", "{1}")),
    ("pids", ("pids", "pids.max", "{}"), ("pids", "pids.max", "{}")),
    ("rbps", ("io", "io.max", "{} rbps={}"), ("blkio", "blkio.throttle.read_bps_device", "{} {}")),
    ("wbps", ("io", "io.max", "{} wbps={}"), ("blkio", "blkio.throttle.write_bps_device", "{} {}")),
    ("riops", ("io", "io.max", "{} riops={}"), ("blkio", "blkio.throttle.read_iops_device", "{} {}")),
    ("wiops", ("io", "io.max", "{} wiops={}"), ("blkio", "blkio.throttle.write_iops_device", "{} {}")),
)
# The name, then controller, file, the word before the number (or ""), and how many make one, in version 2 and in 1
FIGURES = (
    ("cpu_seconds", ("cpu", "cpu.stat", "usage_usec", 1e6), ("cpuacct", "cpuacct.usage", "", 1e9)),
    ("throttled_periods", ("cpu", "cpu.stat", "nr_throttled", 1), ("cpu", "cpu.stat", "nr_throttled", 1)),
    ("throttled_seconds", ("cpu", "cpu.stat", "throttled_usec", 1e6), ("cpu", "cpu.stat", "throttled_time", 1e9)),
    ("memory_bytes", ("memory", "memory.current", "", 1), ("memory", "memory.usage_in_bytes", "", 1)),
    ("memory_peak_bytes", ("memory", "memory.peak", "", 1), ("memory", "memory.max_usage_in_bytes", "", 1)),
    ("oom_kills", ("memory", "memory.events", "oom_kill", 1), ("memory", "memory.oom_control", "oom_kill", 1)),
    ("pids", ("pids", "pids.current", "", 1), ("pids", "pids.current", "", 1)),
    ("pids_refused", ("pids", "pids.events", "max", 1), ("pids", "pids.events", "max", 1)),
    ("read_bytes", ("io", "io.stat", "rbytes", 1), ("blkio", "blkio.throttle.io_service_bytes", "Read", 1)),
    ("written_bytes", ("io", "io.stat", "wbytes", 1), ("blkio", "blkio.throttle.io_service_bytes", "Write", 1)),
)
NOWHERE = "/proc/self/mountinfo; without root, a group must be yours: systemd-run --user --scope minidocker run"
PERIOD = 100_000  # microseconds: half a CPU is 50 ms of every 100
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _check(what: str, right: bool, why: str) -> None:
    if not right:
        raise ContainerError(f"Cgroup: {what}: {why}")


def size(value: Size) -> int:
    """Bytes from a number or from Docker's spelling: "64m", "64MB", "64 MiB", "0.5g"."""
    text = str(value).strip().lower().removesuffix("b").removesuffix("i")
    unit = UNITS.get(text[-1:], 1)
    whole, dot, part = (text[:-1].rstrip() if unit > 1 else text).partition(".")
    spelled = text.isascii() and whole.isdecimal() and len(text) < 20 and (part.isdecimal() or not dot)
    found = int(whole) * unit + int(float(f"0.{part}0") * unit) if spelled else 0
    _check(repr(value)[:40], 0 < found < 1 << 63, "no size: write bytes, or a number with k, m or g, such as 64m")
    return found


class Limits:
    """The limits of one container, as `Cgroup` explains them; None is no limit. `settings` says what to write where."""

    def __init__(
        self,
        memory: Size | None = None,
        memory_swap: Size | None = None,
        cpus: float | None = None,
        cpu_weight: int | None = None,
        pids: int | None = None,
        io: Mapping[str, Mapping[str, Size]] | None = None,
    ) -> None:
        self.values: dict[str, list[tuple[object, ...]]] = {}  # what fills the lines of the table; of io, for each disk
        self.swap_asked, boundless = memory_swap is not None, str(memory_swap) == "-1"
        if memory is not None:  # without `memory_swap` no swap: a hog would swap the machine to a crawl
            room = size(memory)
            both = room if memory_swap is None or boundless else size(memory_swap)
            _check(f"memory={room}", room >= 6 << 20, "the minimum memory limit allowed is 6MB")  # as Docker has it
            _check(f"memory_swap={both}", both >= room, f"it includes memory={room}, and is too small")
            self.values |= {"memory": [(room,)], "memory_swap": [("max", -1) if boundless else (both - room, both)]}
        alone = bool(memory_swap) and not memory and not boundless
        _check("memory_swap", not alone, "it includes memory, so it needs memory, too")
        if cpus is not None:
            _check(f"cpus={cpus}", 0.01 <= cpus <= 10_000, "the smallest share is 0.01, 1 ms of every 100")
            self.values["cpus"] = [(round(cpus * PERIOD),)]
        if cpu_weight is not None:
            _check(f"cpu_weight={cpu_weight}", 1 <= cpu_weight <= 10_000, "not between 1 and 10000; 100 is the default")
            self.values["cpu_weight"] = [(cpu_weight, max(2, cpu_weight * 1024 // 100))]
        if pids is not None:
            _check(f"pids={pids}", pids >= 1 or pids == -1, "the command itself is one; -1 is no limit")
            self.values["pids"] = [("max" if pids == -1 else pids,)]
        known = [name for name, (controller, *_), _ in LIMITS if controller == "io"]
        for path, rates in (io or {}).items():
            _check("io", {*rates} <= {*known}, f"it takes {', '.join(known)}, not {', '.join(rates)}")
            for key, value in rates.items():
                self.values.setdefault(key, []).append((device(path), size(value)))

    def settings(self, groups: Mapping[str, Group]) -> list[tuple[str, str]]:
        """(file, text) for each limit, in an order that the kernel takes; `groups` by their controllers.

        Where the kernel does not account for swap, the file is missing, and an error only if swap was asked for.
        """
        found, places = [], ", ".join(hierarchy.path for hierarchy in hierarchies()) or NOWHERE
        for name, *cells in LIMITS:
            for values in self.values.get(name, ()):
                file, line = _cell(groups, cells) or ("", "")
                _check(f"controller {cells[0][0]}", bool(file), f"missing here, looked for it in {places}")
                if name != "memory_swap" or self.swap_asked or os.path.exists(file):
                    found.append((file, line.format(*values)))

        def grows(setting: tuple[str, str]) -> bool:
            """Version 1: memory may never be above memory and swap, so if it grows, it comes last."""
            file, text = setting
            return file.endswith("/memory.limit_in_bytes") and int(read(file)) < int(text)

        return sorted(found, key=grows)


def _cell(groups: Mapping[str, Group], cells: Sequence[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """The cell of the version that has the controller here, with the whole path of the file."""
    for version, (controller, file, *rest) in zip((2, 1), cells, strict=True):
        group = groups.get(controller)
        if group is not None and group.version == version:
            return f"{group.path}/{file}", *rest
    return None


class Statistics:
    """Used so far, by the names of `FIGURES`; None where this kernel or this machine does not say."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        """Read them now, from the group of each controller."""
        for name, *cells in FIGURES:
            cell = _cell(groups, cells)
            setattr(self, name, _figure(*cell) if cell else None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"Cgroup: no figure is called {name!r}: there are {', '.join(vars(self))}")

    def __repr__(self) -> str:
        return "\n".join(f"{key} {value}" for key, value in vars(self).items() if value is not None)


def _figure(file: str, word: str, unit: float) -> float | None:
    """What follows the word, of all disks together: "usage_usec 12", "8:0 rbytes=1 wbytes=2", "8:0 Read 4"."""
    words = ["", *read(file).replace("=", " ").split()]
    found = [int(after) for before, after in zip(words, words[1:], strict=False) if before == word and after.isdigit()]
    if not found and "/io." not in file and "/blkio." not in file:
        return None
    return sum(found) if unit == 1 else sum(found) / unit


def device(path: str) -> str:
    """The "MAJOR:MINOR" of the disk behind a device file, or under any other file; the disk also for a partition."""
    _check(f"io: {path}", os.path.exists(path), "no such file or directory")
    number = os.stat(path).st_rdev or os.stat(path).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    place = os.path.realpath(f"/sys/dev/block/{name}")
    _check(f"io: {path}", os.path.exists(place), f"not on a disk of its own (device {name}): see lsblk")
    return read(f"{place}/../dev" if os.path.exists(f"{place}/partition") else f"{place}/dev").strip()

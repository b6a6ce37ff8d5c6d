"""Chapter 11: linux.cgroupsPath and linux.resources: the container's groups, where the file wants them, and limits.

A table says what each limit is called in both versions. What this machine cannot limit is an error, never ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

from minidocker.cgroups.hierarchy import Hierarchy, hierarchies, read, remove, write
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, call

LIMITS = (  # the name in linux.resources; the file of version 1; that of version 2
    ("memory.limit", "memory.limit_in_bytes", "memory.max"),
    ("memory.reservation", "memory.soft_limit_in_bytes", "memory.low"),
    ("memory.swap", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    ("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", ""),
    ("memory.swappiness", "memory.swappiness", ""),
    ("memory.disableOOMKiller", "memory.oom_control", ""),
    ("cpu.period", "cpu.cfs_period_us", "cpu.max"),
    ("cpu.quota", "cpu.cfs_quota_us", "cpu.max"),
    ("cpu.burst", "cpu.cfs_burst_us", "cpu.max.burst"),
    ("cpu.shares", "cpu.shares", "cpu.weight"),
    ("cpu.idle", "cpu.idle", "cpu.idle"),
    ("cpu.realtimePeriod", "cpu.rt_period_us", ""),
    ("cpu.realtimeRuntime", "cpu.rt_runtime_us", ""),
    ("cpu.cpus", "cpuset.cpus", "cpuset.cpus"),
    ("cpu.mems", "cpuset.mems", "cpuset.mems"),
    ("pids.limit", "pids.max", "pids.max"),
    ("blockIO.weight", "blkio.bfq.weight", "io.bfq.weight"),
    ("blockIO.leafWeight", "blkio.leaf_weight", ""),
    ("blockIO.weightDevice", "blkio.bfq.weight_device", "io.bfq.weight"),
    ("blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", "io.max rbps="),
    ("blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "io.max wbps="),
    ("blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "io.max riops="),
    ("blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "io.max wiops="),
    ("network.classID", "net_cls.classid", ""),
    ("network.priorities", "net_prio.ifpriomap", ""),
)
ALWAYS = ["c *:* m", "b *:* m"]
ALWAYS += [f"c {number} rwm" for number in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*")]


class Groups(Isolator):
    """A group at `path` in each hierarchy, below its top. The limits are those of linux.`resources`."""

    def __init__(self, path: str, resources: dict[str, Any], made: bool = False) -> None:
        self.path, self.resources, self.made = "/" + path.strip("/"), resources, made

    def places(self) -> dict[str, SimpleNamespace]:
        """The group of each controller: its `version` and its `path`. That which freezes comes first."""
        found = dict[str, SimpleNamespace]()
        for one in hierarchies():
            group = SimpleNamespace(version=one.version, path=one.path + self.path)
            found |= {name: group for name in one.controllers or {""} if name not in found}
        return found

    def paths(self) -> list[str]:
        """All of them."""
        return [one.path + self.path for one in hierarchies()]

    def __enter__(self) -> Isolator:
        """Make them, or (`made`) join those that are there."""
        try:
            for one in () if self.made else hierarchies():
                _make(one, self.path)
            if not self.made:
                self.limit()
            paths = [path for path in self.paths() if os.path.isdir(path)]
            self.descriptors = tuple(os.open(f"{path}/cgroup.procs", os.O_WRONLY) for path in paths)
        except BaseException:
            self.__exit__()
            raise
        return self

    def inside(self) -> None:
        """ "0" means the process that writes it: cgroups(7)."""
        for descriptor in self.descriptors:
            call("write", descriptor, b"0", 1, path="cgroup.procs")

    def __exit__(self, *_: object) -> None:
        """It ended, or could not be started."""
        if not self.made:
            self.remove()

    def remove(self) -> None:
        """With all processes in them, and all groups below."""
        for path in self.paths():
            remove(path)

    def limit(self) -> None:
        """Write all limits that are asked for; also of a running container."""
        groups = self.places()
        for file, text in sorted(_settings(self.resources, groups), key=_grows):
            write(file, text)
        if "devices" in groups and not self.made:
            for file, text in _devices(self.resources.get("devices") or ()):
                write(f"{groups['devices'].path}/devices.{file}", text)


def _make(one: Hierarchy, path: str) -> None:
    """With all above it: in version 2 these pass their controllers on, and a cpuset of version 1 is empty at first."""
    here = one.path
    for name in path.strip("/").split("/"):
        parent, here = here, f"{here}/{name}"
        wanted = read(f"{parent}/cgroup.controllers").split()
        if one.version == 2 and not {*wanted} <= {*read(f"{parent}/cgroup.subtree_control").split()}:
            with contextlib.suppress(ContainerError):  # processes are in there; a limit without its file is an error
                write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
        os.makedirs(here, exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems") if "cpuset" in one.controllers and one.version == 1 else ():
            if not read(f"{here}/{file}").strip():
                write(f"{here}/{file}", read(f"{parent}/{file}"))


def _settings(resources: dict[str, Any], groups: dict[str, SimpleNamespace]) -> Iterator[tuple[str, str]]:
    """(file, text) of each limit. Nothing, 0 and "" are no limits: engines write all names."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    for name, *files in LIMITS:
        part, key = name.split(".")
        value = (resources.get(part) or {}).get(key)
        if not value and (value is None or key != "swappiness"):
            continue
        for line in value if isinstance(value, list) else [value]:
            file, text = _line(name, line, files, groups)
            if file.endswith("/memory.swap.max") and text != "max":
                text = str(max(0, line - memory.get("limit", 0)))  # the file counts both together
            if file.endswith("/cpu.max"):
                quota = cpu.get("quota") or -1
                text = f"{quota if quota > 0 else 'max'} {cpu.get('period') or 100000}"
            yield file, text
    for limit in resources.get("hugepageLimits") or ():
        files = [f"hugetlb.{limit['pageSize']}.{end}" for end in ("limit_in_bytes", "max")]
        yield _line("hugepageLimits", limit["limit"], files, groups)
    for device, most in (resources.get("rdma") or {}).items():
        text = " ".join(
            f"{key}={most[name]}"
            for key, name in (("hca_handle", "hcaHandles"), ("hca_object", "hcaObjects"))
            if name in most
        )
        yield _line("rdma", f"{device} {text}", ["rdma.max", "rdma.max"], groups)
    for file, text in (resources.get("unified") or {}).items():
        if "/" in file:
            raise ContainerError(f"linux.resources.unified: {file}: it is the name of a file, without a /")
        yield _line(f"unified {file}", text, ["", file], groups)


def _line(name: str, value: Any, files: list[str], groups: dict[str, SimpleNamespace]) -> tuple[str, str]:
    """The file of this limit here, and what to write there."""
    for version, word in enumerate(files, 1):
        file, _, key = word.partition(" ")
        group = groups.get(file.split(".")[0])
        if not file or not group or group.version != version:
            continue
        if isinstance(value, dict) and "name" in value:
            text = f"{value['name']} {value['priority']}"
        elif isinstance(value, dict):
            text = f"{value['major']}:{value['minor']} {key}{value.get('rate', value.get('weight'))}"
        elif version == 2 and name.endswith("shares"):
            text = str(1 + (max(value, 2) - 2) * 9999 // 262142)
        else:
            text = (
                "max"
                if value == -1 and (version == 2 or "pids" in file)
                else str(int(value) if value is True else value)
            )
        if not os.path.exists(f"{group.path}/{file}"):
            break
        return f"{group.path}/{file}", text
    raise ContainerError(
        f"linux.resources: {name}: this machine has no control group with {' or '.join(filter(None, files))}"
    )


def _grows(setting: tuple[str, str]) -> bool:
    """Version 1: memory may never be above memory and swap, so if it grows, it comes last."""
    file, text = setting
    return file.endswith("/memory.limit_in_bytes") and 0 < int(read(file)) < int(text) % (1 << 63)


def _devices(rules: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Version 1: (file, line) of each rule. Nothing is allowed but what the rules say, and what each container has."""
    yield "deny", "a"
    for rule in rules:
        kind, numbers = rule.get("type") or "a", [rule.get(key, -1) for key in ("major", "minor")]
        major, minor = ("*" if number in (None, -1) else number for number in numbers)
        file, access = "allow" if rule["allow"] else "deny", rule.get("access") or "rwm"
        yield file, "a" if kind == "a" else f"{kind} {major}:{minor} {access}"
    yield from (("allow", line) for line in ALWAYS)

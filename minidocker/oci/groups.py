"""Chapter 11: linux.cgroupsPath and linux.resources: the container's groups, where the file wants them, and limits.

A table says what each limit is called in both versions. What this machine cannot limit is an error, never ignored.
"""

from __future__ import annotations

import os
from _collections_abc import Iterable, Iterator
from types import SimpleNamespace

from minidocker.cgroups.hierarchy import Hierarchy, hierarchies, read, remove, write
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, call

LIMITS = (  # the name in linux.resources; the file of version 1; that of version 2
    ("memory.limit", "memory.limit_in_bytes", "memory.max"),
    ("memory.reservation", "memory.soft_limit_in_bytes", "memory.low"),
    ("memory.kernel", "", ""),  # kernels have it no more
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
ALWAYS = ["c *:* m", "b *:* m"]  # each container may make nodes, and open these
ALWAYS += [f"c {number} rwm" for number in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*")]

Groups_ = dict[str, SimpleNamespace]  # controller -> its group here: `version` and `path`


def check_free(path: str) -> None:
    """At the end of a container all processes in its groups are killed: so there must be none of others."""
    for one in hierarchies():
        for place, _, _ in os.walk(one.path + path):
            if read(f"{place}/cgroup.procs"):
                raise ContainerError(f"config.json: linux.cgroupsPath: {path}: others are in there: choose another")


class Groups(Isolator):
    """A group at `path` in each hierarchy, with limits; or those of a container whose first process is `made`."""

    def __init__(self, path: str, resources: dict[str, Any], made: int = 0) -> None:
        self.path, self.resources, self.made = path, resources, made

    def places(self) -> Groups_:
        """The group of each controller."""
        found = Groups_()
        for one in reversed(hierarchies()):  # the first one that has a controller is in use
            if os.path.isdir(one.path + self.path):
                found |= dict.fromkeys(one.controllers, SimpleNamespace(version=one.version, path=one.path + self.path))
        return found

    def __enter__(self) -> Isolator:
        """Make them, write the limits, and open where to join: inside there are other paths."""
        ours = [one for one in hierarchies() if os.access(one.path, os.W_OK)]  # without root, perhaps none
        try:
            if not self.made:
                for one in ours:
                    _make(one, self.path)
                self.limit()
            paths = [f"{self._joined(one)}/cgroup.procs" for one in ours]
            self.descriptors = tuple(os.open(path, os.O_WRONLY) for path in paths)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _joined(self, one: Hierarchy) -> str:
        """Version 2: an inner group may hold no process. Who divided theirs, as systemd does, is below it."""
        own = f"\n{read(f'/proc/{self.made}/cgroup')}".partition("\n0::")[2].partition("\n")[0]
        return one.path + (own if one.version == 2 and own.startswith(f"{self.path}/") else self.path)

    def inside(self) -> None:
        """ "0" means the process that writes it: cgroups(7)."""
        for descriptor in self.descriptors:
            call("write", descriptor, b"0", 1, path="cgroup.procs")

    def __exit__(self, *_: object) -> None:
        """With all processes in them, and all groups below."""
        for one in () if self.made else hierarchies():
            remove(one.path + self.path)

    def limit(self) -> None:
        """Write all limits that are asked for; also of a running container."""
        groups = self.places()
        for file, text in sorted(_settings(self.resources, groups), key=_grows):
            write(file, text)
        if "devices" in groups and not self.made:
            for file, text in _devices(self.resources.get("devices") or ()):
                write(f"{groups['devices'].path}/devices.{file}", text)


def _make(one: Hierarchy, path: str) -> None:
    """With all above it: in version 2 these pass their controllers on, but not beside version 1, where crun would then
    refuse to work; and a cpuset of version 1 is empty at first."""
    here, alone = one.path, len(hierarchies()) == 1
    for name in path.strip("/").split("/"):
        parent, here = here, f"{here}/{name}"
        there = read(f"{parent}/cgroup.controllers").split() if alone else []
        missing = {*there} - {*read(f"{parent}/cgroup.subtree_control").split()}
        try:
            write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in missing)) if missing else None
        except ContainerError:
            pass  # processes are in there; a limit without its file is an error
        os.makedirs(here, exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems") if "cpuset" in one.controllers and one.version == 1 else ():
            if not read(f"{here}/{file}").strip():
                write(f"{here}/{file}", read(f"{parent}/{file}"))


def _settings(resources: dict[str, Any], groups: Groups_) -> Iterator[tuple[str, str]]:
    """(file, text) of each limit. Nothing, 0 and "" are no limits: engines write all names."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    for name, *files in LIMITS:
        part, key = name.split(".")
        value = (resources.get(part) or {}).get(key)
        if value or (value is not None and key == "swappiness"):
            for line in value if isinstance(value, list) else [value]:
                file, text = _line(name, line, files, groups)
                if file.endswith("/memory.swap.max") and text != "max":
                    text = str(max(0, line - memory.get("limit", 0)))  # asked for are both together
                if file.endswith("/cpu.max"):
                    text = f"{cpu['quota'] if cpu.get('quota', -1) > 0 else 'max'} {cpu.get('period') or 100000}"
                yield file, text
    for limit in resources.get("hugepageLimits") or ():
        files = [f"hugetlb.{limit['pageSize']}.{end}" for end in ("limit_in_bytes", "max")]
        yield _line("hugepageLimits", limit["limit"], files, groups)
    for device, most in (resources.get("rdma") or {}).items():
        text = " ".join(f"hca_{name[3:-1].lower()}={number}" for name, number in most.items())  # hcaHandles
        yield _line("rdma", f"{device} {text}", ["rdma.max", "rdma.max"], groups)
    for file, text in (resources.get("unified") or {}).items():
        yield _line(f"unified {file}", text, ["", os.path.basename(file)], groups)


def _line(name: str, value: Any, files: list[str], groups: Groups_) -> tuple[str, str]:
    """The file of this limit here, and what to write there."""
    for version, word in enumerate(files, 1):
        file, _, key = word.partition(" ")
        group = groups.get(file.partition(".")[0])
        if group and group.version == version and os.path.exists(f"{group.path}/{file}"):
            return f"{group.path}/{file}", _text(name, value, key, version)
    wanted = " or ".join(filter(None, files)) or "it"
    raise ContainerError(f"linux.resources: {name}: this machine has no control group with {wanted}")


def _text(name: str, value: Any, key: str, version: int) -> str:
    if isinstance(value, dict) and "name" in value:
        return f"{value['name']} {value['priority']}"
    if isinstance(value, dict):
        return f"{value['major']}:{value['minor']} {key}{value.get('rate', value.get('weight'))}"
    if name == "cpu.shares" and version == 2:
        return str(1 + (max(value, 2) - 2) * 9999 // 262142)
    if value == -1 and (version == 2 or name == "pids.limit"):
        return "max"
    return str(int(value) if value is True else value)


def _grows(setting: tuple[str, str]) -> bool:
    """Version 1: memory may never be above memory and swap, so if it grows, it comes last."""
    file, text = setting
    return file.endswith("/memory.limit_in_bytes") and int(read(file)) < int(text) % (1 << 63)


def _devices(rules: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Version 1: (file, line) of each rule. Nothing is allowed but what the rules say, and what each container has."""
    yield "deny", "a"
    for rule in rules:
        kind, file = rule.get("type") or "a", "allow" if rule["allow"] else "deny"
        major, minor = ("*" if rule.get(key, -1) in (None, -1) else rule[key] for key in ("major", "minor"))
        yield file, "a" if kind == "a" else f"{kind} {major}:{minor} {rule.get('access') or 'rwm'}"
    yield from (("allow", line) for line in ALWAYS)

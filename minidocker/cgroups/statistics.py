"""Chapter 3: what a group has used, in one form from the files of both versions."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidocker.cgroups.hierarchy import Group


class Statistics:
    """Used so far. Seconds, bytes, and counts; None where this kernel or this machine does not say."""

    def __init__(self, groups: dict[str, Group]) -> None:
        """Read them now, from the group of each controller."""
        self.cpu_seconds: float | None = None
        self.throttled_periods: int | None = None  # in how many periods the CPU quota was used up
        self.throttled_seconds: float | None = None
        self.memory_bytes: int | None = None
        self.memory_peak_bytes: int | None = None
        self.oom_kills: int | None = None  # processes that the kernel killed since the memory limit was reached
        self.pids: int | None = None
        self.pids_refused: int | None = None  # forks that failed at the limit
        self.read_bytes: int | None = None
        self.written_bytes: int | None = None
        for controller, group in groups.items():
            reader = _READERS.get((group.version, controller))
            if reader:
                reader(self, group)

    def __repr__(self) -> str:
        return "\n".join(f"{key} {value}" for key, value in vars(self).items() if value is not None)


def _number(group: Group, file: str) -> int | None:
    """The number in a file that holds only that."""
    text = group.read(file).strip()
    return int(text) if text.isdigit() else None


def _table(group: Group, file: str) -> dict[str, int]:
    """A file with lines "key number"."""
    pairs = (line.split() for line in group.read(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _seconds(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _cpu_v2(statistics: Statistics, group: Group) -> None:
    table = _table(group, "cpu.stat")  # microseconds
    statistics.cpu_seconds = _seconds(table.get("usage_usec"), 1e6)
    statistics.throttled_periods = table.get("nr_throttled")
    statistics.throttled_seconds = _seconds(table.get("throttled_usec"), 1e6)


def _cpu_v1(statistics: Statistics, group: Group) -> None:
    table = _table(group, "cpu.stat")  # nanoseconds
    statistics.throttled_periods = table.get("nr_throttled")
    statistics.throttled_seconds = _seconds(table.get("throttled_time"), 1e9)


def _cpuacct_v1(statistics: Statistics, group: Group) -> None:
    statistics.cpu_seconds = _seconds(_number(group, "cpuacct.usage"), 1e9)


def _memory_v2(statistics: Statistics, group: Group) -> None:
    statistics.memory_bytes = _number(group, "memory.current")
    statistics.memory_peak_bytes = _number(group, "memory.peak")  # Linux 5.19
    statistics.oom_kills = _table(group, "memory.events").get("oom_kill")


def _memory_v1(statistics: Statistics, group: Group) -> None:
    statistics.memory_bytes = _number(group, "memory.usage_in_bytes")
    statistics.memory_peak_bytes = _number(group, "memory.max_usage_in_bytes")
    statistics.oom_kills = _table(group, "memory.oom_control").get("oom_kill")


def _pids(statistics: Statistics, group: Group) -> None:
    statistics.pids = _number(group, "pids.current")
    statistics.pids_refused = _table(group, "pids.events").get("max")


def _io_v2(statistics: Statistics, group: Group) -> None:
    """Lines "8:0 rbytes=1 wbytes=2 rios=3 ..."."""
    pairs = [word.split("=") for word in group.read("io.stat").split() if "=" in word]
    statistics.read_bytes = sum(int(value) for key, value in pairs if key == "rbytes")
    statistics.written_bytes = sum(int(value) for key, value in pairs if key == "wbytes")


def _io_v1(statistics: Statistics, group: Group) -> None:
    """Lines "8:0 Read 4096"."""
    lines = [line.split() for line in group.read("blkio.throttle.io_service_bytes").splitlines()]
    rows = [(words[1], int(words[2])) for words in lines if len(words) == 3]
    statistics.read_bytes = sum(number for key, number in rows if key == "Read")
    statistics.written_bytes = sum(number for key, number in rows if key == "Write")


_READERS = {
    (2, "cpu"): _cpu_v2,
    (1, "cpu"): _cpu_v1,
    (1, "cpuacct"): _cpuacct_v1,
    (2, "memory"): _memory_v2,
    (1, "memory"): _memory_v1,
    (2, "pids"): _pids,
    (1, "pids"): _pids,
    (2, "io"): _io_v2,
    (1, "blkio"): _io_v1,
}

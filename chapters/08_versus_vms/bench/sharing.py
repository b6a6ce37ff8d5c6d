"""Chapter 8: what is a hard half of a host worth, and what a share of it? Two tenants, and one small host for both.

    together("halves")        # a quota of half of the host for each, as two virtual machines have it
    together("shares")        # a weight for each: half of the host if both want it, all of it if one does

Each tenant is busy in bursts, as servers are. What counts is the work that both get done in the same time. The host is
a fence around both fences: groups nest, and a tenth of a CPU is there for it even where others use the machine.
"""

import os
import sys
import time
from typing import Any, Self

from minidocker.cgroups import Cgroup, Hierarchy, Limits, Statistics
from minidocker.cgroups.hierarchy import Group, write
from minidocker.process import Isolator, start
from minidocker.syscalls import call

HOST = 0.1  # CPUs
TENANTS: dict[str, dict[str, Any]] = {"halves": {"cpus": HOST / 2}, "shares": {"cpu_weight": 100}}
SLOT = 0.4  # seconds of a burst: some times the 100 ms in which the kernel counts a quota

# Told when, it is busy in every second slot, the even ones or the odd ones. It prints how many rounds of work it did.
LOAD = """
import sys, time
print("ready", flush=True)
begin, end, slot, turn = map(float, sys.stdin.readline().split())
done = 0
while (now := time.monotonic()) < end:
    number, rest = divmod(now - begin, slot)
    if now < begin or number % 2 != turn:
        time.sleep(begin - now if now < begin else slot - rest)
    else:
        sum(range(1000))
        done += 1
print(done)
"""


class Tenant(Isolator):
    """A group below the group of a running `host`, with limits of its own for the CPU, within those of the host."""

    def __init__(self, host: Cgroup, **limits: Any) -> None:
        self.above, self.limits = host.groups["cpu"], Limits(**limits)
        self.held_back: int | None = None  # in how many periods its own quota stopped it, once it has ended

    def __enter__(self) -> Self:
        """Make the group: below another one it is made like any. Host side, root."""
        self.group = Group(Hierarchy(self.above.version, self.above.path, {"cpu"}), self.container)
        try:
            for file, text in self.limits.settings({"cpu": self.group}):
                write(file, text)
        except BaseException:
            self.group.remove()
            raise
        if self.group.version == 2:
            self.cgroup = self.group.lock
        else:
            self.descriptors = (os.open(f"{self.group.path}/tasks", os.O_WRONLY | os.O_CLOEXEC),)
        return self

    def inside(self) -> None:
        """Join it, as in chapter 3; in a group of version 2 the process is born."""
        for descriptor in self.descriptors:
            call("write", descriptor, b"0", 1, path="tasks")

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.cgroup, self.descriptors = None, ()
        self.held_back = Statistics({"cpu": self.group}).throttled_periods
        self.group.remove()


class Pinned(Isolator):
    """Run on one CPU only, sched_setaffinity(2), as its children do: what the controller cpuset does for a group."""

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu

    def inside(self) -> None:
        """In the new process, which may choose among the CPUs that the host side has."""
        os.sched_setaffinity(0, {self.cpu})


def together(kind: str, seconds: float = 1.6, apart: bool = True) -> list[tuple[int, int]]:
    """Run two tenants of a `kind` of `TENANTS` for so long on a host; their bursts are `apart`, or at the same time.

    Returns for each the rounds of work that it got done, and in how many periods of 100 ms its own fence held it back.
    Needs root.
    """
    host, pinned = Cgroup(cpus=HOST), Pinned(max(os.sched_getaffinity(0)))
    host.container = f"host-{os.urandom(6).hex()}"
    argv, (one, first_line), (two, second_line) = [sys.executable, "-I", "-S", "-c", LOAD], os.pipe(), os.pipe()
    try:
        with host:
            tenants = [Tenant(host, **TENANTS[kind]) for _ in range(2)]
            with (
                start(argv, tenants[0], pinned, stdin=one) as first,
                start(argv, tenants[1], pinned, stdin=two) as second,
            ):
                for process in (first, second):
                    next(process.lines())  # Python has started, which takes a while with so little of a CPU
                begin = time.monotonic()
                for line, turn in ((first_line, 0), (second_line, int(apart))):
                    os.write(line, b"%f %f %f %d\n" % (begin, begin + seconds, SLOT, turn))
                done = [process.wait() for process in (first, second)]
    finally:
        for descriptor in (one, first_line, two, second_line):
            os.close(descriptor)
    assert not any(result.exit_code for result in done), done
    work = [int(result.stdout.split()[-1]) for result in done]
    return [(rounds, tenant.held_back or 0) for rounds, tenant in zip(work, tenants, strict=True)]

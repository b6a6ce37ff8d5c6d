"""Chapter 8: what is a hard half of a host worth, and what a share of it? Two tenants, and one small host for both.

    together("halves")        # a quota of half of the host for each, as two virtual machines have it
    together("shares")        # a weight for each: half of the host if both want it, all of it if one does

Each tenant is busy in bursts, as servers are. What counts is the work that both get done in the same time. The host is
a fence around both fences: groups nest, and a tenth of a CPU is there for it even where others use the machine.
"""

import os
import sys
import time
from typing import Any

from minidocker.cgroups import Cgroup, Hierarchy
from minidocker.process import Isolator, start

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


class Tenant(Cgroup):
    """A fence within the fence of a running `host`: its groups are made below the host's like any others."""

    def __init__(self, host: Cgroup, **limits: Any) -> None:
        super().__init__(**limits)
        self.above = host.groups["cpu"]

    def hierarchies(self) -> list[Hierarchy]:
        """Where its groups are made: for the CPU only."""
        return [Hierarchy(self.above.version, self.above.path, {"cpu"})]


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
    held = [tenant.statistics().throttled_periods or 0 for tenant in tenants]
    return list(zip(work, held, strict=True))

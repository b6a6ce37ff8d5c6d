"""Chapter 8: what is a hard half of a machine worth, and what a share of it? Two loads, and one CPU for both of them.

    together("halves")        # Cgroup(cpus=0.5) each, as two virtual machines have it
    together("shares")        # Cgroup(cpu_weight=...) each: half of it if both want it, all of it if one does

Each load is busy in bursts, as servers are. What counts is the work that both get done in the same time.
"""

from __future__ import annotations

import os
import sys
import time

from minidocker.cgroups import Cgroup
from minidocker.process import Isolator, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SLOT = 0.4  # seconds of a burst: some times the 100 ms in which the kernel counts a quota
# Weights count against every group of the machine, so both are heavy: others are not to spoil the measurement.
FENCES: dict[str, dict[str, Any]] = {"halves": {"cpus": 0.5}, "shares": {"cpu_weight": 10_000}}

# Busy in every second slot: the even ones, or the odd ones. It prints how many rounds of work it got done.
LOAD = """
import sys, time
begin, end, slot, turn = map(float, sys.argv[1:])
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


class Pinned(Isolator):
    """Run on one CPU only, sched_setaffinity(2), as its children do: what the controller cpuset does for a group."""

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu

    def inside(self) -> None:
        """In the new process, which may choose among the CPUs that the host side has."""
        os.sched_setaffinity(0, {self.cpu})


def together(fence: str, seconds: float = 1.6, apart: bool = True) -> list[tuple[int, int]]:
    """Run both loads for so long on one CPU, behind fences of a kind.

    Returns for each the rounds of work that it got done, and in how many periods of 100 ms its fence held it back.
    Their bursts are `apart`, or at the same time. Needs root.
    """
    cpu = max(os.sched_getaffinity(0))
    begin = time.monotonic() + 0.2  # both have started Python by then
    argv = [sys.executable, "-I", "-S", "-c", LOAD, str(begin), str(begin + seconds), str(SLOT)]
    fences = [Cgroup(**FENCES[fence]) for _ in range(2)]
    with (
        start([*argv, "0"], fences[0], Pinned(cpu)) as first,
        start([*argv, "1" if apart else "0"], fences[1], Pinned(cpu)) as second,
    ):
        done = [process.wait() for process in (first, second)]
    assert not any(result.exit_code for result in done), done
    held = [fence.statistics().throttled_periods or 0 for fence in fences]
    return [(int(result.stdout), periods) for result, periods in zip(done, held, strict=True)]

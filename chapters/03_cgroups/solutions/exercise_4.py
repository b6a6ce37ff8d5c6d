"""Exercise 4, destructive: a fork bomb. Only with a limit!"""

import time

from minidocker.cgroups import Cgroup
from minidocker.process import start


def bomb(number):
    """One signal to a process would miss its children; the group has them all."""
    fence, most, refused = Cgroup(pids=number), 0, 0
    with start(["sh", "-c", "b() { b | b & }; b; sleep 60"], fence):
        deadline = time.monotonic() + 5
        while not (most == number and refused) and time.monotonic() < deadline:
            figures = fence.statistics()
            most, refused = max(most, figures.pids), figures.pids_refused
            time.sleep(0.01)
        fence.kill()
        deadline = time.monotonic() + 5
        while fence.processes() and time.monotonic() < deadline:
            time.sleep(0.01)  # they have the signal, and die when each gets a CPU next
        return most, refused, len(fence.processes())

"""Exercise 3: a pause without a trace."""

import time

from minidocker.cgroups import Cgroup
from minidocker.process import start

CLOCK = "for i in 1 2 3 4 5 6 7 8 9 10; do date +%s.%N; sleep 0.1; done"


def pause(seconds):
    """It can see the time, and only from that conclude that there was a pause."""
    fence = Cgroup()
    with start(["sh", "-c", CLOCK], fence) as clock:
        time.sleep(0.35)
        fence.freeze()
        time.sleep(seconds)
        fence.thaw()
        times = [float(line) for line in clock.wait().stdout.split()]
    steps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return max(steps), len(steps) - steps.index(max(steps))

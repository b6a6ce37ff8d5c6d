"""Exercise 2: weights."""

import os
import time

from minidocker.cgroups import Cgroup
from minidocker.process import start

# taskset puts both on one CPU: with one for each, nobody would have to share
SPIN = ["taskset", "-c", str(min(os.sched_getaffinity(0))), "sh", "-c", "while :; do :; done"]


def spent(*fences):
    """The CPU time that each uses in two seconds."""
    before = [fence.statistics().cpu_seconds for fence in fences]
    time.sleep(2)
    return [fence.statistics().cpu_seconds - start for fence, start in zip(fences, before, strict=True)]


def weights(weight):
    """A weight only counts while somebody else wants the CPU."""
    heavy, light = Cgroup(cpu_weight=weight), Cgroup(cpu_weight=100)
    with start(SPIN, light):
        with start(SPIN, heavy):
            together = spent(heavy, light)
        (alone,) = spent(light)
    return together[0] / together[1], alone / together[1]

"""Exercise 2: weights."""

import os
import time

from minidocker.cgroups import Cgroup
from minidocker.process import start

SPIN = ["taskset", "-c", str(min(os.sched_getaffinity(0))), "sh", "-c", "while :; do :; done"]


def weights():
    """Taskset puts both on one CPU: with one for each, nobody would have to share."""
    heavy, light = Cgroup(cpu_weight=300), Cgroup(cpu_weight=100)
    with start(SPIN, light):
        with start(SPIN, heavy):
            time.sleep(2)
            ratio = heavy.statistics().cpu_seconds / light.statistics().cpu_seconds
        before, began = light.statistics().cpu_seconds, time.monotonic()
        time.sleep(1)
        return ratio, (light.statistics().cpu_seconds - before) / (time.monotonic() - began)

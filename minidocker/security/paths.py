"""Chapter 9, and each container of an image from chapter 5 on: files of /proc and /sys that are the machine's.

    run(argv, ..., Filesystems(root), Masked(root), PivotRoot(root, proc=False))

No namespace divides them. Some of them change the machine: they become read-only. Some tell about it: they are covered.
"""

from __future__ import annotations

import os

from minidocker.isolator import Isolator
from minidocker.rootfs import NO_SURPRISES
from minidocker.syscalls import CLONE_NEWNS, MS_BIND, MS_RDONLY, MS_REMOUNT, mount

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")  # the machine's; as in Docker
MASKED = (  # they tell about the machine, or about other containers; as in Docker
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi",
    "/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip


class Masked(Isolator):
    """Those paths below `root`, after `Filesystems` has mounted /proc, /dev and /sys there."""

    clone_flags = CLONE_NEWNS

    def __init__(self, root: str) -> None:
        self.root = root

    def inside(self) -> None:
        """Needs CAP_SYS_ADMIN over the mounts."""
        for path in filter(os.path.exists, [self.root + path for path in READ_ONLY]):
            mount(path, path, flags=MS_BIND)
            mount(None, path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | NO_SURPRISES)  # not a flag of the first call
        for path in filter(os.path.exists, [self.root + path for path in MASKED]):
            if os.path.isdir(path):
                mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=4k")
            else:
                mount(f"{self.root}/dev/null", path, flags=MS_BIND)

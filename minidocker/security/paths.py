"""Chapter 9, and each container of an image from chapter 5 on: files of /proc and /sys that are the machine's.

    run(argv, ..., Filesystems(root), Masked(root), PivotRoot(root, proc=False))

No namespace divides them. Some of them change the machine: they become read-only. Some tell about it: they are covered.
"""

from __future__ import annotations

import _ctypes
import errno
import os
import stat

from minidocker.isolator import Isolator
from minidocker.syscalls import CLONE_NEWNS, MS_BIND, MS_RDONLY, Long, call, mount, mount_setattr, openat2
from minidocker.trees import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")  # and the next: as in Docker
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi",
    "/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
    *(f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(os.sysconf("SC_NPROCESSORS_CONF"))),
)  # fmt: skip
PROC = 0x9FA0  # <linux/magic.h>
PATH = os.O_PATH | os.O_CLOEXEC


class Masked(Isolator):
    """Those below `root`, after `Filesystems` has mounted /proc, /dev and /sys there, and before there are volumes.

    A path is looked up once, and what was opened is judged. Else who puts a link in the way, through an image or a
    volume, would have us cover or show a file of his choice (CVE-2025-31133, CVE-2025-52881).
    """

    clone_flags = CLONE_NEWNS

    def __init__(self, root: str) -> None:
        self.root = root

    def inside(self) -> None:
        """Needs CAP_SYS_ADMIN over the mounts. What this kernel does not have is left out."""
        root = os.open(self.root, PATH)
        null, proc, sys = (openat2(root, path, PATH, RESOLVE_NO_SYMLINKS) for path in ("dev/null", "proc", "sys"))
        status = os.fstat(null)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
            raise OSError(errno.ENODEV, "it is not the device 1:3, and files cannot be covered with it", "/dev/null")
        check_proc(proc)
        for path in (*READ_ONLY, *MASKED):
            top, below = (proc, path[6:]) if path.startswith("/proc/") else (sys, path[5:])
            try:
                place = openat2(top, below, PATH, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)
            except FileNotFoundError:
                continue
            name = f"/proc/self/fd/{place}"
            if path in READ_ONLY:
                mount(name, name, flags=MS_BIND)
                mount_setattr(top, below, 0, MS_RDONLY)
            elif os.path.isdir(name):
                mount("tmpfs", name, "tmpfs", MS_RDONLY, "size=4k")
            else:
                mount(f"/proc/self/fd/{null}", name, flags=MS_BIND)
            os.close(place)
        for descriptor in (root, null, proc, sys):
            os.close(descriptor)


class _Statfs(_ctypes.Array):  # type: ignore[type-arg]
    """struct statfs, as an array of long."""

    _type_, _length_ = Long, 32


def check_proc(descriptor: int) -> None:
    """fstatfs(2): the type of the file system comes first in its answer."""
    answer = _Statfs()
    call("fstatfs", descriptor, answer)
    if answer[0] != PROC:
        raise OSError(errno.EINVAL, "it is not of the kernel's own file system", "/proc")

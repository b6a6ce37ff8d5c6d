"""Chapter 9, and each container of an image from chapter 5 on: the rights of root that no namespace divides.

    kept = capabilities(add=["NET_ADMIN"], drop=["MKNOD"])
    run(argv, ..., PivotRoot(root), Bounding(kept), User("www-data"), Capabilities(kept))

There is one clock, one kernel log and one list of modules for the whole machine, so root in a container must not have
the rights to them: capabilities(7). What is kept by default is what Docker keeps. Both are for the end of the list:
the bounding set while there is still the right to change it, the process's own sets after the change of user.
"""

from __future__ import annotations

import os
import sys
from _collections_abc import Iterable, Sequence

from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import call, prctl

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""In the order of <linux/capability.h>: the first is number 0."""
DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW",
    "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
)  # fmt: skip
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # <linux/prctl.h>
VERSION_3 = 0x20080522  # <linux/capability.h>: sets of 64 bits
SLOTS = range(64)


def capabilities(add: Sequence[str] = (), drop: Sequence[str] = (), privileged: bool = False) -> frozenset[int]:
    """The numbers that stay: Docker's default without `drop`, then with `add`. ALL dropped leaves what is added, ALL
    added leaves out what is dropped. Raises `ContainerError` for a name that is none.
    """
    added, dropped = _numbers("--cap-add", add), _numbers("--cap-drop", drop)
    if privileged or "ALL" in map(str.upper, add):
        return frozenset(SLOTS) - (frozenset() if privileged else dropped)
    if "ALL" in map(str.upper, drop):
        return added
    return _numbers("", DEFAULT) - dropped | added


def _numbers(option: str, names: Sequence[str]) -> frozenset[int]:
    """Names are taken with and without CAP_, in small and in capital letters; ALL is no number."""
    short = {name.upper().removeprefix("CAP_"): name for name in names if name.upper() != "ALL"}
    for name in short.keys() - {*NAMES}:
        raise ContainerError(f"{option} {short[name]}: unknown capability: see capabilities(7)", exit_code=125)
    return frozenset(map(NAMES.index, short))


class Bounding(Isolator):
    """Drop all others from the bounding set: what no program inside can get back, not even one that is set-user-ID."""

    def __init__(self, kept: Iterable[int]) -> None:
        self.kept = frozenset(kept)

    def inside(self) -> None:
        """Needs CAP_SETPCAP. A younger kernel may have capabilities without a name here: those go as well."""
        for number in SLOTS:
            try:
                if number not in self.kept:
                    prctl(PR_CAPBSET_DROP, number)
            except OSError as refused:
                if isinstance(refused, PermissionError):
                    raise
                break  # EINVAL: this kernel has no more


class Capabilities(Isolator):
    """The process's own sets, of what is in the bounding set: root has all of it, any other user nothing.

    execve(2) would give root the same. But a first process of ours that stays (`Init`) executes nothing.
    """

    def __init__(self, kept: Iterable[int]) -> None:
        self.kept = frozenset(kept)

    def inside(self) -> None:
        """Nothing is inheritable, and so nothing ambient (CVE-2022-24769): only a file's own set can add anything."""
        have = (number for number in range(len(NAMES)) if number in self.kept and prctl(PR_CAPBSET_READ, number))
        mask = sum(1 << number for number in have) if os.geteuid() == 0 else 0
        low, high = (half.to_bytes(4, sys.byteorder) for half in (mask & 0xFFFFFFFF, mask >> 32))
        header = VERSION_3.to_bytes(4, sys.byteorder) + bytes(4)
        call("capset", header, low + low + bytes(4) + high + high + bytes(4))

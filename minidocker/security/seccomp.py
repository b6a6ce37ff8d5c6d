"""Chapter 9, and each container of an image from chapter 5 on: which system calls there are, and with what arguments.

    run(argv, ..., PivotRoot(root), Seccomp(kept), Bounding(kept))

The kernel has almost 400, and many a way out of a container began with one that few programs need. Docker's published
list of the others is seccomp.json. For the end of the list of isolators, while there is the right to load it.
"""

from __future__ import annotations

import _ctypes
import os

from minidocker import state
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.syscalls import call, structure

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2  # <linux/prctl.h>, <linux/seccomp.h>
HERE = os.path.dirname(__file__)


class _Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]
    """The char * of C. What it consists of is the address."""

    _type_ = "z"


class Seccomp(Isolator):
    """Filter by `profile`, a file in Docker's format: "" is Docker's default, "unconfined" no filter.

    `kept` are the container's capabilities, of which rules speak.
    """

    def __init__(self, kept: frozenset[int], profile: str = "") -> None:
        self.kept, self.profile, self.program, self.warnings = kept, profile, b"", list[str]()

    def __enter__(self) -> Isolator:
        """Compile it, or take what was compiled of the same files, for this kernel and these capabilities."""
        path, kernel = self.profile or f"{HERE}/seccomp.json", os.uname()
        if path != "unconfined":
            files = [os.stat(name) for name in (path, f"{HERE}/bpf.py", f"{HERE}/numbers.json")]
            stamp = kernel.release, kernel.machine, *((file.st_dev, file.st_ino, file.st_mtime_ns) for file in files)
            place = f"{state.home()}/ready/seccomp={sum(1 << number for number in self.kept):x}"
            self.program = state.remembered(place, stamp, lambda: _compiled(path, self.kept, kernel))
            self.warnings = [] if self.program else ["this kernel has no filter of system calls, or not for us"]
        if self.warnings and self.profile:
            raise ContainerError(f"seccomp={path}: {self.warnings[0]}")
        return self

    def inside(self) -> None:
        """Needs CAP_SYS_ADMIN, or no_new_privs: who has neither could make a set-user-ID program's calls fail."""
        if self.program:
            sock_fprog = structure(len(self.program) // 8) + bytes(_Pointer(self.program))
            call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, sock_fprog, 0, 0)


def _compiled(path: str, kept: frozenset[int], kernel: os.uname_result) -> bytes:
    from minidocker.security import bpf  # once for each kernel

    return bpf.compiled(path, kept, kernel)

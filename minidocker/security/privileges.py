"""Chapter 9: what one may deny a container: more rights by executing a file, and more than so much of a resource.

profile, walls = privileges(["no-new-privileges"], ["nofile=1024:4096"])
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.security.options import ReadOnly
from minidocker.syscalls import call, prctl, structure

PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>
RESOURCES = (  # in the order of <asm-generic/resource.h>: the first is number 0
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip
LIMIT = rf"({'|'.join(RESOURCES)})=(-1|\d{{1,19}})(?::(-1|\d{{1,19}}))?"
NOTHING_TO_DO = ("no-new-privileges=false", "apparmor=unconfined", "label=disable")


class NoNewPrivileges(Isolator):
    """From here on execve(2) gives no rights: set-user-ID and capabilities of files are without effect."""

    def inside(self) -> None:
        """Nobody can take it back, prctl(2)."""
        prctl(PR_SET_NO_NEW_PRIVS, 1)


class Rlimits(Isolator):
    """Limits of each process, getrlimit(2): {"nofile": (soft, hard)}; -1 is no limit."""

    def __init__(self, limits: Mapping[str, tuple[int, int]]) -> None:
        self.limits = limits

    def inside(self) -> None:
        """A hard limit above the caller's needs CAP_SYS_RESOURCE."""
        for name, pair in self.limits.items():
            call("prlimit64", 0, RESOURCES.index(name), structure(*(limit % 2**64 for limit in pair)), None, path=name)


def privileges(security_opt: Sequence[str], ulimit: Sequence[str], read_only: str = "") -> dict[str, Any]:
    """Docker's flags --security-opt, --ulimit and, with the working directory, --read-only: options of `container`."""
    found: dict[str, Any] = {"walls": [ReadOnly(read_only)] if read_only else []}
    for word in security_opt:
        if word in ("no-new-privileges", "no-new-privileges=true"):
            found["walls"].append(NoNewPrivileges())
        elif word.startswith("seccomp=") and word != "seccomp=":
            found["seccomp"] = word.removeprefix("seccomp=")
        elif word == "systempaths=unconfined":
            found["covered"] = False
        elif word not in NOTHING_TO_DO:
            raise ContainerError(
                f"--security-opt {word}: it is no-new-privileges, seccomp=FILE or systempaths=unconfined"
            )
    limits = {}
    for word in ulimit:
        limit = re.fullmatch(LIMIT, word, re.ASCII)
        soft, hard = (int(limit[2]), int(limit[3] or limit[2])) if limit else (1, 0)
        if not limit or soft % 2**64 > hard % 2**64:
            raise ContainerError(f"--ulimit {word}: NAME=SOFT[:HARD], e.g. nofile=1024; {', '.join(RESOURCES)}")
        limits[limit[1]] = soft, hard
    found["walls"].append(Rlimits(limits))
    return found

"""Chapter 11: the rights of the process, as the OCI runtime specification has them.

process.user, .capabilities, .noNewPrivileges, .cwd, .apparmorProfile; linux.seccomp, .personality.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence

from minidocker import state
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError, warn
from minidocker.security import bpf
from minidocker.security.capabilities import NAMES, PR_CAPBSET_READ, VERSION_3, Bounding
from minidocker.security.options import NoNewPrivileges
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import AT_FDCWD, Any, call, openat2, prctl

Json = dict[str, Any]
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, RAISE, CLEAR = 8, 47, 2, 4  # <linux/prctl.h>
SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")


def check_(right: bool, what: str, why: str) -> None:
    """One line that names what is wrong in config.json."""
    if not right:
        raise ContainerError(f"config.json: {what}: {why}")


class Rights(Isolator):
    """Who the process is, and what it may: process.user, .capabilities, .noNewPrivileges, .cwd; linux.seccomp."""

    def __init__(self, process: Json, seccomp: Json | None = None, personality: Json | None = None) -> None:
        self.process, self.profile, self.personality = process, seccomp, personality
        self.filter = Seccomp(frozenset())
        given = process.get("capabilities") or {}
        self.sets = {name: _numbers(given.get(name) or ()) for name in SETS}

    def __enter__(self) -> Isolator:
        """Compile the filter."""
        if self.profile:
            self.filter.program = filtered(self.profile)
        return self

    def inside(self) -> None:
        """Groups before the user. The filter comes last if it may, so that it has to know little of what we need."""
        process, user = self.process, self.process.get("user") or {}
        if self.personality:
            domain = {"LINUX": 0, "LINUX32": 8}.get(self.personality["domain"])
            check_(domain is not None and not self.personality.get("flags"), "linux.personality", "LINUX or LINUX32")
            call("personality", domain)
        if profile := process.get("apparmorProfile"):
            with open("/proc/self/attr/exec", "w") as file:
                file.write(f"exec {profile}")
        self._enter(process["cwd"], user.get("uid", 0))
        if not process.get("noNewPrivileges"):
            self.filter.inside()
        there = {number for number in range(len(NAMES)) if _has(number)}
        Bounding(self.sets["bounding"]).inside()
        prctl(PR_SET_KEEPCAPS, 1)
        if "additionalGids" in user or "deny" not in open("/proc/self/setgroups").read():
            os.setgroups(user.get("additionalGids") or [])
        call("setresgid", *[user.get("gid", 0)] * 3)
        call("setresuid", *[user.get("uid", 0)] * 3)
        prctl(PR_SET_KEEPCAPS, 0)
        os.umask(user.get("umask", 0o022))
        self._keep(there)
        if process.get("noNewPrivileges"):
            NoNewPrivileges().inside()
            self.filter.inside()

    def _enter(self, cwd: str, uid: int) -> None:
        """The working directory, which is made if it is missing; no link of /proc leads there (CVE-2024-21626)."""
        os.makedirs(cwd, exist_ok=True)
        directory = openat2(AT_FDCWD, cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0x02)
        os.fchdir(directory)
        os.close(directory)
        for stream in range(3):  # it may open /dev/stdout
            status = os.fstat(stream)
            if os.isatty(stream) or stat.S_ISFIFO(status.st_mode):
                try:
                    os.fchown(stream, uid, -1)
                except OSError:
                    pass  # it is somebody else's

    def _keep(self, there: set[int]) -> None:
        """The five sets, of what there is: the kernel may not have all, and we not be allowed all: capabilities(7)."""
        masks = [sum(1 << number for number in self.sets[name] & there) for name in SETS[:3]]
        halves = [(mask >> shift & 0xFFFFFFFF).to_bytes(4, "little") for shift in (0, 32) for mask in masks]
        call("capset", VERSION_3.to_bytes(4, "little") + bytes(4), b"".join(halves))
        call("prctl", PR_CAP_AMBIENT, CLEAR, 0, 0, 0)
        for number in self.sets["ambient"] & there:
            call("prctl", PR_CAP_AMBIENT, RAISE, number, 0, 0)


def _has(number: int) -> bool:
    try:
        return prctl(PR_CAPBSET_READ, number) == 1
    except OSError:
        return False


def _numbers(names: Sequence[str]) -> frozenset[int]:
    """The specification wants a warning for what is none."""
    short = [name.upper().removeprefix("CAP_") for name in names]
    for name in {*short} - {*NAMES}:
        warn(f"config.json: process.capabilities: CAP_{name} is none: see capabilities(7)")
    return frozenset(NAMES.index(name) for name in short if name in NAMES)


def filtered(profile: Json) -> bytes:
    """The program of linux.seccomp. It is kept, since the next container has the same one, mostly."""
    check_(not {*(profile.get("flags") or ())} - {"SECCOMP_FILTER_FLAG_TSYNC"}, "linux.seccomp.flags", "none are here")
    check_(not profile.get("listenerPath"), "linux.seccomp.listenerPath", "it is not here: leave it out")
    text, kernel = json.dumps(profile), os.uname()
    stamp = text, kernel.release, kernel.machine, os.stat(bpf.__file__).st_mtime_ns
    os.makedirs(f"{state.home()}/ready", exist_ok=True)
    place, what = f"{state.home()}/ready/oci-seccomp", "config.json: linux.seccomp"
    program = bytes(state.remembered(place, stamp, lambda: bpf.compiled(text, frozenset(), kernel, what)))
    check_(bool(program), "linux.seccomp", "this kernel has no filter of system calls, or not for us")
    return program

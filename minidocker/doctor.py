"""What this machine can do for containers, found by trying: `minidocker doctor`.

Each probe does the real thing (unshares the namespace, mounts the overlay, adds the firewall table) behind walls of the
engine's own that end with it, so nothing is left behind. The files in /proc and /sys say what a kernel was built with;
only a try says what this user, in this container or virtual machine, is allowed to do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from minidocker import state, syscalls
from minidocker.cgroups import Cgroup
from minidocker.cgroups.hierarchy import hierarchies, read
from minidocker.namespaces import KINDS, Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run
from minidocker.rootfs import PivotRoot

TOOLS = ["busybox", "mount", "unshare", "nsenter", "ldd", "strace", "ip", "nft", "mmdebstrap", "runc", "crun", "bwrap"]
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
LIMITS: dict[str, dict[str, Any]] = {"cpu": {"cpus": 0.5}, "memory": {"memory": "64m"}, "pids": {"pids": 64}}
BE_ROOT, PROVISION = "run it as root, or with sudo", "run: sh vagrant/provision.sh"
NOTES = ("user without root", "overlayfs", "FUSE", "nftables", "KVM's device", "free disk")  # chapters 0 to 3 need none
KVM_GET_API_VERSION = 0xAE00
Check = tuple[str, str, str]  # name, what was found, and the remedy: nothing if all is well


def main() -> int:
    """Print each check; the status is 0 if everything works that chapters 0 to 3 need."""
    status = 0
    for part in (first_chapters, later_chapters):
        for name, found, remedy in part():
            mark = "ok" if not remedy else "note" if name in NOTES else "MISSING"
            print(f"{mark:<8} {name:<21} {found}" + (f"; {remedy}" if remedy else ""))
            status |= mark == "MISSING"
    return status


def tried(name: str, remedy: str, command: Callable[[], object] | list[str], *isolators: Isolator) -> Check:
    """The check that comes of an attempt behind these isolators. Who is not root is told to be that first."""
    try:
        result = run(command, *isolators, env={"PATH": PATH})
        problem = result.stderr.strip() or f"exit status {result.exit_code}" if result.exit_code else ""
    except ContainerError as refused:
        problem = os.strerror(refused.errno).lower() if refused.errno else str(refused)
    return name, problem or "works", (BE_ROOT if os.geteuid() else remedy) if problem else ""


def first_chapters() -> Iterator[Check]:
    """The kernel, the rights, the tools, the root file systems; all eight namespaces; a limit of each kind."""
    release = os.uname().release
    new = tuple(map(int, release.split("-")[0].split(".")[:2])) >= (5, 12)
    yield "kernel", release, "" if new else "Linux 5.12 or later is needed"
    yield "rights", f"user id {os.geteuid()}" if os.geteuid() else "root", BE_ROOT if os.geteuid() else ""
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    yield "tools", f"not here: {', '.join(missing)}" if missing else "all here", PROVISION if missing else ""
    for name in ("busybox", "debian"):
        root = PivotRoot(f"{state.home()}/roots/{name}")
        yield tried(f"root {name}", PROVISION, ["sh", "-c", ":"], Namespaces("mount pid"), root)
    for kind in KINDS:
        remedy = "the kernel, a policy or a container forbids it"
        maps = {"uid_map": "0 0 1", "gid_map": "0 0 1"} if kind == "user" else {}
        name = {"net": "network"}.get(kind, kind)
        yield tried(f"namespace {name}", remedy, os.getpid, Namespaces(kind, **maps))  # type: ignore[arg-type]
    restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() not in ("", "0")
    remedy = "user namespaces only work as root here"
    if restricted:
        remedy = "AppArmor forbids it: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    yield tried("user without root", remedy, unshare_as_nobody)
    versions = " and ".join(sorted({f"v{one.version}" for one in hierarchies()}))
    yield "cgroup version", versions or "none mounted", "" if versions else "mount -t cgroup2 none /sys/fs/cgroup"
    for name, limits in LIMITS.items():
        remedy = f"boot with cgroup_enable={name}, or use the virtual machine (vagrant up)"
        yield tried(f"cgroup {name}", remedy, os.getpid, Cgroup(**limits))


def unshare_as_nobody() -> None:
    """In the child, as nobody: a user namespace, and another that it owns. AppArmor allows only the first."""
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWUTS)


def later_chapters() -> Iterator[Check]:
    """Union mounts (chapter 4), the firewall that publishes ports (7), virtual machines to compare with (8), room.

    Whether a guest boots where KVM answers with its version, only a boot can say: see chapter 8.
    """
    yield tried("overlayfs", "modprobe overlay", mount_overlay, Namespaces("mount"))
    yield tried("FUSE", "modprobe fuse", lambda: os.open("/dev/fuse", os.O_RDWR))
    yield tried("nftables", "modprobe nf_tables", ["nft", "add", "table", "inet", "doctor"], Namespaces("net"))
    remedy = "virtual machines are emulated, and slow"
    yield tried("KVM's device", remedy, lambda: fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_GET_API_VERSION))
    disk = os.statvfs(state.home() if os.path.exists(state.home()) else "/")
    free = disk.f_bavail * disk.f_frsize / 1e9
    yield "free disk", f"{free:.0f} GB", "" if free >= 2 else f"2 GB are needed for {state.home()}"


def mount_overlay() -> None:
    """In the child: an overlay on a tmpfs, in a mount namespace that takes both with it."""
    syscalls.mount("tmpfs", "/tmp", "tmpfs")
    for directory in ("lower", "upper", "work", "merged"):
        os.mkdir(f"/tmp/{directory}")
    os.chdir("/tmp")
    syscalls.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")

"""What this machine can do for containers, found by trying: `minidocker doctor`.

    for check in report():
        print(check.line())

Each probe does the real thing (unshares the namespace, mounts the overlay, adds the firewall table) in a child that
lives for a moment, in namespaces that die with it, so nothing is left behind. The files in /proc and /sys say what a
kernel was built with; only a try says what this user, in this container or virtual machine, is allowed to do.
The process that calls `report` forks, and so must have one thread: in a notebook, type `!minidocker doctor`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minidocker import syscalls
from minidocker.syscalls import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS, MS_PRIVATE, MS_REC

HOME = Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"))
NAMESPACES = "mount:NS pid:PID uts:UTS ipc:IPC network:NET user:USER cgroup:CGROUP time:TIME"
TOOLS = ("busybox", "mount", "unshare", "nsenter", "ldd", "strace", "ip", "nft", "mmdebstrap", "runc", "crun", "bwrap")
CONTROLLERS = {"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio", "freezer": "freezer"}  # v2: v1 names
BE_ROOT = "run it as root, or with sudo"
PROVISION = "run: sh vagrant/provision.sh"
KVM_GET_API_VERSION = 0xAE00


@dataclass(frozen=True)
class Check:
    """One line of the report. `remedy` is empty if all is well; what is not `needed` is only noted."""

    name: str
    found: str
    remedy: str = ""
    needed: bool = True

    def line(self) -> str:
        """The line as printed: a mark, the name, what was found, and what to do."""
        mark = "ok" if not self.remedy else "MISSING" if self.needed else "note"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{mark:<8} {self.name:<21} {self.found}{remedy}"


def attempt(probe: Callable[[], object]) -> str:
    """Run `probe` in a child that may ruin its own namespaces; "" if it works, else what the kernel answered."""
    pid = os.fork()
    if pid == 0:
        try:
            probe()
            os._exit(0)
        except OSError as failure:
            os._exit(failure.errno or errno.EIO)
        finally:
            os._exit(errno.EIO)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return os.strerror(code).lower() if code > 0 else "" if code == 0 else f"killed by signal {-code}"


def tried(name: str, probe: Callable[[], object], remedy: str, needed: bool = True) -> Check:
    """The check that comes of an attempt. Whoever is not root is told to be that first."""
    problem = attempt(probe)
    return Check(name, problem or "works", (BE_ROOT if os.geteuid() else remedy) if problem else "", needed)


def report() -> list[Check]:
    """Everything, in the order of the chapters. Meant for root: another user is told what root could do."""
    parts = (basics, namespaces, cgroups, later_chapters)
    return [check for part in parts for check in part()]


def basics() -> Iterator[Check]:
    """The kernel, the rights, the tools, the root file systems."""
    release = os.uname().release
    major, minor = (int(part) for part in release.split("-")[0].split(".")[:2])
    yield Check("kernel", release, "" if (major, minor) >= (5, 11) else "Linux 5.11 or later is needed")
    root = os.geteuid() == 0
    yield Check("rights", "root" if root else f"user id {os.geteuid()}", "" if root else BE_ROOT)
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")]
    yield Check("tools", f"not here: {', '.join(missing)}" if missing else "all here", PROVISION if missing else "")
    for name in ("busybox", "debian"):
        yield tried(f"root {name}", partial(execute_in, HOME / "roots" / name), PROVISION)


def execute_in(root: Path) -> None:
    """In the child: run that root file system's own shell."""
    os.chroot(root)
    os.chdir("/")
    os.execv("/bin/sh", ["sh", "-c", ":"])


def namespaces() -> Iterator[Check]:
    """The eight, as root; then what a user without rights may do."""
    for name, suffix in (word.split(":") for word in NAMESPACES.split()):
        flag = getattr(syscalls, f"CLONE_NEW{suffix}")
        yield tried(
            f"namespace {name}", partial(syscalls.unshare, flag), "the kernel, a policy or a container forbids it"
        )
    switch = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    restricted = switch.exists() and switch.read_text().strip() != "0"
    remedy = "user namespaces only work as root here"
    if restricted:
        remedy = "AppArmor forbids it: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    problem = attempt(unshare_as_nobody)
    yield Check("user without root", problem or "works", remedy if problem else "", needed=False)


def unshare_as_nobody() -> None:
    """In the child, as nobody: a user namespace, and another that it owns. AppArmor allows only the first."""
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    syscalls.unshare(CLONE_NEWUSER | CLONE_NEWUTS)


def cgroup_mounts() -> Iterator[tuple[int, Path, set[str]]]:
    """Version, directory and controllers of each mounted cgroup hierarchy (proc(5), mountinfo)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        directory, (fstype, _, options) = Path(before.split()[4]), after.split()[:3]
        if fstype == "cgroup":
            yield 1, directory, set(options.split(","))
        elif fstype == "cgroup2":
            yield 2, directory, {*(directory / "cgroup.controllers").read_text().split(), "freezer"}


def cgroups() -> Iterator[Check]:
    """For each controller, the hierarchy that has it and lets us make a group."""
    mounts = list(cgroup_mounts())
    versions = " and ".join(f"v{version}" for version in sorted({version for version, *_ in mounts}))
    yield Check("cgroup version", versions or "none mounted", "" if mounts else "mount -t cgroup2 none /sys/fs/cgroup")
    for name, old_name in CONTROLLERS.items():
        # v1 first: where both are mounted, a controller is in one of them only, but every v2 hierarchy can freeze.
        places = [(v, where) for v, where, has in sorted(mounts) if (old_name if v == 1 else name) in has]
        remedy = f"boot with cgroup_enable={name}, or use the virtual machine (vagrant up)"
        yield controller(name, *places[0]) if places else Check(f"cgroup {name}", "in no hierarchy", remedy)


def controller(name: str, version: int, where: Path) -> Check:
    """Make a cgroup below `where` and remove it again."""
    trial = where / f"minidocker-doctor-{os.getpid()}"
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as failure:
        reason = os.strerror(failure.errno or 0).lower()
        return Check(f"cgroup {name}", f"v{version} at {where}: {reason}", "run it as root, or outside a container")
    return Check(f"cgroup {name}", f"v{version} at {where}")


def later_chapters() -> Iterator[Check]:
    """Union mounts (chapter 4), the firewall that publishes ports (7), virtual machines to compare with (8), room."""
    yield tried("overlayfs", mount_overlay, "modprobe overlay", needed=False)
    yield tried("FUSE", partial(os.open, "/dev/fuse", os.O_RDWR), "modprobe fuse", needed=False)
    yield tried("nftables", add_table, "modprobe nf_tables", needed=False)
    yield tried("KVM's device", ask_kvm, "virtual machines are emulated, and slow", needed=False)
    disk = os.statvfs(HOME if HOME.exists() else "/")
    free = disk.f_bavail * disk.f_frsize / 1e9
    yield Check("free disk", f"{free:.0f} GB", "" if free >= 2 else f"2 GB are needed for {HOME}")


def mount_overlay() -> None:
    """In the child: an overlay on a tmpfs, in a mount namespace that takes both with it."""
    syscalls.unshare(CLONE_NEWNS)
    syscalls.mount("none", "/", None, MS_REC | MS_PRIVATE)
    syscalls.mount("tmpfs", "/tmp", "tmpfs")
    os.chdir("/tmp")
    for directory in ("lower", "upper", "work", "merged"):
        os.mkdir(directory)
    syscalls.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")


def add_table() -> None:
    """In the child: a firewall table in a network namespace of its own."""
    syscalls.unshare(CLONE_NEWNET)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.execvp("nft", ["nft", "add", "table", "inet", "doctor"])


def ask_kvm() -> None:
    """In the child: KVM answers with its version, which has been 12 since Linux 2.6.22.

    Whether a guest then boots, only a boot can say: see chapter 8.
    """
    fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_GET_API_VERSION)


def main() -> int:
    """Print the report; the status is 0 if everything works that chapters 0 to 3 need."""
    checks = report()
    for check in checks:
        print(check.line())
    return int(any(check.remedy and check.needed for check in checks))

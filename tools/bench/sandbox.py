"""The lab of `make bench`: where the other runtimes change nothing on the host, and what everybody's container is like.

It is a mount namespace and a network namespace of its own, entered once, with a copy of the root in memory and a /run
of its own. There a hybrid host has no /sys/fs/cgroup/unified, since crun refuses hybrid hosts; and the network has `lo`
only. What is equal among the runtimes is said in tools/bench/run_bench.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from minidocker import state, syscalls
from minidocker.rootfs import make_mounts_private
from tools import REPO
from tools.bench import measure
from tools.bench.measure import Missing

ROOT = Path(state.home(), "roots/busybox")
# Debian's programs first: an unrelated docker client of another version may lie in /usr/local/bin
PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
MEMORY, CPUS, PIDS = 64 << 20, 1, 64  # a start stays far below each of them
GROUP = "minidocker-bench"  # the cgroups that we ask the others to use begin so
THEIRS = ("docker", "libpod_parent", "lxc.pivot")  # what they make all the same at the top of a hierarchy
COMMAND = ["echo", "up"]
Raw = dict[str, measure.Samples]


@contextmanager
def lab() -> Iterator[Path]:
    """Leave the host's mounts and network for good, and yield a directory in memory. The caller has one thread so far.

    The process stays the lab's owner; at its end only the directory's mounts are gone.
    """
    before = {path for path in cgroups() if path.name in THEIRS}
    with tempfile.TemporaryDirectory(prefix="minidocker-bench-") as folder:
        enter(folder)
        try:
            yield Path(folder)
        finally:
            syscalls.call("umount2", str(ROOT), syscalls.MNT_DETACH)
            for place in (folder, "/dev/shm", "/run"):
                syscalls.call("umount2", place, syscalls.MNT_DETACH)
            for path in cgroups():
                if path not in before and (path.name in THEIRS or path.name.startswith((GROUP, "lxc."))):
                    remove_groups(path)


def leave_host(folder: str) -> None:
    """Mount and network namespaces of one's own, /run, /dev/shm and a folder in memory, and no hybrid cgroups.

    crun and podman refuse those. Whoever calls it has one thread, is root, and cannot go back.
    """
    syscalls.call("unshare", syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    make_mounts_private()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        syscalls.call("umount2", "/sys/fs/cgroup/unified", syscalls.MNT_DETACH)
    for place in ("/run", "/dev/shm", folder):
        syscalls.mount("tmpfs", place, "tmpfs")


def program(words: list[str], subject: str, parts: dict[Callable[..., Raw], Sequence[str]]) -> int:
    """The main function of a part of the bench that has a lab of its own; `parts` say which ids they measure.

    The words are such as RUNS=11, IDS=unpack.gzip, and OUT=FILE, which makes the values go there, for make bench.
    """
    options, raw = dict(word.split("=", 1) for word in words), {}
    with tempfile.TemporaryDirectory(prefix="minidocker-bench-") as folder:
        leave_host(folder)
        try:
            for part, ids in parts.items():
                if "IDS" not in options or {*ids} & {*options["IDS"].split(",")}:
                    scratch = Path(folder, part.__name__)
                    scratch.mkdir()
                    raw |= measure.attempt(part.__name__, partial(part, int(options.get("RUNS", 41)), scratch), 0) or {}
        finally:
            syscalls.call("umount2", folder, syscalls.MNT_DETACH)
    measure.report(raw, subject, options.get("OUT"))
    return 0


def enter(folder: str) -> None:
    """The namespaces, and a copy of the root in memory in the place of the one on disk."""
    leave_host(folder)
    subprocess.run(["cp", "-a", str(ROOT), f"{folder}/rootfs"], check=True)
    syscalls.mount(f"{folder}/rootfs", str(ROOT), flags=syscalls.MS_BIND)


def cgroups() -> list[Path]:
    """The groups just below the top of each hierarchy."""
    return [path for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()]


def remove_groups(top: Path) -> None:
    """Remove a group and those below it, if no process is in them; what is used by somebody stays."""
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            Path(directory).rmdir()
        except OSError:
            return


def checked(argv: list[str]) -> str:
    """What a command says; one that fails, or is never ready, is a runtime that is missing."""
    done = subprocess.run(
        argv, env={"PATH": PATH}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=measure.PATIENCE
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise Missing(f"{argv[0]}: exit status {done.returncode}: {last}")
    return done.stdout


def minidocker(words: list[str], home: str | None = None) -> list[str]:
    """Our command, by the same few lines as the installed one, with this home."""
    places = [str(REPO), sysconfig.get_paths()["purelib"]]
    code = f"import sys; sys.path += {places!r}\nfrom minidocker.cli import command; command()"
    python = [sys.executable, "-I", "-S", "-c", code]
    return ["/usr/bin/env", f"MINIDOCKER_HOME={home or state.home()}", *python, *words]


def own_home(scratch: Path) -> str:
    """A home in memory that has the image busybox; the archive that it came in lies beside it, image.tar."""
    home, archive = str(scratch / "home"), str(scratch / "image.tar")
    checked(minidocker(["save", "-o", archive, "busybox"]))
    checked(minidocker(["load", "-q", "-i", archive], home))
    return home

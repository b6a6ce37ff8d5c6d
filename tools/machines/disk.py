"""Disks for virtual machines, made from Debian's packages by a root process that mounts and installs nothing.

mmdebstrap lays the packages out in a directory, and `mke2fs -d` writes that directory into an image; the kernel is
that of chapter 8's machines. tools/machines/guest.py and tools/machines/box.py say what goes onto the disks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tools
from tools import REPO

HOME = tools.HOME.resolve()
ARCHITECTURE = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
# What set-up makes: a machine that is made from this one needs no network if it takes them along.
MADE = ("roots", "images", "layers", "made")
MACHINES = ("kernel", "minimal.cpio", "debian.ext4")  # of chapter 8, below guest/


def fail(message: str) -> None:
    """End with one line."""
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; its output, or the end of what it said as an error."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        fail(f"{command[0]} failed with {done.returncode}: is there a network, and room on the disk?\n{said}")
    return done.stdout


def source() -> str:
    """The line of sources.list from which set-up made the Debian root: the machine's own release and mirror."""
    try:
        return Path(HOME, "roots/debian/etc/apt/sources.list").read_text().strip()
    except FileNotFoundError:
        fail(f"no root file system in {HOME}/roots/debian: run sh vagrant/provision.sh")
        raise


def release(line: str) -> str:
    """The release that a line of sources.list names: bookworm."""
    return re.sub(r"\[.*?\]", "", line).split()[2]


def packages() -> tuple[list[str], list[str]]:
    """What set-up installs, and what else it installs where apt knows it: vagrant/provision.sh names all packages."""
    always, extra = run("sh", REPO / "vagrant/provision.sh", "--packages").splitlines()
    return always.split(), extra.split()


def available(names: Iterable[str]) -> list[str]:
    """Those that this machine's apt knows."""
    return [name for name in names if not subprocess.run(["apt-cache", "show", name], capture_output=True).returncode]


def kernel() -> tuple[Path, Path]:
    """Debian's kernel for virtual machines, as set-up unpacked it: the image for QEMU, the directory of its modules."""
    image, modules = HOME / "guest/kernel/vmlinux", list(HOME.glob("guest/kernel/modules/*"))
    if not image.exists() or len(modules) != 1:
        fail(f"there is no kernel in {image.parent}: run sh vagrant/provision.sh")
    return image, modules[0]


def set_up(target: Path, machines: bool = False) -> None:
    """Copy what set-up has made here into a directory that becomes another machine's MINIDOCKER_HOME."""
    venv = Path(sys.prefix).resolve()
    target.mkdir(parents=True)
    run("cp", "-a", venv, *(HOME / name for name in MADE), target)
    (target / f"venv-{sys.version_info[0]}.{sys.version_info[1]}").symlink_to(venv.name)
    if machines:
        (target / "guest").mkdir()
        run("cp", "-a", *(HOME / "guest" / name for name in MACHINES), target / "guest")


def tree(place: Path, include: Iterable[str], line: str, options: Sequence[str | Path] = ()) -> Path:
    """A Debian system in the directory `place`: its smallest base and these packages, from this apt source.

    What mmdebstrap mounts, it mounts in a namespace of its own.
    """
    names = ",".join(include)
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={names}", *options]
    run("unshare", "--mount", "--propagation", "private", *command, release(line), place, line)
    return place


def add_modules(modules: Path, root: Path) -> None:
    """Put a kernel's modules into a tree, with the index that modprobe reads."""
    target = root / "usr/lib/modules" / modules.name
    shutil.copytree(modules, target, symlinks=True)
    run("chroot", root, "depmod", modules.name)


def write(root: Path, files: dict[str, str]) -> None:
    """Write small files into a tree. A text that begins with `->` is a link's target; a script is executable."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if text.startswith("->"):
            path.symlink_to(text[2:].strip())
        else:
            path.write_text(text)
            path.chmod(0o755 if text.startswith("#!") else 0o644)


def ext4(directory: Path, image: Path, size: str, label: str, *options: str) -> Path:
    """An image of a file system that holds the directory's content; sparse, so that it takes what it holds."""
    image.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-L", label, "-E", "root_owner=0:0", *options, "-d", directory, image, size)
    return image

"""Disks for virtual machines, made from Debian's packages by a root process that mounts and installs nothing.

mmdebstrap lays the packages out in a directory, `mke2fs -d` writes that directory into an image, and a kernel is
unpacked from its package. tools/guest.py and tools/box.py say what goes onto the disks.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")).resolve()
ARCHITECTURE = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
# How a compressed kernel begins inside of vmlinuz, and what unpacks it to its standard output.
PACKED = {
    b"\x02\x21\x4c\x18": ["lz4", "-d", "-c"],
    b"\xfd7zXZ\x00": ["xz", "-d", "-c"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-d", "-c"],
    b"\x1f\x8b\x08": ["gzip", "-d", "-c"],
}


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


def packages(name: str = "PACKAGES") -> list[str]:
    """The words of a list in vagrant/provision.sh, the one place that names Debian packages."""
    script = Path(REPOSITORY, "vagrant/provision.sh").read_text()
    found = re.search(rf'^{name}="?([^"\n]*(?:\n[^"]*)?)"?$', script, re.MULTILINE)
    return found[1].split() if found else []


def dependency(package: str) -> str:
    """The package that a package without content stands for: linux-image-amd64 is linux-image-6.1.0-56-amd64 today."""
    found = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", package))
    return found[1] if found else package


def kernel(flavour: str, place: Path) -> tuple[Path, Path]:
    """Unpack Debian's kernel (`cloud-amd64`) below `place`: the image for QEMU, and the directory of its modules."""
    with tempfile.TemporaryDirectory(dir=place, prefix="deb-") as directory:
        os.chmod(directory, 0o777)  # apt downloads as its own user
        run("apt-get", "download", "-q", dependency(f"linux-image-{flavour}"), cwd=Path(directory))
        (package,) = Path(directory).glob("*.deb")
        run("dpkg-deb", "-x", package, place / "kernel")
    (image,) = Path(place, "kernel/boot").glob("vmlinuz-*")
    (modules,) = (path for path in Path(place, "kernel").glob("**/lib/modules/*") if path.is_dir())
    return uncompressed(image, place / "vmlinux"), modules


def uncompressed(image: Path, target: Path) -> Path:
    """The ELF file inside of vmlinuz, which QEMU starts at once: unpacking it in an emulated guest would take a second.

    Its header says where that is (Linux documentation, "The Linux/x86 Boot Protocol": setup_sects, payload_offset,
    payload_length). The kernel of arm64 is not wrapped so: it is copied.
    """
    data = image.read_bytes()
    if data[0x202:0x206] != b"HdrS":
        return shutil.copy(image, target)
    offset, length = struct.unpack_from("<II", data, 0x248)
    begin = (data[0x1F1] + 1) * 512 + offset
    payload = data[begin : begin + length - 4]  # its last four bytes are its unpacked size
    command = next(command for magic, command in PACKED.items() if payload.startswith(magic))
    with target.open("wb") as file:
        subprocess.run(command, input=payload, stdout=file, check=True)
    return target


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

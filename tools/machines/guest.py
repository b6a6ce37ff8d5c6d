"""Run the tests and the notebooks in a real virtual machine: Debian with systemd, and cgroup v2 alone.

    python -m tools.machines.guest                       all tests, then all notebooks
    python -m tools.machines.guest tests/03_cgroups ...  pytest with these arguments
    python -m tools.machines.guest --bare                a Debian without anything: set-up from nothing, then reset
    python -m tools.machines.guest --kit FOLDER          the same without a network, from what `make kit` gathered

The disks are made once, from the machine's own package mirror, and kept in MINIDOCKER_HOME/guest: a root file system,
and this machine's virtual environment, roots and images. The repository comes on a third disk, made for each run. The
guest works on copies that are thrown away (qemu.py), so each run begins the same. Where KVM does not work the
processor is emulated: Python then runs about fourteen times slower, and tests assert on the kernel's counters, not on
seconds (MINIDOCKER_GUEST is set).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools.machines import disk, qemu
from tools.machines.disk import HOME, REPO, fail, run

GUEST = HOME / "guest"
PLACE = "/srv/minidocker"  # the repository in the guest

# A system that boots to one job, and has nothing to do besides.
SYSTEM = ["systemd-sysv", "udev", "kmod", "dbus"]
FILES = {
    "etc/hostname": "minidocker-vm\n",
    "etc/hosts": "127.0.0.1 localhost minidocker-vm\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/fstab": ("/dev/nvme0n1 / ext4 rw,noatime 0 0\n/dev/nvme0n2 /srv ext4 rw,noatime 0 0\n"),
    "etc/systemd/system/tmp.mount": "-> /dev/null",  # a tmpfs has no attributes user.* before Linux 6.6
    "etc/systemd/network/10-all.network": (
        "[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"  # QEMU's user network
    ),
    "etc/systemd/system/job.service": (
        "[Unit]\nRequiresMountsFor=/srv\nAfter=systemd-networkd.service\n"
        "[Service]\nType=oneshot\nTasksMax=infinity\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n"
        "ExecStart=/bin/sh /srv/start\nExecStopPost=/bin/systemctl poweroff --force --force\n"
    ),
    "etc/systemd/system/multi-user.target.wants/job.service": "-> /etc/systemd/system/job.service",
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": (
        "-> /lib/systemd/system/systemd-networkd.service"
    ),
}
IDLE = """systemd-tmpfiles-clean.timer apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
    dpkg-db-backup.timer podman.service podman.socket docker-registry.service
    systemd-networkd-wait-online.service"""
FILES |= {f"etc/systemd/system/{unit}": "-> /dev/null" for unit in IDLE.split()}


# The disks


def made(image: Path, recipe: str) -> bool:
    """Whether the image was made by this recipe; it is written down last."""
    note = image.with_suffix(".recipe")
    return image.exists() and note.exists() and note.read_text() == recipe


def make(image: Path, recipe: str, maker) -> Path:
    """The image; made by `maker(place, image)` in a directory beside it, unless today's recipe has already made it."""
    if not made(image, recipe):
        print(f"making {image}", flush=True)
        GUEST.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=GUEST, prefix=".new-") as directory:
            fresh = maker(Path(directory), Path(directory, image.name))
            fresh.rename(image)
        image.with_suffix(".recipe").write_text(recipe)
    return image


def digest(*parts: object) -> str:
    """A recipe: it changes if a part of it does."""
    return hashlib.sha256(repr(parts).encode()).hexdigest() + "\n"


def system(name: str, packages: list[str]) -> tuple[Path, Path]:
    """The kernel, and the root file system `name` with these packages and that kernel's modules."""
    line = disk.source()
    kernel, modules = disk.kernel()

    def root(place: Path, image: Path) -> Path:
        tree = disk.tree(place / "root", SYSTEM + packages, line)
        disk.add_modules(modules, tree)
        disk.write(tree, FILES)
        Path(tree, "etc/machine-id").write_text("")  # the guest's own, at each boot
        return disk.ext4(tree, image, "8G", "root")

    return kernel, make(GUEST / f"{name}.img", digest(line, packages, SYSTEM, FILES, modules.name), root)


def environment() -> Path:
    """A disk with what set-up made here, but for the machines of chapter 8: this is one."""
    if not Path(sys.base_prefix).samefile("/usr"):
        fail(f"the guest has Debian's Python, not that of {sys.base_prefix}: run with PYTHON=/usr/bin/python3")

    def home(place: Path, image: Path) -> Path:
        disk.set_up(place / "home")
        return disk.ext4(place / "home", image, "4G", "home")

    notes = [path.read_text() for path in sorted(HOME.glob("made/*"))]
    return make(GUEST / "home.img", digest(Path(sys.prefix).resolve().name, disk.MADE, notes), home)


def job(place: Path, script: str, files: dict[str, Path]) -> Path:
    """A disk with the repository as it is now, without what git ignores, the script that the guest runs, and files."""
    stage = place / "job"
    target = stage / Path(PLACE).name
    listed = run("git", "-C", REPO, "ls-files", "-coz", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPO / name).exists():
            shutil.copy2(REPO / name, target / name, follow_symlinks=False)
    for name, path in files.items():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, stage / name)
    (stage / "disk").mkdir()
    (stage / "start").write_text(f'sh /srv/script </dev/null\necho "STATUS $?" >/dev/{qemu.STATUS_PORT}\nsync\n')
    (stage / "script").write_text(script)
    return disk.ext4(stage, place / "job.img", "4G", "job")


# The jobs


def tests(arguments: list[str]) -> str:
    """pytest with these arguments, or all tests and then all notebooks."""
    settings = "MINIDOCKER_GUEST=qemu MINIDOCKER_MUST_WORK=1 LC_ALL=C.UTF-8 HOME=/root TERM=dumb"
    python = f"/var/lib/minidocker/venv-{sys.version_info[0]}.{sys.version_info[1]}/bin/python"
    pytest = f"{python} -m pytest -q -p no:cacheprovider --color=no"
    runs = (
        [shlex.join(arguments)]
        if arguments
        else ["tests", "--nbval-cell-timeout=1200 notebooks --ignore=notebooks/11_the_standard.ipynb"]
    )
    return "\n".join(
        [
            f"export {settings} PYTHONPATH={PLACE} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "mkdir -p /var/lib/minidocker && mount -o noatime /dev/nvme0n3 /var/lib/minidocker || exit",
            f"cd {PLACE}; ln -s /srv/disk /run/disk; status=0; ulimit -n 20000; sh vagrant/provision.sh || exit",
            *(f"{pytest} {words} || status=$?" for words in runs),
            "exit $status\n",
        ]
    )


# How this machine reaches its package index, which the guest must know and the repository must not.
INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "http_proxy", "https_proxy", "no_proxy")


def bare(kit: str = "") -> tuple[str, dict[str, Path]]:
    """The script that tries set-up, and what it needs: a kit, or the certificates of this machine's package index."""
    if kit:
        settings, files = (
            {"KIT": "/srv/kit"},
            {f"kit/{path.name}": path for path in Path(kit).iterdir() if path.is_dir()},
        )
    else:
        settings, files = {name: os.environ[name] for name in INDEX if name in os.environ}, {}
        if certificates := os.environ.get("PIP_CERT"):
            settings["PIP_CERT"], files = "/srv/certificates", {"certificates": Path(certificates)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*lines, f"exec sh {PLACE}/vagrant/trial.sh\n"]), files


def main(arguments: list[str]) -> int:
    """Make what is missing, boot, and say how it went."""
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the directories below go away
    empty, kit = arguments[:1] in (["--bare"], ["--kit"]), (arguments[1:2] or [""])[0]
    kernel, root = system("bare", []) if empty else system("root", disk.packages()[0])
    script, files = bare(kit) if empty else (tests(arguments), {})
    with tempfile.TemporaryDirectory(dir=GUEST, prefix=".run-") as directory:
        place = Path(directory)
        disks = [root, job(place, script, files), *([] if empty else [environment()])]
        code, ended = qemu.boot(kernel, disks, place, network=empty and not kit)
    print(f"guest: {ended}; exit status {code}; {time.monotonic() - begin:.0f} s; log: {qemu.LOG}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

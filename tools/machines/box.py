"""Build Vagrant boxes of our own, since the public registry of boxes goes away: `make box`.

    python -m tools.machines.box [PLACE]   a minidocker-libvirt-amd64.box and one for virtualbox, into build/box

A box holds Debian with its usual kernel, and all that set-up makes: packages, virtual environment, roots,
images. So `vagrant up` with it needs no network. The same disk serves libvirt and QEMU (qcow2) and VirtualBox (VMDK).
It is for this machine's architecture: a box for Apple's computers is built on an arm64 machine. Nothing is mounted
here, and GRUB is written to the disk by hand, which its installer would do only on a mounted one.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

from tools.machines import disk
from tools.machines.disk import ARCHITECTURE, REPO, fail, run

SIZE = 20 << 30  # bytes that the machine sees; the files hold what is used
SECTOR, START = 512, 2048  # the first partition begins at 1 MiB, as everywhere; GRUB lives before it
ESP = 64 << 20  # bytes of the partition that UEFI reads, on arm64

# What a machine needs that one logs in to, and that Vagrant shares a folder with.
SYSTEM = [f"linux-image-{ARCHITECTURE}", "systemd-sysv", "systemd-resolved", "udev", "dbus", "openssh-server", "sudo"]
SYSTEM += ["rsync", "make", "git", "less", "nano", "iputils-ping", "e2fsprogs", "polkitd"]
# The key with which Vagrant logs in to a new machine, and which it replaces at once. Everybody knows its other half.
INSECURE_KEY = (REPO / "vagrant/insecure.pub").read_text()
FILES = {
    "etc/hostname": "minidocker\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 minidocker\n::1 localhost\n",
    "etc/fstab": "LABEL=root / ext4 rw,noatime,errors=remount-ro 0 1\n",
    "etc/resolv.conf": "-> /run/systemd/resolve/stub-resolv.conf",
    "etc/systemd/network/10-all.network": "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n",
    "etc/sudoers.d/vagrant": "vagrant ALL=(ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/vagrant.conf": "UseDNS no\n",
    "home/vagrant/.ssh/authorized_keys": INSECURE_KEY,
    # Each machine makes host keys of its own, at its first start.
    "etc/systemd/system/ssh-keys.service": (
        "[Unit]\nBefore=ssh.service\nConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/ssh-keygen -A\n[Install]\nWantedBy=ssh.service\n"
    ),
    "boot/grub/grub.cfg": (
        "set timeout=0\nsearch --no-floppy --label root --set=root\n"
        "linux /vmlinuz root=LABEL=root rw quiet console=tty0 console=ttyS0\ninitrd /initrd.img\nboot\n"
    ),
}
LAB_SERVERS = ["nginx", "docker-registry"]  # what the labs start themselves, behind walls
SERVICES = ["ssh", "ssh-keys", "systemd-networkd", "systemd-resolved"]
VIRTUALBOX = 'Vagrant.configure("2") { |config| config.vm.base_mac = "080027D0C4E2" }\n'  # that of box.ovf
OVF = Path(__file__).with_name("box.ovf")  # VirtualBox's description of the machine


def tree(place: Path) -> Path:
    """The system, with all that set-up made on this machine."""
    always, extra = disk.packages()
    root = disk.tree(place / "root", [*SYSTEM, *always, *disk.available(extra)], disk.source())
    run("chroot", root, "useradd", "-m", "-s", "/bin/bash", "vagrant")
    disk.write(root, FILES)
    for name, mode in (("etc/sudoers.d/vagrant", 0o440), ("home/vagrant/.ssh", 0o700)):
        (root / name).chmod(mode)
    run("chroot", root, "chown", "-R", "vagrant:vagrant", "/home/vagrant/.ssh")
    run("chroot", root, "systemctl", "--quiet", "enable", *SERVICES)
    run("chroot", root, "systemctl", "--quiet", "disable", *LAB_SERVERS)
    for key in root.glob("etc/ssh/ssh_host_*"):
        key.unlink()
    Path(root, "etc/machine-id").write_text("")
    disk.set_up(root / "var/lib/minidocker", machines=True)
    return root


def image(root: Path, target: Path) -> Path:
    """A disk with a table of partitions, the boot loader, and the system."""
    begin = START + (ESP // SECTOR if ARCHITECTURE == "arm64" else 0)
    offset = begin * SECTOR
    disk.ext4(root, target, f"{(SIZE - offset) >> 10}k", "root", "-E", f"offset={offset},root_owner=0:0")
    os.truncate(target, SIZE)
    with target.open("r+b") as file:
        if ARCHITECTURE == "arm64":
            table = partition(0xEF, START, ESP // SECTOR) + partition(0x83, begin, SIZE // SECTOR - begin)
            boot = bytes(440)
            file.seek(START * SECTOR)
            file.write(uefi(target.parent))
        else:
            table = partition(0x83, begin, SIZE // SECTOR - begin, active=True)
            boot, core = bios(target.parent)
            file.seek(SECTOR)
            file.write(core)
        file.seek(0)
        file.write(boot[:440].ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa")
    return target


def partition(kind: int, first: int, sectors: int, active: bool = False) -> bytes:
    """An entry of the table in the first sector. The old addresses by cylinder say: too far, use the new ones."""
    return struct.pack("<B3sB3sII", 0x80 * active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", first, sectors)


def bios(place: Path) -> tuple[bytes, bytes]:
    """GRUB for a BIOS: its first sector, which loads the next one, and what follows that. Its defaults fit our disk."""
    modules = ["biosdisk", "part_msdos", "ext2", "search", "search_label", "linux", "normal", "boot", "configfile"]
    core = grub("i386-pc", place / "core.img", "(hd0,msdos1)/boot/grub", modules)
    if len(core) > (START - 1) * SECTOR:
        fail(f"GRUB has {len(core)} bytes, and does not fit before the first partition")
    return Path("/usr/lib/grub/i386-pc/boot.img").read_bytes(), core


def uefi(place: Path) -> bytes:
    """A FAT file system with GRUB where a UEFI firmware looks for it."""
    modules = ["part_msdos", "ext2", "fat", "search", "search_label", "linux", "normal", "boot", "configfile"]
    grub("arm64-efi", place / "BOOTAA64.EFI", "(hd0,msdos2)/boot/grub", modules)
    fat = place / "esp.img"
    fat.write_bytes(b"")
    os.truncate(fat, ESP)
    run("mformat", "-i", fat, "-F", "::")
    run("mmd", "-i", fat, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", fat, place / "BOOTAA64.EFI", "::/EFI/BOOT/")
    return fat.read_bytes()


def grub(kind: str, target: Path, prefix: str, modules: list[str]) -> bytes:
    """GRUB as one program of this kind, with these modules in it."""
    run("grub-mkimage", "-O", kind, "-o", target, "-p", prefix, *modules)
    return target.read_bytes()


def box(target: Path, files: dict[str, str | Path]) -> Path:
    """A Vagrant box: a tar archive of these files, in this order, packed quickly since the disk is packed already."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".box-") as directory:
        for name, content in files.items():
            if isinstance(content, Path):
                os.link(content, Path(directory, name))
            else:
                Path(directory, name).write_text(content)
        fresh = target.with_suffix(".new")
        run("tar", "-C", directory, "-cf", fresh, *files)
        fresh.rename(target)
    return target


def boxes(raw: Path, target: Path) -> list[Path]:
    """The boxes of this disk."""
    place = raw.parent
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": SIZE >> 30, "architecture": ARCHITECTURE}
    run("qemu-img", "convert", "-c", "-O", "qcow2", raw, place / "box.img")
    done = [
        box(
            target / f"minidocker-libvirt-{ARCHITECTURE}.box",
            {"metadata.json": json.dumps(metadata), "Vagrantfile": "", "box.img": place / "box.img"},
        )
    ]
    (place / "box.img").unlink()
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, place / "box.vmdk")
    if ARCHITECTURE == "amd64":
        ovf = OVF.read_text().format(size=SIZE, file_size=(place / "box.vmdk").stat().st_size)
        metadata = {"provider": "virtualbox", "architecture": ARCHITECTURE}
        files = {"metadata.json": json.dumps(metadata), "Vagrantfile": VIRTUALBOX, "box.ovf": ovf}
        files["box.vmdk"] = place / "box.vmdk"
        done.append(box(target / f"minidocker-virtualbox-{ARCHITECTURE}.box", files))
    else:  # VirtualBox on arm64 describes its machines in a way of its own; the disk is the same
        done.append(shutil.move(place / "box.vmdk", target / f"minidocker-{ARCHITECTURE}.vmdk"))
    return done


def main(arguments: list[str]) -> int:
    """Build them."""
    begin = time.monotonic()
    target = Path(arguments[0] if arguments else REPO / "build" / "box").resolve()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".new-") as directory:
        place = Path(directory)
        raw = image(tree(place), place / "disk.raw")
        for path in boxes(raw, target):
            print(f"{path} ({path.stat().st_size >> 20} MB)")
    print(f"box: {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

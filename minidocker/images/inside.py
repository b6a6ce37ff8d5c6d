"""Chapter 5: what a program of an image counts on when it starts: /dev and its like, a user, a working directory.

    run(argv, ..., union, Filesystems(union.root), PivotRoot(union.root, proc=False), User("www-data", "/srv"))

An image has no devices and no processes. Sources: config-linux.md of the OCI runtime specification; Dockerfile(5).
"""

from __future__ import annotations

import errno
import os
import stat
from _collections_abc import Mapping, Sequence

from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.rootfs import NO_SURPRISES, make_mounts_private
from minidocker.security.paths import PATH
from minidocker.syscalls import AT_FDCWD, CLONE_NEWNS, MS_BIND, MS_NOEXEC, MS_NOSUID, MS_RDONLY, mount, openat2
from minidocker.union import initial

MOUNTS = (  # target, type, flags, options
    ("/proc", "proc", NO_SURPRISES, None),
    ("/dev", "tmpfs", MS_NOSUID, "mode=755,size=64k"),
    ("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", NO_SURPRISES, "mode=1777,size=64m"),
    ("/dev/mqueue", "mqueue", NO_SURPRISES, None),
    ("/sys", "sysfs", NO_SURPRISES | MS_RDONLY, None),
)
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
STREAMS = {name: f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))}
LINKS = {"fd": "/proc/self/fd", **STREAMS, "ptmx": "pts/ptmx", "core": "/proc/kcore"}
# sysctls of the network namespace, below net.ipv4; Docker's: no port is special, and every group may ping
SYSCTLS = {"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"}
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10  # <linux/openat2.h>
LOCALHOST = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
LARGEST = 1 << 22  # bytes of a passwd(5) that anybody reads


class Filesystems(Isolator):
    """Mount /proc, /dev and /sys below `root`, as each container has them, before the volumes, which may lie on them.
    Needs a new mount namespace. `files`: what stands in files of the container's own, in /dev or /etc."""

    clone_flags = CLONE_NEWNS

    def __init__(self, root: str, privileged: bool = False, files: Mapping[str, str] | None = None) -> None:
        self.root, self.privileged, self.files = root, privileged, files or {}

    def __enter__(self) -> Isolator:
        """Remember the network namespace of the host, whose sysctls are not the container's."""
        self.host = os.stat("/proc/self/ns/net").st_ino
        return self

    def inside(self) -> None:
        """sysfs shows the devices of the network namespace of who mounts it, so it needs one of its own."""
        make_mounts_private()
        for target, fstype, flags, options in MOUNTS:
            _directory(self.root + target)
            if target == "/dev/shm":
                self._cover(f"{self.root}/dev/shm")  # nobody will see what lies below the next mount
            try:
                mount(fstype, self.root + target, fstype, flags & ~MS_RDONLY if self.privileged else flags, options)
            except PermissionError:
                if target != "/sys":  # with the host's network, or with none of its rights, there is no /sys
                    raise
        for name, (major, minor) in DEVICES.items():
            node = f"{self.root}/dev/{name}"  # in another user namespace it is a file, which the host's device covers
            os.mknod(node, 0o666 | (stat.S_IFCHR if initial() else 0), os.makedev(major, minor))
            os.chmod(node, 0o666)
            mount(node if initial() else f"/dev/{name}", node, flags=MS_BIND)  # for `NoDevices` to spare
        for name, target in LINKS.items():
            os.symlink(target, f"{self.root}/dev/{name}")
        for name, value in SYSCTLS.items() if os.stat("/proc/self/ns/net").st_ino != self.host else ():
            try:
                with open(f"{self.root}/proc/sys/net/ipv4/{name}", "wb", 0) as file:
                    file.write(value.encode())
            except OSError:
                pass  # this kernel does not have it; a user namespace knows fewer groups than the range names

    def _cover(self, memory: str) -> None:
        """Mount files in memory over the image's, whose links are followed below the root."""
        opened = [os.open(self.root, PATH)]
        for path, text in self.files.items():
            parent, name = os.path.split(path)
            with open(f"{memory}/{name}", "x") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o755 if text.startswith("#!") else 0o644)
            try:
                _directory(self.root + parent)
                if name not in os.listdir(self.root + parent):
                    os.mknod(self.root + path, 0o644)
                opened.append(openat2(opened[0], path, PATH, RESOLVE_IN_ROOT))
                mount(file.name, f"/proc/self/fd/{opened[-1]}", None, MS_BIND)
            except OSError:
                pass  # the image has no place for it, and goes without
        for descriptor in opened:
            os.close(descriptor)


def _directory(path: str) -> None:
    """A directory to mount on. Behind a symlink, the image's files could look like the kernel's (CVE-2019-16884)."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "the image has something else there: no directory", path) from None


class User(Isolator):
    """Become `user`: "name", "uid", "name:group", ":gid"; names are those of the image's /etc/passwd, /etc/group.

    Makes the working directory `cwd` first, if it is missing, for root, as Docker does. An unknown name is an error.
    """

    def __init__(self, user: str = "", cwd: str = "") -> None:
        self.user, self.cwd = user, cwd

    def inside(self) -> None:
        """Groups before the user: who is not root any more cannot change them."""
        if self.cwd:
            os.makedirs(self.cwd, exist_ok=True)
            os.close(openat2(AT_FDCWD, self.cwd, PATH, RESOLVE_NO_MAGICLINKS))  # /proc/self/fd/3 (CVE-2024-21626)
        uid, gid, groups = resolve(self.user, records("/etc/passwd"), records("/etc/group"))
        if os.isatty(0):
            os.fchown(0, uid, -1)  # or /dev/stdout could not be opened
        os.setgroups([gid, *groups])  # or who changes his group could leave this one (CVE-2022-36109)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def resolve(user: str, passwd: list[list[str]], group: list[list[str]]) -> tuple[int, int, list[int]]:
    """(uid, gid, further groups) of a user as images name it, with the records of passwd(5) and group(5)."""
    name, _, group_name = user.partition(":")
    name = name or "0"
    known = next((record for record in passwd if len(record) > 3 and name in (record[0], record[2])), None)
    uid = _number(known[2] if known else name, user, "/etc/passwd")
    gid = int(known[3]) if known and known[3].isdecimal() else 0
    if group_name:
        found = next((record[2] for record in group if len(record) > 2 and group_name in (record[0], record[2])), None)
        return uid, _number(found or group_name, user, "/etc/group"), []
    login = known[0] if known else name
    members = [record for record in group if len(record) > 3 and login in record[3].split(",")]
    return uid, gid, [int(record[2]) for record in members if record[2].isdecimal()]


def _number(text: str, user: str, file: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**32 - 1:
        raise ContainerError(f"user {user!r}: {text} is neither a number nor in the image's {file}")
    return int(text)


def records(path: str) -> list[list[str]]:
    """The lines of a file like passwd(5). It is the image's: perhaps not there, a FIFO, a device, or without an end."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            text = file.read(LARGEST) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return []
    return [line.split(":") for line in text.decode(errors="replace").split("\n")]


def home_of(layers: Sequence[str], user: str) -> str:
    """The user's home in the image's own passwd(5). Read from outside, so no symlink of the image is followed."""
    name = user.partition(":")[0] or "0"
    for layer in layers:
        path = os.path.join(layer, "etc", "passwd")
        if os.path.lexists(path) and os.path.realpath(path) == os.path.realpath(layer) + "/etc/passwd":
            return next((line[5] for line in records(path) if len(line) > 5 and name in (line[0], line[2])), "/")
    return "/"

"""Chapter 11: the root of config.json: mounts, with all options of mount(8); devices; and what is covered.

Each target is looked up below the root as if that were the root of everything, once, and then only its descriptor is
used: an image may have a link there (CVE-2021-30465).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from minidocker import files
from minidocker.cgroups.hierarchy import hierarchies
from minidocker.child import DEFAULT_PATH
from minidocker.images.inside import DEVICES, LINKS, MOUNTS
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.security.capabilities import DEFAULT
from minidocker.security.paths import MASKED, PATH, READ_ONLY
from minidocker.security.users import MOUNT_ATTR_IDMAP, MOVE_MOUNT_EMPTY_PATHS, OPEN_TREE_CLONE, namespace
from minidocker.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MS_BIND,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    Any,
    call,
    mount,
    mount_setattr,
    openat2,
)
from minidocker.volumes import BELOW, landing

MS_MOVE, ATIME = 0x2000, 0x70  # <linux/mount.h>; the bits of MOUNT_ATTR__ATIME exclude each other
# Options of mount(8), what takes them back, and what they are for mount(2) and for mount_setattr(2)
ATTRIBUTES = (
    ("ro", "rw", 1, 1), ("nosuid", "suid", 2, 2), ("nodev", "dev", 4, 4), ("noexec", "exec", 8, 8),
    ("noatime", "atime", 0x400, 0x10), ("strictatime", "nostrictatime", 1 << 24, 0x20),
    ("relatime", "norelatime", 1 << 21, 0), ("nodiratime", "diratime", 0x800, 0x80),
    ("nosymfollow", "symfollow", 0x100, 0x200000),
)  # fmt: skip
SUPER = {"sync": 16, "mand": 64, "dirsync": 128, "silent": 1 << 15, "iversion": 1 << 23, "lazytime": 1 << 25}
OTHERS = ("bind", "rbind", "idmap", "ridmap", "tmpcopyup")
NOTHING = ("defaults", "async", "nomand", "loud", "noiversion", "nolazytime")
SPREAD = {"unbindable": 1 << 17, "private": MS_PRIVATE, "slave": 1 << 19, "shared": 1 << 20}
SPREAD |= {f"r{name}": flag | MS_REC for name, flag in SPREAD.items()}
# A sysctl that belongs to a namespace, which the container must have of its own
SYSCTLS = {"net.": "network", "fs.mqueue.": "ipc", "kernel.msg": "ipc", "kernel.shm": "ipc", "kernel.sem": "ipc"}
SYSCTLS |= {"kernel.domainname": "uts"}


def known_options() -> list[str]:
    """All words that are no data for the file system itself."""
    pairs = [word for on, off, _, _ in ATTRIBUTES for word in (on, off)]
    return sorted({*pairs, *(f"r{word}" for word in pairs), *SUPER, *SPREAD, *NOTHING, *OTHERS})


class Words:
    """The options of one mount, mount(8)."""

    def __init__(self, words: Sequence[str]) -> None:
        self.bind = self.copyup = self.mapped = False
        self.deep = self.flags = 0
        self.tree = -1
        self.here, self.below = [0, 0], [0, 0]  # attributes to set and to clear: of the mount, and of all below it
        self.spread, self.data = list[int](), list[str]()
        for word in words:
            self._read(word)

    def _read(self, word: str) -> None:
        for on, off, flag, bit in ATTRIBUTES:
            for known, sets in ((on, True), (off, False)):
                if word == known:
                    self.flags = self.flags | flag if sets else self.flags & ~flag
                if word in (known, f"r{known}"):
                    clear = ATIME if bit in (0, 0x10, 0x20) else bit
                    part = self.here if word == known else self.below
                    part[0] = part[0] & ~clear | (bit if sets else 0)
                    part[1] |= 0 if sets and clear == bit else clear
                    return
        if word in ("bind", "rbind"):
            self.bind, self.deep = True, AT_RECURSIVE if word == "rbind" else 0
        elif word in SPREAD:
            self.spread.append(SPREAD[word])
        elif word in SUPER:
            self.flags |= SUPER[word]
        elif word in ("idmap", "ridmap"):
            self.mapped = True
        elif word == "tmpcopyup":
            self.copyup = True
        elif word not in NOTHING:
            self.data.append(word)


class Mounts(Isolator):
    """config.mounts and linux.devices, below config.root; linux.rootfsPropagation."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.known, self.config = known, known["config"]
        self.linux, self.root = self.config["linux"], os.path.realpath(self.config["root"]["path"])
        self.mounts = [(one, Words(one.get("options") or ())) for one in self.config.get("mounts") or ()]
        self.spread = self.linux.get("rootfsPropagation") or ""
        if self.spread and self.spread not in SPREAD:
            raise ContainerError(f"config.json: linux.rootfsPropagation: {self.spread}: it is {' '.join(SPREAD)}")

    def __enter__(self) -> Isolator:
        """Open what is of the host, with the caller's rights: who is nobody outside may not reach it."""
        for one, words in self.mounts:
            if words.bind or one.get("type") == "bind":
                words.tree = self._tree(one, words)
        self.descriptors = tuple(words.tree for _, words in self.mounts if words.tree >= 0)
        return self

    def _tree(self, one: dict[str, Any], words: Words) -> int:
        """A copy of the mount, attached nowhere; if it is asked for, with other owners."""
        tree = call(
            "open_tree", AT_FDCWD, one["source"], OPEN_TREE_CLONE | words.deep | os.O_CLOEXEC, path=one["source"]
        )
        if words.mapped or one.get("uidMappings"):
            source = one if one.get("uidMappings") else self.linux
            maps = [
                "".join(
                    f"{line['containerID']} {line['hostID']} {line['size']}\n" for line in source[f"{kind}Mappings"]
                )
                for kind in ("uid", "gid")
            ]
            users = namespace(*maps)
            mount_setattr(tree, "", AT_EMPTY_PATH | words.deep, MOUNT_ATTR_IDMAP, users=users)
            os.close(users)
        return tree

    def inside(self) -> None:
        """Let nothing become the host's, unless it is asked for; then mount, one after the other."""
        os.umask(0)
        self.known["pid"] = int(os.readlink("/proc/self"))  # as the host sees it
        first = SPREAD[self.spread or "rslave"] | MS_REC
        mount(None, "/", flags=first)
        _private(self.root)
        mount(self.root, self.root, flags=MS_BIND | MS_REC)
        self.top = os.open(self.root, PATH)
        for one, words in self.mounts:
            self._mount(one, words, first)
        if not any(words.tree >= 0 and one["destination"] == "/dev" for one, words in self.mounts):
            self._devices()
        os.close(landing(self.top, self.config["process"]["cwd"], True, proc=True)[0])  # which may become read-only
        os.close(self.top)

    def _mount(self, one: dict[str, Any], words: Words, first: int) -> None:
        """One of the list, in the order of the list."""
        target, kind, tree = one["destination"], one.get("type") or "", words.tree
        directory = tree < 0 or stat.S_ISDIR(os.fstat(tree).st_mode)
        place, _ = landing(self.top, target, directory, proc=True)
        here = f"/proc/self/fd/{place}"
        if tree >= 0:
            call("move_mount", tree, "", place, "", MOVE_MOUNT_EMPTY_PATHS, path=target)
            mount(None, f"/proc/self/fd/{tree}", flags=first)
        elif kind in ("cgroup", "cgroup2"):
            self._groups(here, target)
        else:
            image = os.open(here, os.O_RDONLY | os.O_DIRECTORY) if words.copyup else -1
            flags = words.flags & ~(MS_RDONLY if words.copyup else 0)
            mount(one.get("source") or kind, here, kind, flags, ",".join(words.data))
        made = os.dup(tree) if tree >= 0 else openat2(self.top, target, PATH, BELOW)
        if words.copyup and tree < 0:
            data = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_DIRECTORY)
            files.copy(image, data)
            os.close(image)
            os.close(data)
        several = AT_RECURSIVE if kind in ("cgroup", "cgroup2") else 0
        for attributes, deep in ((words.here, several), (words.below, AT_RECURSIVE)):
            if any(attributes):
                mount_setattr(made, "", AT_EMPTY_PATH | deep, *attributes)
        for flags in words.spread:
            mount(None, f"/proc/self/fd/{made}", flags=flags)
        os.close(place)
        os.close(made)

    def _groups(self, here: str, target: str) -> None:
        """The container's own groups: of version 2 in its place, of several hierarchies in one directory for each."""
        found = {os.path.basename(one.path): one.path + self.known["cgroup"] for one in hierarchies()}
        if len(found) == 1:
            return mount(next(iter(found.values())), here, flags=MS_BIND)
        mount("tmpfs", here, "tmpfs", 0, "mode=755")
        for name, group in found.items():
            place, _ = landing(self.top, f"{target}/{name}", True, proc=True)
            mount(group, f"/proc/self/fd/{place}", flags=MS_BIND)
            os.close(place)

    def _devices(self) -> None:
        """Each node is made; where that is refused, in a user namespace, the host's is mounted."""
        given = {one["path"]: one for one in self.linux.get("devices") or ()}
        for name, (major, minor) in DEVICES.items():
            given.setdefault(f"/dev/{name}", {"type": "c", "major": major, "minor": minor})
        for path, one in given.items():
            kind = {"b": stat.S_IFBLK, "p": stat.S_IFIFO}.get(one["type"], stat.S_IFCHR)
            parent, _ = landing(self.top, os.path.dirname(path), True, proc=True)
            name, mode = os.path.basename(path), one.get("fileMode") or 0o666
            number = os.makedev(one.get("major", 0), one.get("minor", 0))
            try:
                os.mknod(name, kind | mode, number, dir_fd=parent)
                os.chown(name, one.get("uid") or 0, one.get("gid") or 0, dir_fd=parent)
                os.chmod(name, mode, dir_fd=parent)
            except FileExistsError:
                pass
            except PermissionError:
                os.mknod(name, 0o666, dir_fd=parent)
                mount(path, f"/proc/self/fd/{os.open(name, PATH, dir_fd=parent)}", flags=MS_BIND)
            os.close(parent)
        parent, _ = landing(self.top, "/dev", True, proc=True)
        for name, target in LINKS.items():
            try:
                os.symlink(target, name, dir_fd=parent)
            except FileExistsError:
                pass
        os.close(parent)


class Pivot(Isolator):
    """The change of the root, and what comes after it: linux.sysctl, .readonlyPaths, .maskedPaths; root.readonly."""

    def __init__(self, config: dict[str, Any], pivot: bool) -> None:
        self.config, self.linux, self.pivot = config, config["linux"], pivot

    def inside(self) -> None:
        """pivot_root(2), or, for a host whose root is an initramfs, what is like it."""
        root, spread = os.path.realpath(self.config["root"]["path"]), self.linux.get("rootfsPropagation")
        call("chdir", root, path=root)
        if self.pivot:
            before = os.open("/", PATH)
            call("pivot_root", ".", ".", path=root)
            os.fchdir(before)
            os.close(before)
            mount(None, ".", flags=SPREAD["rslave"])  # or the host would lose its mounts, too
            call("umount2", ".", MNT_DETACH, path=".")
        else:
            mount(".", "/", flags=MS_MOVE)
            call("chroot", ".", path=root)
        call("chdir", "/", path="/")
        for name, value in (self.linux.get("sysctl") or {}).items():
            self._sysctl(name, value)
        if self.config["root"].get("readonly"):
            mount_setattr(AT_FDCWD, "/", 0, MS_RDONLY)
        cover(self.linux.get("readonlyPaths") or (), _read_only)
        cover(self.linux.get("maskedPaths") or (), _masked)
        if spread:
            mount(None, "/", flags=SPREAD[spread])

    def _sysctl(self, name: str, value: str) -> None:
        """One that the container has of its own: all others are the host's."""
        kinds = {one["type"] for one in self.linux["namespaces"]}
        needed = next((kind for start, kind in SYSCTLS.items() if name.startswith(start)), None)
        if needed not in kinds:
            raise ContainerError(f"config.json: linux.sysctl: {name} is of no namespace that the container has")
        with open(f"/proc/sys/{name.replace('.', '/')}", "w") as file:
            file.write(value)


def _private(path: str) -> None:
    """The mount that a path is on: pivot_root(2) refuses a shared one, and the host would get ours."""
    while True:
        try:
            return mount(None, path, flags=MS_PRIVATE)
        except OSError:
            if path == "/":
                raise
            path = os.path.dirname(path)


def cover(paths: Sequence[str], how: Any) -> None:
    """Those that are there."""
    top = os.open("/", PATH)
    for path in paths:
        try:
            place = openat2(top, path, PATH, BELOW)
        except (FileNotFoundError, NotADirectoryError):
            continue
        how(f"/proc/self/fd/{place}", top, path)
        os.close(place)
    os.close(top)


def _read_only(name: str, top: int, path: str) -> None:
    mount(name, name, flags=MS_BIND | MS_REC)
    place = openat2(top, path, PATH, BELOW)
    mount_setattr(place, "", AT_EMPTY_PATH | AT_RECURSIVE, MS_RDONLY)
    os.close(place)


def _masked(name: str, _: int, path: str) -> None:
    if os.path.isdir(name):
        mount("tmpfs", name, "tmpfs", MS_RDONLY, "size=0k")
    else:
        mount("/dev/null", name, flags=MS_BIND)


def example() -> dict[str, Any]:
    """A config.json to begin with: a shell in ./rootfs, behind the walls that each container of an image has."""
    words = {flag: on for on, _, flag, _ in ATTRIBUTES}
    mounts = [
        {"destination": target, "type": kind, "source": kind}
        | {
            "options": [word for flag, word in words.items() if flags & flag]
            + (data or "").split(",")[: len(data or "")]
        }
        for target, kind, flags, data in MOUNTS
    ]
    kept = [f"CAP_{name}" for name in DEFAULT]
    process = {
        "terminal": True, "user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "noNewPrivileges": True,
        "env": [f"PATH={DEFAULT_PATH}", "TERM=xterm"],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), kept),
    }  # fmt: skip
    linux = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": [*MASKED], "readonlyPaths": [*READ_ONLY],
    }  # fmt: skip
    root = {"path": "rootfs", "readonly": True}
    known = {"root": root, "hostname": "minidocker", "mounts": mounts, "linux": linux}
    return {"ociVersion": "1.0.2", "process": process} | known

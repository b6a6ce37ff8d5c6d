"""Chapter 11: the root of config.json: mounts, with all options of mount(8); devices; and what is covered.

Each target is looked up below the root as if that were the root of everything, and then only its descriptor is used:
an image may have a link there (CVE-2021-30465). What is opened here is closed when the command executes.
"""

from __future__ import annotations

import errno
import os
import stat
from _collections_abc import Sequence

from minidocker import files, syscalls
from minidocker.cgroups.hierarchy import hierarchies, read
from minidocker.child import DEFAULT_PATH
from minidocker.images.inside import DEVICES, LINKS, MOUNTS
from minidocker.isolator import Isolator
from minidocker.oci import VERSION, Json
from minidocker.outcome import ContainerError
from minidocker.security.capabilities import DEFAULT
from minidocker.security.paths import MASKED, PATH, READ_ONLY, check_proc
from minidocker.syscalls import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MS_BIND,
    MS_RDONLY,
    call,
    mount,
    mount_setattr,
    openat2,
)
from minidocker.trees import RESOLVE_NO_SYMLINKS
from minidocker.volumes import BELOW, OPEN_TREE_CLONE, landing

MS_MOVE, MOUNT_ATTR_IDMAP, MOVE_MOUNT_EMPTY_PATHS = 0x2000, 0x100000, 0x44  # <linux/mount.h>
ATIME = 0x70  # the bits of MOUNT_ATTR__ATIME exclude each other
# Options of mount(8), what takes them back, and what they are for mount(2) and for mount_setattr(2)
ATTRIBUTES = (
    ("ro", "rw", 1, 1), ("nosuid", "suid", 2, 2), ("nodev", "dev", 4, 4), ("noexec", "exec", 8, 8),
    ("noatime", "atime", 0x400, 0x10), ("strictatime", "nostrictatime", 1 << 24, 0x20),
    ("relatime", "norelatime", 1 << 21, 0), ("nodiratime", "diratime", 0x800, 0x80),
    ("nosymfollow", "symfollow", 0x100, 0x200000),
)  # fmt: skip
PAIRS = {word: (word == on, flag, bit) for on, off, flag, bit in ATTRIBUTES for word in (on, off)}
SUPER = {"sync": 16, "mand": 64, "dirsync": 128, "silent": 1 << 15, "iversion": 1 << 23, "lazytime": 1 << 25}
SUPER |= dict.fromkeys(("defaults", "async", "nomand", "loud", "noiversion", "nolazytime"), 0)
SPREAD = {"unbindable": 1 << 17, "private": syscalls.MS_PRIVATE, "slave": 1 << 19, "shared": 1 << 20}
SPREAD |= {f"r{name}": flag | syscalls.MS_REC for name, flag in SPREAD.items()}
OTHERS = ("bind", "rbind", "idmap", "ridmap", "tmpcopyup")
ALL = sorted({*PAIRS, *(f"r{word}" for word in PAIRS), *SUPER, *SPREAD, *OTHERS})  # all else is for the file system
LINKS_MOST = 40  # path_resolution(7)
GROUPS = ("cgroup", "cgroup2")
OF_LXCFS = ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")  # of /proc
# A sysctl that belongs to a namespace, which the container must have of its own
SYSCTLS = {"net.": "network", "fs.mqueue.": "ipc", "kernel.msg": "ipc", "kernel.shm": "ipc", "kernel.sem": "ipc"}
SYSCTLS |= {"kernel.domainname": "uts"}


def mapped(lines: Sequence[Json] | None) -> str:
    """A map as user_namespaces(7) has it."""
    return "".join(f"{one['containerID']} {one['hostID']} {one['size']}\n" for one in lines or ())


def root_of(path: str) -> int:
    """Who is root in a user namespace, as we see them: /proc/PID/ns/user has the map of it beside it."""
    words = read(f"{path.removesuffix('/ns/user')}/uid_map").split()
    return int(words[1]) if words[:1] == ["0"] else 0


def resolved(top: int, path: str) -> str:
    """The path without links below the root `top`, also where one leads to what is not there yet: /etc/resolv.conf."""
    done, rest, links = "", path.split("/"), 0
    while rest:
        part = rest.pop(0)
        try:
            link = os.readlink(f"{done}/{part}"[1:] or ".", dir_fd=top)
        except OSError:
            done = os.path.normpath(f"{done}/{part}").rstrip("/")
            continue
        done, rest, links = "" if link.startswith("/") else done, [*link.split("/"), *rest], links + 1
        if links > LINKS_MOST:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return done


class Mount:
    """One of the list: its options, mount(8), and what it is."""

    tree = -1  # of a bind mount: a copy of the mount, attached nowhere

    def __init__(self, one: Json) -> None:
        self.one, self.target, self.kind = one, one["destination"], one.get("type") or ""
        words = one.get("options") or ()
        self.bind = self.kind == "bind" or not {*words}.isdisjoint(("bind", "rbind"))
        self.deep = AT_RECURSIVE if "rbind" in words else 0
        self.mapped, self.copyup = not {*words}.isdisjoint(("idmap", "ridmap")), "tmpcopyup" in words
        self.here, self.below = [0, 0], [0, 0]  # attributes to set and to clear: of the mount, and of all below it
        self.flags = sum({SUPER[word] for word in words if word in SUPER})
        self.spread = [SPREAD[word] for word in words if word in SPREAD]
        self.data = ",".join(word for word in words if word not in ALL)
        for word in words:
            deep = word not in PAIRS and word[:1] == "r" and word[1:] in PAIRS  # "rro"
            if deep or word in PAIRS:
                self._attribute(*PAIRS[word[deep:]], self.below if deep else self.here)

    def _attribute(self, on: bool, flag: int, bit: int, part: list[int]) -> None:
        """mount_setattr(2) clears before it sets. Of the ways to count accesses there is one at a time."""
        clear = ATIME if bit in (0, 0x10, 0x20) else bit
        part[:] = part[0] & ~clear | (bit if on else 0), part[1] | clear
        if part is self.here:
            self.flags = self.flags | flag if on else self.flags & ~flag

    def open(self, linux: Json) -> int:
        """Host side, with the caller's rights: who is nobody outside may not reach it, nor change owners."""
        source = self.one["source"]
        flags = OPEN_TREE_CLONE | self.deep | os.O_CLOEXEC
        self.tree = call("open_tree", syscalls.AT_FDCWD, source, flags, path=source)
        if self.mapped or self.one.get("uidMappings"):
            from minidocker.security.users import namespace

            maps = self.one if self.one.get("uidMappings") else linux
            users = namespace(mapped(maps.get("uidMappings")), mapped(maps.get("gidMappings")))
            mount_setattr(self.tree, "", AT_EMPTY_PATH | self.deep, MOUNT_ATTR_IDMAP, users=users)
        return self.tree


class Mounts(Isolator):
    """config.mounts and linux.devices, below config.root; linux.rootfsPropagation."""

    def __init__(self, known: Json) -> None:
        self.known, self.config, self.linux = known, known["config"], known["config"]["linux"]
        self.root = os.path.realpath(self.config["root"]["path"])
        self.mounts = [Mount(one) for one in self.config.get("mounts") or ()]
        given = {f"/dev/{name}": {"type": "c", "major": pair[0], "minor": pair[1]} for name, pair in DEVICES.items()}
        self.devices = given | {one["path"]: one for one in self.linux.get("devices") or ()}
        self.nodes = [_node(one) for one in self.devices.values()]
        rules = (self.linux.get("resources") or {}).get("devices") or [{"allow": False}]
        free = rules[-1]["allow"] and rules[-1].get("type", "a") == "a"
        self.walled = not free and not any("devices" in one.controllers for one in hierarchies())
        asked = {one["type"]: one.get("path") or "" for one in self.linux.get("namespaces") or ()}
        self.users = asked.get("user", "")
        dev = [one for one in self.mounts if one.target == "/dev" and one.here[0] & MS_RDONLY and not one.bind]
        self.sealed = [Sealed(one) for one in dev]
        self.spread = self.linux.get("rootfsPropagation") or "rslave"
        if self.spread not in SPREAD:
            raise ContainerError(f"config.json: linux.rootfsPropagation: {self.spread}: it is {' '.join(SPREAD)}")

    def __enter__(self) -> Isolator:
        """Open what is of the host."""
        self.descriptors = tuple(one.open(self.linux) for one in self.mounts if one.bind)
        return self

    def inside(self) -> None:
        """Let nothing become the host's, unless it is asked for; then mount, one after the other."""
        os.umask(0)
        first = SPREAD[self.spread] | syscalls.MS_REC
        mount(None, "/", flags=first)
        _private(self.root)
        mount(self.root, self.root, flags=MS_BIND | syscalls.MS_REC)
        self.top = os.open(self.root, PATH)
        for one in self.mounts:
            self._mount(one, first)
        if not any(one.bind and one.target == "/dev" for one in self.mounts):
            self._devices()
        self._place(self.config["process"]["cwd"])  # before it may become read-only

    def _place(self, target: str, directory: bool = True) -> int:
        return landing(self.top, resolved(self.top, target), directory, proc=True)[0]

    def _judge(self, one: Mount, place: int) -> None:
        """Everybody believes what /proc says, and so do we (CVE-2019-16884, CVE-2019-19921)."""
        path = os.readlink(f"/proc/self/fd/{place}").removeprefix(self.root)
        if one.kind in ("proc", "sysfs") and path != os.path.normpath(one.target):
            raise OSError(errno.ELOOP, "a link of the root leads elsewhere", one.target)
        if path == "/proc" and one.bind:
            check_proc(one.tree)
        elif f"{path}/".startswith("/proc/") and one.kind != "proc" and path[6:] not in OF_LXCFS:
            raise OSError(errno.EPERM, "only the file system proc, and files of lxcfs", one.target)

    def _mount(self, one: Mount, first: int) -> None:
        place = self._place(one.target, not one.bind or stat.S_ISDIR(os.fstat(one.tree).st_mode))
        self._judge(one, place)
        here, made = f"/proc/self/fd/{place}", one.tree
        late = MS_RDONLY if self.sealed and one.target == "/dev" else 0
        if one.bind:
            call("move_mount", made, "", place, "", MOVE_MOUNT_EMPTY_PATHS, path=one.target)
            mount(None, f"/proc/self/fd/{made}", flags=first)
        elif one.kind in GROUPS:
            self._groups(here, one.target)
        else:
            owner = root_of(self.users) if self.users and one.kind == "tmpfs" else 0
            data = one.data + (f",uid={owner},gid={owner}" if owner else "")
            flags = one.flags & ~(late or MS_RDONLY * one.copyup)
            mount(one.one.get("source") or one.kind, here, one.kind, flags, data)
        if not one.bind:
            made = openat2(self.top, one.target, PATH, BELOW)
            if one.copyup:
                files.copy(*(os.open(f"/proc/self/fd/{end}", os.O_RDONLY | os.O_CLOEXEC) for end in (place, made)))
        several = AT_RECURSIVE if one.kind in GROUPS else 0
        one.tree = made
        now = [one.here[0] & ~late, one.here[1]]
        for attributes, deep in ((now, several), (one.below, AT_RECURSIVE)):
            if any(attributes):
                mount_setattr(made, "", AT_EMPTY_PATH | deep, *attributes)
        for flags in one.spread:
            mount(None, f"/proc/self/fd/{made}", flags=flags)

    def _groups(self, here: str, target: str) -> None:
        """The container's own groups: of version 2 in its place, of several hierarchies in one directory for each."""
        groups = {os.path.basename(one.path): one.path + self.known["cgroup"] for one in hierarchies()}
        found = {name: group for name, group in groups.items() if os.path.isdir(group)}
        if len(found) == 1:
            return mount(next(iter(found.values())), here, flags=MS_BIND)
        mount("tmpfs", here, "tmpfs", 0, "mode=755")
        for name, group in found.items():
            mount(group, f"/proc/self/fd/{self._place(f'{target}/{name}')}", flags=MS_BIND)

    def _devices(self) -> None:
        """Each node is made; where that is refused, in a user namespace, the host's is mounted. Where no group forbids
        others, `NoDevices` does, but for those that are a mount."""
        for path, one in self.devices.items():
            parent, name, (kind, number) = self._place(os.path.dirname(path)), os.path.basename(path), _node(one)
            try:
                os.mknod(name, kind | (one.get("fileMode") or 0o666) & 0o777, number, dir_fd=parent)
                os.chown(name, one.get("uid") or 0, one.get("gid") or 0, dir_fd=parent)
                source = f"/proc/self/fd/{os.open(name, PATH, dir_fd=parent)}" if self.walled else ""
            except FileExistsError:
                continue
            except PermissionError:
                os.mknod(name, 0o666, dir_fd=parent)
                source = path
            if source:
                mount(source, f"/proc/self/fd/{os.open(name, PATH, dir_fd=parent)}", flags=MS_BIND)
        top = self._place("/dev")
        for name in {*LINKS} - {*os.listdir(f"/proc/self/fd/{top}")}:
            os.symlink(LINKS[name], name, dir_fd=top)


class Sealed(Isolator):
    """A /dev that is to be read-only is that when all is in it, also the terminal's console."""

    def __init__(self, dev: Mount) -> None:
        self.dev = dev

    def inside(self) -> None:
        """After the terminal."""
        mount_setattr(self.dev.tree, "", AT_EMPTY_PATH, MS_RDONLY)


def _node(one: Json) -> tuple[int, int]:
    """Type and number of a device, as in stat(2)."""
    kind = {"b": stat.S_IFBLK, "p": stat.S_IFIFO}.get(one["type"], stat.S_IFCHR)
    return kind, os.makedev(one.get("major", 0), one.get("minor", 0))


def _private(path: str) -> None:
    """The mount that a path is on: pivot_root(2) refuses a shared one, and the host would get ours."""
    while True:
        try:
            return mount(None, path, flags=SPREAD["private"])
        except OSError:
            if path == "/":
                raise
            path = os.path.dirname(path)


class Pivot(Isolator):
    """The change of the root, and what comes after it: linux.sysctl, .readonlyPaths, .maskedPaths; root.readonly."""

    def __init__(self, config: Json, pivot: bool) -> None:
        self.config, self.linux, self.pivot = config, config["linux"], pivot

    def inside(self) -> None:
        """pivot_root(2), or, for a host whose root is an initramfs, what is like it."""
        root, before = os.path.realpath(self.config["root"]["path"]), os.open("/", PATH)
        call("chdir", root, path=root)
        if self.pivot:
            call("pivot_root", ".", ".", path=root)
            os.fchdir(before)
            mount(None, ".", flags=SPREAD["rslave"])  # or the host would lose its mounts, too
            call("umount2", ".", syscalls.MNT_DETACH, path=".")
        else:
            mount(".", "/", flags=MS_MOVE)
            call("chroot", ".", path=root)
        os.close(before)
        call("chdir", "/", path="/")
        for name, value in (self.linux.get("sysctl") or {}).items():
            self._sysctl(name, value)
        if self.config["root"].get("readonly"):
            mount_setattr(syscalls.AT_FDCWD, "/", 0, MS_RDONLY)
        for name in ("readonlyPaths", "maskedPaths"):
            for path in self.linux.get(name) or ():
                _cover(path, name == "readonlyPaths")
        if spread := self.linux.get("rootfsPropagation"):
            mount(None, "/", flags=SPREAD[spread])

    def _sysctl(self, name: str, value: str) -> None:
        """One that the container has of its own: all others are the host's."""
        kinds = {one["type"] for one in self.linux["namespaces"]}
        if not any(name.startswith(start) and kind in kinds for start, kind in SYSCTLS.items()):
            raise ContainerError(f"config.json: linux.sysctl: {name} is of no namespace that the container has")
        with open(f"/proc/sys/{name.replace('.', '/')}", "w") as file:
            file.write(value)


def _cover(path: str, readonly: bool) -> None:
    """With itself or with nothing, if it is there."""
    top = os.open("/", PATH)
    try:
        name = f"/proc/self/fd/{openat2(top, path, PATH, BELOW)}"
    except (FileNotFoundError, NotADirectoryError):
        return
    if readonly:
        mount(name, name, flags=MS_BIND | syscalls.MS_REC)
        mount_setattr(openat2(top, path, PATH, BELOW), "", AT_EMPTY_PATH | AT_RECURSIVE, MS_RDONLY)
    elif os.path.isdir(name):
        mount("tmpfs", name, "tmpfs", MS_RDONLY, "size=0k")
    else:
        null = openat2(top, "dev/null", PATH, RESOLVE_NO_SYMLINKS)
        if os.fstat(null).st_rdev != os.makedev(1, 3):
            raise OSError(errno.ENODEV, "it is not the device 1:3, and files cannot be covered with it", "/dev/null")
        mount(f"/proc/self/fd/{null}", name, flags=MS_BIND)


def example() -> Json:
    """A config.json to begin with: a shell in ./rootfs, behind the walls that each container of an image has."""
    kept = [f"CAP_{name}" for name in DEFAULT]
    process = {"terminal": True, "user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "noNewPrivileges": True}
    process |= {"env": [f"PATH={DEFAULT_PATH}", "TERM=xterm"]}
    process |= {"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), kept)}
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
    linux = {"namespaces": namespaces, "resources": {"devices": [{"allow": False, "access": "rwm"}]}}
    linux |= {"maskedPaths": [*MASKED], "readonlyPaths": [*READ_ONLY]}
    mounts = [
        {"destination": target, "type": kind, "source": kind, "options": _words(flags, data)}
        for target, kind, flags, data in MOUNTS
    ]
    top = {"ociVersion": VERSION, "root": {"path": "rootfs", "readonly": True}, "hostname": "minidocker"}
    return top | {"mounts": mounts, "process": process, "linux": linux}


def _words(flags: int, data: str | None) -> list[str]:
    return [on for on, _, flag, _ in ATTRIBUTES if flags & flag] + (data.split(",") if data else [])

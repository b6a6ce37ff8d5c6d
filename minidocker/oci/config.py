"""Chapter 11: what config.json of the OCI runtime specification asks for becomes a list of isolators.

    start(gate := Gate(known, listener), *isolators(known), gate)

In it are the package's own, and some that do what only the specification asks for: config.md, config-linux.md.
"""

from __future__ import annotations

import _socket as socket
import marshal
import os
import stat
from _collections_abc import Sequence

from minidocker import child, state, syscalls
from minidocker.images.inside import RESOLVE_NO_MAGICLINKS, records
from minidocker.isolator import Isolator
from minidocker.namespaces import KINDS, Namespaces
from minidocker.oci import Json, environment, hooks, save, started
from minidocker.oci.groups import Groups
from minidocker.oci.root import Mounts, Pivot, mapped, root_of
from minidocker.outcome import ContainerError, warn
from minidocker.rootfs import Chroot
from minidocker.security.capabilities import NAMES, PR_CAPBSET_READ, VERSION_3, Bounding
from minidocker.security.devices import NoDevices
from minidocker.security.options import RESOURCES, NoNewPrivileges
from minidocker.security.paths import PATH
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import call, openat2, prctl, send, structure
from minidocker.union import initial

PR_SET_KEEPCAPS, PR_CAP_AMBIENT, RAISE, CLEAR = 8, 47, 2, 4  # <linux/prctl.h>
SETS = ("effective", "permitted", "bounding", "inheritable", "ambient")
DOMAINS = {"LINUX": 0, "LINUX32": 8}  # <sys/personality.h>
ABSENT = {  # what there is no code for: nobody shall believe that it is on
    "linux": ("intelRdt", "mountLabel", "netDevices", "memoryPolicy"),
    "process": ("selinuxLabel", "ioPriority", "scheduler", "execCPUAffinity"),
}


def isolators(known: Json, pivot: bool = True) -> list[Isolator]:
    """The list for the container that is `known`: its config, and where its groups are."""
    config = known["config"]
    check(config)
    groups = Groups(known["cgroup"], config["linux"].get("resources") or {})
    return [groups, Spaces(config), Limits(config["process"]), *rooted(known, pivot), Rights(config)]


def rooted(known: Json, pivot: bool) -> list[Isolator]:
    """Another root, with all that is mounted below it; and the terminal, which comes from there."""
    config, mounts = known["config"], Mounts(known)
    if all(one["type"] != "mount" for one in config["linux"].get("namespaces") or ()):
        warn("config.json: without a mount namespace there are no mounts and no devices, and nothing is covered")
        return [Hooks(known), Chroot(mounts.root), *terminal(config["process"])]
    walls = [mounts, Hooks(known), Pivot(config, pivot), *terminal(config["process"], True), *mounts.sealed]
    walls += [NoDevices(more=mounts.nodes)] if mounts.walled else []
    return [*walls, Users(mounts.users)] if mounts.users else walls


def check(config: Json) -> None:
    """Refuse what cannot be."""
    for key in ("ociVersion", "process", "root"):
        _check(config.get(key), key, "it is missing")
    _check(str(config["ociVersion"]).startswith("1."), "ociVersion", f"{config['ociVersion']} is not 1.x")
    process, root, linux = config["process"], config["root"].get("path") or "", config.setdefault("linux", {})
    for part, names in ABSENT.items():
        for name in names:
            _check(not config[part].get(name), f"{part}.{name}", "it is not here: leave it out")
    asked = {one["type"]: one.get("path") for one in linux.get("namespaces") or ()}
    _check(process.get("args"), "process.args", "it is empty: give at least the name of a program")
    _check(str(process.get("cwd")).startswith("/"), "process.cwd", "it is an absolute path")
    _check(os.path.isdir(root), "root.path", f"{root}: no directory")
    _check(len(asked) == len(linux.get("namespaces") or ()), "linux.namespaces", "one kind is there twice")
    _check(not linux.get("uidMappings") or "user" in asked, "linux.uidMappings", "they need a user namespace")
    _check(not config.get("hostname") or "uts" in asked, "hostname", "it needs a UTS namespace")


def _check(right: object, what: str, why: str) -> None:
    if not right:
        raise ContainerError(f"config.json: {what}: {why}")


def terminal(process: Json, console: bool = False) -> list[Isolator]:
    """A pseudo-terminal, if it wants one."""
    if not process.get("terminal"):
        return []
    from minidocker.terminal import Terminal

    size = process.get("consoleSize") or {}
    rows, columns = (size.get(key, 0).to_bytes(2, "little") for key in ("height", "width"))
    return [Terminal(rows + columns + bytes(4), console)]


class Spaces(Namespaces):
    """linux.namespaces: new ones, and with a path those that are there."""

    def __init__(self, config: Json) -> None:
        linux, self.hostname_given = config["linux"], bool(config.get("hostname"))
        self.domain = os.fsencode(config.get("domainname") or "")
        asked = {one["type"].replace("network", "net"): one.get("path") for one in linux.get("namespaces") or ()}
        self.paths = {kind: path for kind, path in asked.items() if path and kind != "user"}  # see `Users`
        offsets = linux.get("timeOffsets") or {}
        clocks = {name: offset.get("secs", 0) for name, offset in offsets.items()}
        whole = not any(offset.get("nanosecs") for offset in offsets.values())
        _check(whole, "linux.timeOffsets", "nanosecs are not here: leave them out")
        uids, gids = (mapped(linux.get(f"{kind}Mappings")) for kind in ("uid", "gid"))
        made = " ".join(kind for kind, path in asked.items() if not path and kind != "mount")  # see `Mounts`
        hostname = config.get("hostname") or os.uname().nodename
        super().__init__(made, hostname=hostname, uid_map=uids, gid_map=gids, **clocks)
        self.clone_flags |= 0 if asked.get("mount", "the host's") else syscalls.CLONE_NEWNS

    def __enter__(self) -> Isolator:
        """Open those that are there."""
        self.opened = {kind: os.open(path, os.O_RDONLY) for kind, path in self.paths.items()}
        self.pid_namespace = self.opened.pop("pid", None)
        if self.pid_namespace is not None:
            guard()
        self.descriptors = tuple(self.opened.values())
        return self

    def inside(self) -> None:
        """Join, then make what is new usable."""
        for kind, descriptor in self.opened.items():
            call("setns", descriptor, KINDS[kind], path=self.paths[kind])
        self.kinds += ["uts"] if "uts" in self.paths and self.hostname_given else []
        super().inside()
        if self.domain:
            call("setdomainname", self.domain, len(self.domain))


class Users(Isolator):
    """A user namespace by its path: entered when all is mounted. The mounts, and the namespaces that are new, belong to
    those outside, and nobody inside can undo one."""

    def __init__(self, path: str) -> None:
        self.path, self.root = path, root_of(path)

    def __enter__(self) -> Isolator:
        """Open it."""
        self.descriptors = (os.open(self.path, os.O_RDONLY),)
        return self

    def inside(self) -> None:
        """Become its root."""
        give_streams(self.root)
        call("setns", self.descriptors[0], syscalls.CLONE_NEWUSER, path=self.path)
        os.setgroups([])
        call("setresgid", 0, 0, 0)
        call("setresuid", 0, 0, 0)


def give_streams(uid: int) -> None:
    """Who may open a terminal or a pipe anew: /dev/stdout."""
    for stream in range(3):
        try:
            if os.isatty(stream) or stat.S_ISFIFO(os.fstat(stream).st_mode):
                os.fchown(stream, uid, -1)
        except OSError:
            pass  # it is somebody else's


def guard() -> None:
    """Root in a container must not trace what will join it, and has our rights still (CVE-2016-9962)."""
    if initial():  # else its own files in /proc would be closed to it
        prctl(syscalls.PR_SET_DUMPABLE, 0)


class Limits(Isolator):
    """process.rlimits and .oomScoreAdj. From outside, with the caller's rights: a limit may be above the caller's."""

    def __init__(self, process: Json) -> None:
        self.limits, self.score = process.get("rlimits") or [], process.get("oomScoreAdj")
        self.names = [one["type"].removeprefix("RLIMIT_").lower() for one in self.limits]
        for name in self.names:
            right = name in RESOURCES and self.names.count(name) == 1
            _check(right, "process.rlimits", f"RLIMIT_{name.upper()} is unknown, or there twice")

    def attach(self, pid: int) -> None:
        """While it waits."""
        for name, one in zip(self.names, self.limits, strict=True):
            pair = structure(*(one[key] % 2**64 for key in ("soft", "hard")))
            call("prlimit64", pid, RESOURCES.index(name), pair, None, path=one["type"])
        if self.score is not None:
            with open(f"/proc/{pid}/oom_score_adj", "w") as file:
                file.write(str(self.score))


class Hooks(Isolator):
    """The first ones. prestart and createRuntime: its namespaces are there, we are in the host's. createContainer: in
    the container's, but its root is the host's still, and so are the programs."""

    def __init__(self, known: Json) -> None:
        self.known = known
        if known["config"].get("hooks"):
            import json  # noqa: F401  # in which they are told the state: inside, nothing can be imported

    def attach(self, pid: int) -> None:
        """From now on it can be found and ended."""
        self.known["pid"], self.known["started"] = pid, started(pid)
        save(self.known)
        hooks(self.known, "prestart", "createRuntime")

    def inside(self) -> None:
        """/proc is the host's, and knows our number there."""
        self.known["pid"] = int(os.readlink("/proc/self"))
        hooks(self.known, "createContainer")


class Rights(Isolator):
    """Who the process is, and what it may: process.user, .capabilities, .noNewPrivileges, .cwd; linux.seccomp."""

    def __init__(self, config: Json) -> None:
        self.process, self.linux, self.filter = config["process"], config["linux"], Seccomp(frozenset())
        given = self.process.get("capabilities") or {}
        self.sets = {name: _numbers(given.get(name) or ()) for name in SETS}

    def __enter__(self) -> Isolator:
        """Compile the filter."""
        if self.linux.get("seccomp"):
            self.filter.program = filtered(self.linux["seccomp"])
        return self

    def inside(self) -> None:
        """Groups before the user. The filter comes last if it may, so that it has to know little of what we need."""
        process, user = self.process, self.process.get("user") or {}
        personality = self.linux.get("personality") or {}
        _check(personality.get("domain", "LINUX") in DOMAINS, "linux.personality", "it is LINUX or LINUX32")
        if personality:
            call("personality", DOMAINS[personality["domain"]])
        if process.get("apparmorProfile"):
            with open("/proc/self/attr/exec", "w") as file:
                file.write(f"exec {process['apparmorProfile']}")
        self._enter(process["cwd"], user.get("uid", 0))
        if not process.get("noNewPrivileges"):
            self.filter.inside()
        have = {number for number in range(len(NAMES)) if prctl(PR_CAPBSET_READ, number)}  # we may lack some
        Bounding(self.sets["bounding"]).inside()
        prctl(PR_SET_KEEPCAPS, 1)
        try:
            os.setgroups(user.get("additionalGids") or [])
        except PermissionError:
            if user.get("additionalGids"):
                raise  # else it is forbidden to drop some, without root
        call("setresgid", *[user.get("gid", 0)] * 3)
        call("setresuid", *[user.get("uid", 0)] * 3)
        os.umask(0o022 if user.get("umask") is None else user["umask"])
        self._keep(have)
        if process.get("noNewPrivileges"):
            NoNewPrivileges().inside()
            self.filter.inside()

    def _enter(self, cwd: str, uid: int) -> None:
        """The working directory, to which no link of /proc leads (CVE-2024-21626); and the streams."""
        try:
            directory = openat2(syscalls.AT_FDCWD, cwd, PATH, RESOLVE_NO_MAGICLINKS)
        except FileNotFoundError:
            os.makedirs(cwd)
            directory = openat2(syscalls.AT_FDCWD, cwd, PATH, RESOLVE_NO_MAGICLINKS)
        os.fchdir(directory)
        os.close(directory)
        give_streams(uid)

    def _keep(self, have: set[int]) -> None:
        """The five sets, of what there is: capabilities(7)."""
        masks = [sum(1 << number for number in self.sets[name] & have) for name in (*SETS[:2], "inheritable")]
        halves = [(mask >> shift & 0xFFFFFFFF).to_bytes(4, "little") for shift in (0, 32) for mask in masks]
        call("capset", VERSION_3.to_bytes(4, "little") + bytes(4), b"".join(halves))
        call("prctl", PR_CAP_AMBIENT, CLEAR, 0, 0, 0)
        for number in self.sets["ambient"] & have:
            call("prctl", PR_CAP_AMBIENT, RAISE, number, 0, 0)


def _numbers(names: Sequence[str]) -> frozenset[int]:
    """The specification wants a warning for what is none."""
    short = {name.upper().removeprefix("CAP_") for name in names}
    for name in short - {*NAMES}:
        warn(f"config.json: process.capabilities: CAP_{name} is none: see capabilities(7)")
    return frozenset(map(NAMES.index, short & {*NAMES}))


def filtered(profile: Json) -> bytes:
    """The program of linux.seccomp. It is kept, since the next container has the same one, mostly."""
    _check({*(profile.get("flags") or ())} <= {"SECCOMP_FILTER_FLAG_TSYNC"}, "linux.seccomp.flags", "they are not here")
    _check(not profile.get("listenerPath"), "linux.seccomp.listenerPath", "it is not here: leave it out")
    text, kernel, place = marshal.dumps(profile), os.uname(), f"{state.home()}/ready"
    try:
        os.makedirs(place, exist_ok=True)
    except OSError:
        pass  # without root: then it is compiled each time

    def compiled() -> bytes:
        import json  # once for each profile

        from minidocker.security import bpf

        return bpf.assembled(json.dumps(profile), frozenset(), kernel, "config.json: linux.seccomp")

    program: bytes = state.remembered(f"{place}/oci-seccomp", (text, kernel.release, kernel.machine), compiled)
    _check(program, "linux.seccomp", "this kernel has no filter of system calls, or not for us")
    return program


class Gate(Isolator):
    """The end of `create`: the process waits here, behind all walls, until `start` connects; one of `exec` is open."""

    def __init__(self, known: Json, listener: int = -1, preserved: int = 0) -> None:
        self.known, self.listener, self.process = known, listener, known["config"]["process"]
        self.env, sockets = environment(self.process), int(os.environ.get("LISTEN_FDS") or 0)
        if sockets:  # sd_listen_fds(3)
            self.env |= {"LISTEN_FDS": str(sockets), "LISTEN_PID": "1"}
        wanted = range(3, 3 + preserved + sockets)
        self.preserved = [number for number in wanted if os.path.exists(f"/proc/self/fd/{number}")]
        self.descriptors = (*self.preserved, *[listener] * (listener >= 0))

    def inside(self) -> None:
        """Last of all. Whether there is a program to execute is said now, and not by `start`."""
        prctl(syscalls.PR_SET_PDEATHSIG, 0)  # `create` ends before the container does
        for number in self.preserved:
            os.set_inheritable(number, True)
        user = str(os.geteuid())
        homes = [record[5] for record in records("/etc/passwd") if record[2:3] == [user] and record[5:]]
        self.env.setdefault("HOME", [*homes, "/"][0])
        find(self.process["args"][0], self.env)

    def __call__(self) -> None:
        """Who connects is told what went wrong, or nothing, when the command executes."""
        prctl(syscalls.PR_SET_DUMPABLE, 0)  # what is still ours is nobody's to look at
        order = child.Order(self.process["args"], self.env, None, ())
        if self.listener < 0:
            child._execute(order)
        syscalls.close_range(self.listener + 1)  # among them the channel: nobody waits for an answer there
        for number in {*range(3, self.listener)} - {*self.preserved}:
            os.closerange(number, number + 1)
        connection, _ = socket.socket(fileno=self.listener)._accept()  # type: ignore[attr-defined]
        try:
            self.known["status"] = "created"
            hooks(self.known, "startContainer")
            child._execute(order)
        except BaseException as failure:
            send(connection, str(failure))


def find(program: str, env: dict[str, str]) -> None:
    """Docker and Podman know these texts, and make 127 and 126 of them."""
    directories = [""] if "/" in program else env.get("PATH", child.DEFAULT_PATH).split(":")
    paths = [os.path.join(directory, program) for directory in directories]
    if not any(os.access(path, os.X_OK) and not os.path.isdir(path) for path in paths):
        why = "permission denied" if os.path.exists(program) else "no such file or directory"
        raise ContainerError(f'exec: "{program}": {why if "/" in program else "executable file not found in $PATH"}')

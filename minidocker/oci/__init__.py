"""Chapter 11: the standard. What config.json of the OCI runtime specification asks for becomes a list of isolators.

    gate = Gate(known, listener)
    start(gate, *isolators(known), gate)

Docker, Podman and Kubernetes write such a file and call a program, the runtime: runc, crun, or this one. In the list
are the package's own isolators, and some that do what only the specification asks for. Sources: its config.md and
config-linux.md; where these leave something open, what runc does.
"""

from __future__ import annotations

import _socket as socket
import json
import os
from collections.abc import Sequence

from minidocker import child, state
from minidocker.images.inside import records
from minidocker.isolator import Isolator
from minidocker.namespaces import KINDS, Namespaces
from minidocker.oci.groups import Groups
from minidocker.oci.rights import Rights, check_
from minidocker.oci.root import Mounts, Pivot
from minidocker.outcome import ContainerError
from minidocker.security.options import RESOURCES
from minidocker.syscalls import (
    CLONE_NEWNS,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Any,
    call,
    in_memory,
    polled,
    prctl,
    send,
    signal,
    structure,
)
from minidocker.terminal import Terminal

Json = dict[str, Any]
VERSION = "1.0.2"  # of the specification
ABSENT = {  # what there is no code for: nobody shall believe that it is on
    "linux": ("intelRdt", "mountLabel", "netDevices", "memoryPolicy"),
    "process": ("selinuxLabel", "ioPriority", "scheduler", "execCPUAffinity"),
}


def isolators(known: Json, pivot: bool = True) -> list[Isolator]:
    """The list for the container that is `known`: its config, bundle, and where its groups are."""
    config = known["config"]
    check(config)
    process, linux = config["process"], config["linux"]
    walls: list[Isolator] = [Groups(known["cgroup"], linux.get("resources") or {}), Spaces(config), Outside(known)]
    walls += [Mounts(known), Hooks(known), Pivot(config, pivot), *terminal(process, console=True)]
    return [*walls, Rights(process, linux.get("seccomp"), linux.get("personality"))]


def check(config: Json) -> None:
    """Refuse what cannot be, in one line each."""
    for key in ("ociVersion", "process", "root"):
        check_(bool(config.get(key)), key, "it is missing")
    check_(str(config["ociVersion"]).startswith("1."), "ociVersion", f"{config['ociVersion']} is not 1.x")
    config.setdefault("linux", {})
    for part, names in ABSENT.items():
        for name in names:
            check_(not config[part].get(name), f"{part}.{name}", "it is not here: leave it out")
    process = config["process"]
    check_(bool(process.get("args")), "process.args", "it is empty: give at least the name of a program")
    check_(str(process.get("cwd")).startswith("/"), "process.cwd", "it is an absolute path")
    check_(os.path.isdir(config["root"].get("path") or ""), "root.path", f"{config['root'].get('path')}: no directory")
    kinds = [one["type"] for one in config["linux"].get("namespaces") or ()]
    check_(len({*kinds}) == len(kinds), "linux.namespaces", "one kind is there twice")
    check_("mount" in kinds, "linux.namespaces", "without a mount namespace of its own, its mounts would be the host's")
    maps = config["linux"].get("uidMappings") or config["linux"].get("gidMappings")
    check_(not maps or "user" in kinds, "linux.uidMappings", "they need a user namespace")
    check_(not config.get("hostname") or "uts" in kinds, "hostname", "it needs a UTS namespace")


def terminal(process: Json, console: bool = False) -> list[Isolator]:
    """A pseudo-terminal, if it wants one."""
    size = process.get("consoleSize") or {}
    rows, columns = (size.get(key, 0).to_bytes(2, "little") for key in ("height", "width"))
    return [Terminal(rows + columns + bytes(4), console)] if process.get("terminal") else []


class Spaces(Namespaces):
    """linux.namespaces: new ones, and with a path those that are there."""

    def __init__(self, config: Json) -> None:
        linux, self.config = config["linux"], config
        asked = {one["type"].replace("network", "net"): one.get("path") for one in linux["namespaces"]}
        self.paths = {kind: path for kind, path in asked.items() if path}
        new = [kind for kind in asked if kind not in self.paths]
        offsets = linux.get("timeOffsets") or {}
        clocks = {name: int((offsets.get(name) or {}).get("secs", 0)) for name in ("monotonic", "boottime")}
        maps = [mapped(linux.get(f"{kind}Mappings") or ()) for kind in ("uid", "gid")]
        hostname = config.get("hostname") or os.uname().nodename
        made = " ".join(kind for kind in new if kind != "mount")  # whose mounts we do not make private
        super().__init__(made, hostname=hostname, uid_map=maps[0], gid_map=maps[1], **clocks)
        self.clone_flags |= CLONE_NEWNS if "mount" in new else 0

    def __enter__(self) -> Isolator:
        """Open those that are there."""
        self.opened = {kind: os.open(path, os.O_RDONLY) for kind, path in self.paths.items()}
        self.pid_namespace = self.opened.pop("pid", None)
        self.descriptors = tuple(self.opened.values())
        return self

    def inside(self) -> None:
        """Join, that of users first: the rights over the others come from it."""
        for kind in sorted(self.opened, key=lambda kind: kind != "user"):
            call("setns", self.opened[kind], KINDS[kind], path=self.paths[kind])
        if "uts" in self.paths and self.config.get("hostname"):
            self.kinds.append("uts")
        super().inside()
        if domain := os.fsencode(self.config.get("domainname") or ""):
            call("setdomainname", domain, len(domain))


def mapped(lines: Sequence[Json]) -> str:
    """A map as user_namespaces(7) has it."""
    return "".join(f"{one['containerID']} {one['hostID']} {one['size']}\n" for one in lines)


class Outside(Isolator):
    """What is done to the process from outside, while it waits: with the caller's rights, in the host's namespaces."""

    def __init__(self, known: Json) -> None:
        self.known = known

    def attach(self, pid: int) -> None:
        """Limits of the process, then the hooks: its namespaces are there, and its root is the host's."""
        self.known["pid"], self.known["started"] = pid, started(pid)
        save(self.known)
        limit(self.known["config"]["process"], pid)
        hooks(self.known, "prestart", "createRuntime")


def limit(process: Json, pid: int) -> None:
    """process.rlimits and process.oomScoreAdj."""
    limits = process.get("rlimits") or ()
    for one in limits:
        name = one["type"].removeprefix("RLIMIT_").lower()
        check_(name in RESOURCES, "process.rlimits", f"{one['type']} is none: RLIMIT_{' '.join(RESOURCES).upper()}")
        check_([other["type"] for other in limits].count(one["type"]) == 1, "process.rlimits", f"{one['type']} twice")
        pair = structure(*(one[key] % 2**64 for key in ("soft", "hard")))
        call("prlimit64", pid, RESOURCES.index(name), pair, None, path=one["type"])
    if process.get("oomScoreAdj") is not None:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(process["oomScoreAdj"]))


class Gate(Isolator):
    """The end of `create`: the process waits here, behind all walls, until `start` connects with it."""

    def __init__(self, known: Json, listener: int, preserved: int = 0) -> None:
        self.known, self.listener, self.process = known, listener, known["config"]["process"]
        self.env, sockets = environment(self.process), int(os.environ.get("LISTEN_FDS") or 0)
        if sockets:  # sd_listen_fds(3)
            self.env |= {"LISTEN_FDS": str(sockets), "LISTEN_PID": "1"}
        wanted = range(3, 3 + preserved + sockets)
        self.preserved = [number for number in wanted if os.path.exists(f"/proc/self/fd/{number}")]
        self.descriptors = (*self.preserved, *[listener] * (listener >= 0))

    def inside(self) -> None:
        """Last of all. Whether there is a program to execute is said now, and not by `start`."""
        prctl(PR_SET_PDEATHSIG, 0)  # `create` ends before the container does
        for number in self.preserved:
            os.set_inheritable(number, True)
        if "HOME" not in self.env:
            user = str(os.geteuid())
            self.env["HOME"] = next((known[5] for known in records("/etc/passwd") if known[2:3] == [user]), "/")
        find(self.process["args"][0], self.env)

    def __call__(self) -> None:
        """Who connects is told what went wrong, or nothing, when the command executes."""
        prctl(PR_SET_DUMPABLE, 0)  # what is still ours is nobody's to look at
        order = child.Order(self.process["args"], self.env, None, ())
        if self.listener < 0:  # of `exec`
            child._execute(order)
        connection, _ = socket.socket(fileno=self.listener)._accept()  # type: ignore[attr-defined]
        try:
            self.known["status"] = "created"
            hooks(self.known, "startContainer")
            child._execute(order)
        except BaseException as failure:
            send(connection, str(failure))


def environment(process: Json) -> dict[str, str]:
    """process.env; the last of a name counts."""
    return dict(word.split("=", 1) for word in process.get("env") or () if "=" in word)


def find(program: str, env: dict[str, str]) -> None:
    """Docker and Podman know these texts: 127 and 126 are their exit codes then."""
    directories = [""] if "/" in program else env.get("PATH", child.DEFAULT_PATH).split(":")
    paths = [os.path.join(directory, program) for directory in directories]
    if any(os.access(path, os.X_OK) and not os.path.isdir(path) for path in paths):
        return
    if "/" not in program:
        raise ContainerError(f'exec: "{program}": executable file not found in $PATH', exit_code=127)
    there = os.path.exists(program)
    why = "permission denied" if there else "no such file or directory"
    raise ContainerError(f'exec: "{program}": {why}', exit_code=126 if there else 127)


class Hooks(Isolator):
    """createContainer: in the container, but its programs are the host's, whose root is still there."""

    def __init__(self, known: Json) -> None:
        self.known = known

    def inside(self) -> None:
        """Before the change of the root."""
        hooks(self.known, "createContainer")


def hooks(known: Json, *moments: str) -> None:
    """Run programs of others, one by one, with the state on their standard input: the first that fails ends it all."""
    for moment in moments:
        for hook in (known["config"].get("hooks") or {}).get(moment) or ():
            _run(hook, moment, json.dumps(public(known)))


def _run(hook: Json, moment: str, text: str) -> None:
    told, said = in_memory(text), in_memory("")
    moves = [(os.POSIX_SPAWN_DUP2, told, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
    path, env = hook["path"], environment(hook) if "env" in hook else os.environ
    try:
        pid = os.posix_spawn(path, hook.get("args") or [path], env, file_actions=moves)
    except OSError as refused:
        raise ContainerError(f"hook {moment}: {path}: {refused.strerror}") from None
    pidfd = os.pidfd_open(pid)
    late = not polled([pidfd], hook.get("timeout"))
    if late:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    output = os.pread(said, 4096, 0).decode(errors="replace").strip()
    for descriptor in (told, said, pidfd):
        os.close(descriptor)
    if code or late:
        why = f"killed after {hook['timeout']} s" if late else f"exit status {code}"
        raise ContainerError(f"hook {moment}: {path}: {why}{': ' * bool(output)}{output}")


def started(pid: int) -> int:
    """When it started, in clock ticks since the boot: with its number, that is a process for ever. 0: it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def public(known: Json) -> Json:
    """The state as the specification has it, for hooks and for who asks."""
    names = ("ociVersion", "id", "status", "pid", "bundle")
    return {name: known[name] for name in names} | {"annotations": known["config"].get("annotations") or {}}


def save(known: Json) -> None:
    """What is known of a container, for the commands that come after: a file that a person can read."""
    state.replace(f"{known['place']}/state.json", json.dumps(known, indent=1).encode())

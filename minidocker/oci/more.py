"""Chapter 11: what else engines ask of a runtime: one more process, figures, new limits."""

from __future__ import annotations

import contextlib
import json
import os
import time
from types import SimpleNamespace

from minidocker import oci, state
from minidocker.cgroups import Statistics
from minidocker.cgroups.hierarchy import freeze
from minidocker.namespaces import Join
from minidocker.oci.groups import Groups
from minidocker.oci.rights import SETS, Rights
from minidocker.oci.verbs import forward, freezer, known_of, let_go, pids_of, tell, waited, wanted
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.syscalls import PR_SET_DUMPABLE, Any, prctl

Json = dict[str, Any]


def exec_(options: Any, name: str, *command: str) -> int:
    """exec [OPTIONS] NAME [COMMAND...]: one more process in a container

    -p, --process FILE        what it is, as config.json has it
    -d, --detach              do not wait
    --pid-file FILE           write the number of its process there
    --console-socket SOCKET   send the terminal there
    -t, --tty                 with a terminal
    --cwd DIRECTORY           its working directory
    -e, --env NAME=VALUE...   more of its environment
    -u, --user UID[:GID]      who it is
    -g, --additional-gids N...   its further groups
    -c, --cap NAME...         more rights
    --no-new-privs            it cannot get more rights
    --preserve-fds N          descriptors that it inherits, from 3 on
    --apparmor PROFILE        its profile
    --cgroup PATH             refused
    --ignore-paused           do not refuse to wait in a paused container
    """
    known = wanted(options, name, "created", "running", *["paused"] * options.ignore_paused)
    process = _process(options, known["config"]["process"], list(command))
    linux = known["config"]["linux"]
    known["config"] = known["config"] | {"process": process}
    entered = Entered(known["pid"], process)
    gate = oci.Gate(known, -1, int(options.number("preserve-fds", int)))
    walls = [Groups(known["cgroup"], {}, made=True), entered, *oci.terminal(process)]
    walls += [Rights(process, linux.get("seccomp"), linux.get("personality")), gate]
    prctl(PR_SET_DUMPABLE, 0)  # root in there must not trace what has our rights still (CVE-2016-9962)
    new = start(gate, *walls, stdin=0, stdout=1, stderr=2, name=name)
    tell(options, new)
    if options.detach:
        let_go()
        return 0
    forward(new)
    return waited(new)


class Entered(Join):
    """Into the namespaces of the container; its limits of a process are set from outside."""

    def __init__(self, pid: int, process: Json) -> None:
        super().__init__(pid)
        self.process = process

    def attach(self, pid: int) -> None:
        """As at the start of the container."""
        oci.limit(self.process, pid)


def _process(options: Any, own: Json, command: list[str]) -> Json:
    """What is to be executed: from a file, or the container's own process with changes."""
    if options.cgroup:
        raise ContainerError("exec --cgroup: it is not here: leave it out")
    if options.process:
        with open(options.process) as file:
            found: Json = json.load(file)
    else:
        if not command:
            raise ContainerError("exec: the command is missing")
        user = dict(own.get("user") or {})
        if options.user:
            uid, _, gid = options.user.partition(":")
            user |= {"uid": int(uid)} | ({"gid": int(gid)} if gid else {})
        if options.additional_gids:
            user["additionalGids"] = [int(number) for number in options.additional_gids]
        found = own | {"args": command, "user": user, "terminal": options.tty}
        found["env"] = [*own.get("env", ()), *options.env]
        found["cwd"] = options.cwd or own["cwd"]
    if options.cap:
        more = [name.upper() for name in options.cap]
        sets = found.get("capabilities") or {}
        found["capabilities"] = {name: [*sets.get(name, ()), *more] for name in SETS[:2] + SETS[3:4]}
    found["noNewPrivileges"] = found.get("noNewPrivileges") or options.no_new_privs
    return found | ({"apparmorProfile": options.apparmor} if options.apparmor else {})


def list_(options: Any) -> None:
    """list [OPTIONS]: all containers below the root

    -f, --format FORMAT   table, or json
    -q, --quiet           names only
    """
    names = [os.path.basename(path) for path in state.directories(options.root)]
    found = []
    for name in names:
        with contextlib.suppress(ContainerError):
            found.append(known_of(options, name))
    if options.format == "json":
        print(json.dumps([oci.public(known) | {"created": known["created"], "owner": "root"} for known in found]))
    elif options.quiet:
        print(*names, sep="\n", end="\n" * bool(names))
    else:
        for row in [
            ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"),
            *((one["id"], one["pid"], one["status"], one["bundle"], one["created"], "root") for one in found),
        ]:
            print("   ".join(f"{word!s:11}" for word in row).rstrip())


def ps_(options: Any, name: str, *words: str) -> int:
    """ps [OPTIONS] NAME [COMMAND...]: its processes, as ps(1) shows them

    -f, --format FORMAT   table, or json: their numbers
    """
    pids = pids_of(known_of(options, name))
    if options.format == "json":
        print(json.dumps(pids))
        return 0
    import subprocess

    lines = subprocess.run(["ps", *(words or ["-ef"])], capture_output=True, text=True, check=True).stdout.splitlines()
    column = lines[0].split().index("PID")
    print(lines[0], *(line for line in lines[1:] if int(line.split()[column]) in pids), sep="\n")
    return 0


def pause_(options: Any, name: str) -> None:
    """pause NAME: stop all of its processes where they are"""
    known = wanted(options, name, "running", "created")
    if not freeze(freezer(known), True):
        raise ContainerError(f"pause: container {name}: a process of it has not stopped")


def resume_(options: Any, name: str) -> None:
    """resume NAME: let them go on"""
    freeze(freezer(wanted(options, name, "paused")), False)


FLAGS = {
    "memory": ("memory", "limit"), "memory-reservation": ("memory", "reservation"), "memory-swap": ("memory", "swap"),
    "cpu-period": ("cpu", "period"), "cpu-quota": ("cpu", "quota"), "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"), "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems"), "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"), "cpu-idle": ("cpu", "idle"),
}  # fmt: skip


def update_(options: Any, name: str) -> None:
    """update [OPTIONS] NAME: change the limits of a container

    -r, --resources FILE     as linux.resources has them; - is standard input
    --memory BYTES           of memory
    --memory-reservation BYTES
    --memory-swap BYTES      memory and swap together
    --cpu-period US          of which it gets
    --cpu-quota US           in each period
    --cpu-burst US           saved from other periods
    --cpu-share N            against others of 1024
    --cpu-rt-period US
    --cpu-rt-runtime US
    --cpu-idle N
    --cpuset-cpus LIST       which CPUs
    --cpuset-mems LIST       which memory nodes
    --pids-limit N           processes and threads
    --blkio-weight N
    """
    known, asked = wanted(options, name, "created", "running", "paused"), dict[str, Json]()
    if options.resources:
        with open(0 if options.resources == "-" else options.resources) as file:
            asked = json.load(file)
    for flag, (part, key) in FLAGS.items():
        if options[flag]:
            value = options[flag] if part == "cpu" and key in ("cpus", "mems") else int(options[flag])
            asked.setdefault(part, {})[key] = value
    own = known["config"]["linux"].get("resources") or {}
    for part in ("memory", "cpu"):
        if part in asked:
            asked[part] = {**(own.get(part) or {}), **{key: value for key, value in asked[part].items() if value}}
    Groups(known["cgroup"], asked, made=True).limit()
    known["config"]["linux"]["resources"] = own | asked
    oci.save(known)


def events_(options: Any, name: str) -> None:
    """events [OPTIONS] NAME: what it uses, as JSON

    --stats          once
    --interval TIME  between two of them (5s)
    """
    known = wanted(options, name, "created", "running", "paused")
    while True:
        print(json.dumps({"type": "stats", "id": name, "data": _used(known)}), flush=True)
        if options.stats or known_of(options, name)["status"] == "stopped":
            return
        time.sleep(float(options.interval.rstrip("s") or 5))


def _used(known: Json) -> Json:
    groups = Groups(known["cgroup"], {}).places()
    figures = SimpleNamespace(**vars(Statistics(groups)))  # type: ignore[arg-type]
    memory = {"usage": {"usage": figures.memory_bytes or 0, "max": figures.memory_peak_bytes or 0}}
    seconds = figures.cpu_seconds or 0
    return {
        "cpu": {
            "usage": {"total": int(seconds * 1e9)},
            "throttling": {"throttledPeriods": figures.throttled_periods or 0},
        },
        "memory": memory,
        "pids": {"current": figures.pids or 0},
    }


def features_(options: Any) -> None:
    """features: what this runtime knows, as JSON"""
    from minidocker.oci.root import known_options
    from minidocker.security.bpf import ACTIONS, OPERATORS
    from minidocker.security.capabilities import NAMES

    linux = {
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
        "capabilities": [f"CAP_{name}" for name in NAMES],
        "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
        "seccomp": {"enabled": True, "actions": [*ACTIONS], "operators": [*OPERATORS]},
        "apparmor": {"enabled": True},
        "selinux": {"enabled": False},
        "intelRdt": {"enabled": False},
        "mountExtensions": {"idmap": {"enabled": True}},
    }
    moments = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    found = {"ociVersionMin": "1.0.0", "ociVersionMax": oci.VERSION, "hooks": moments, "mountOptions": known_options()}
    print(json.dumps(found | {"linux": linux}, indent=2))


def spec_(options: Any) -> None:
    """spec [OPTIONS]: write a config.json to begin with

    -b, --bundle DIRECTORY   where (here)
    """
    path = os.path.join(options.bundle, "config.json")
    if os.path.exists(path):
        raise ContainerError(f"{path} exists: remove it first")
    from minidocker.oci.root import example

    with open(path, "w") as file:
        json.dump(example(), file, indent=1)

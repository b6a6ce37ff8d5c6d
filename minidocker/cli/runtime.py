"""Chapter 11: `minidocker runtime`, with runc's verbs and flags: for podman --runtime, dockerd --add-runtime, ctr.

    minidocker runtime create --bundle DIRECTORY NAME      # its process exists, and waits
    minidocker runtime start NAME                          # it executes the command
    minidocker runtime delete NAME

minidocker-runtime is the same as a program.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from minidocker import cli, oci, state
from minidocker.cgroups import Statistics
from minidocker.cgroups.hierarchy import freeze
from minidocker.cli import Options, parse
from minidocker.oci import root, verbs
from minidocker.oci.groups import Groups
from minidocker.oci.verbs import known
from minidocker.outcome import ContainerError
from minidocker.security.bpf import ACTIONS, OPERATORS
from minidocker.security.capabilities import NAMES
from minidocker.trees import remove

Json = dict[str, Any]
ROOT = "/run/minidocker-runtime"
FLAGS = {  # of update: the name in linux.resources
    "memory": "memory limit", "memory-reservation": "memory reservation", "memory-swap": "memory swap",
    "cpu-period": "cpu period", "cpu-quota": "cpu quota", "cpu-burst": "cpu burst", "cpu-share": "cpu shares",
    "cpu-rt-period": "cpu realtimePeriod", "cpu-rt-runtime": "cpu realtimeRuntime", "cpu-idle": "cpu idle",
    "cpuset-cpus": "cpu cpus", "cpuset-mems": "cpu mems", "pids-limit": "pids limit", "blkio-weight": "blockIO weight",
}  # fmt: skip
BEGIN = """
    --pid-file FILE           write the number of its process there
    --console-socket SOCKET   send the terminal there
    --preserve-fds N          descriptors that it inherits, from 3 on
"""
CREATE = f"""
    -b, --bundle DIRECTORY    where config.json is (here)
    --no-pivot                change the root without pivot_root(2)
    --no-new-keyring          accepted, and without effect
    --no-subreaper            accepted, and without effect
{BEGIN}"""
MORE = {"create": CREATE, "run": CREATE, "exec": BEGIN, "update": "\n".join(f"    --{flag} VALUE" for flag in FLAGS)}


def command() -> None:
    """The program: minidocker-runtime create is minidocker runtime create."""
    sys.argv.insert(1, "runtime")
    cli.command()


def runtime(options: Options, *words: str) -> int:
    """runtime [OPTIONS] [COMMAND...]: an OCI runtime: create, start, state, kill, delete, run, exec, list, ps, ...

    --root DIRECTORY      where the containers are known (/run/minidocker-runtime)
    --log FILE            write errors there, too
    --log-format FORMAT   text, or json
    --debug               accepted, and without effect
    --rootless MODE       accepted, and without effect
    --systemd-cgroup      refused: groups are directories here
    -v, --version         of this program, and of the specification
    """
    if options.version:
        print(f"minidocker-runtime version 0.1.0\nspec: {oci.VERSION}")
        return 0
    try:
        if options.systemd_cgroup:
            raise ContainerError("--systemd-cgroup: there is no systemd here: use the driver cgroupfs")
        function = VERBS.get(words[0] if words else "")
        if function is None:
            raise ContainerError(f"runtime: the verb is missing, or is none of {', '.join(VERBS)}")
        chosen, others = parse(f"{function.__doc__}{MORE.get(words[0], '')}", [*words[1:]])
        chosen["root"] = options.root or ROOT
        for path in chosen.keys() & {"root", "pid-file", "console-socket"}:
            chosen[path] = os.path.abspath(chosen[path]) if chosen[path] else ""
        return function(chosen, *others) or 0
    except (ContainerError, OSError) as failure:
        if options.log:
            _log(options, str(failure))
        raise


def _log(options: Options, text: str) -> None:
    """Who called us reads the last line of it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"level": "error", "msg": text, "time": now})
    with contextlib.suppress(OSError), open(options.log, "a") as file:
        print(line if options.log_format == "json" else f"{now} error {text}", file=file)


def _create(options: Options, name: str) -> None:
    """create [OPTIONS] NAME: make a container; its process waits until start"""
    verbs.create(options, name)
    verbs.let_go()


def _start(options: Options, name: str) -> None:
    """start NAME: execute the command of a created container"""
    verbs.begin(known(options.root, name, "created"))


def _run(options: Options, name: str) -> int:
    """run [OPTIONS] NAME: create, start, wait for its end, and delete

    -d, --detach              do not wait
    --keep                    do not delete
    """
    process, container = verbs.create(options, name)
    verbs.forward(process)
    try:
        verbs.begin(container)
    except BaseException:
        verbs.end(container)
        raise
    if options.detach:
        verbs.let_go()
        return 0
    code = verbs.waited(process)
    if not options.keep:
        verbs.end(container | {"pid": 0})
    return code


def _state(options: Options, name: str) -> None:
    """state NAME: print what is known of a container, as JSON"""
    container = known(options.root, name)
    rootfs = os.path.join(container["bundle"], container["config"]["root"]["path"])
    print(json.dumps(oci.public(container) | {"rootfs": rootfs, "created": container["created"]}, indent=2))


def _kill(options: Options, name: str, number: str = "TERM") -> None:
    """kill [OPTIONS] NAME [SIGNAL]: send a signal to its first process (SIGTERM)

    -a, --all   to all of its processes
    """
    container, word = known(options.root, name), f"SIG{number.upper().removeprefix('SIG')}"
    sent = int(number) if number.isdecimal() else getattr(signal, word, 0)
    if not 0 < sent < signal.NSIG:
        raise ContainerError(f"kill: {number} is no signal: see kill -l")
    if container["status"] == "stopped" and not options.all:
        raise ContainerError(f"container {name} is stopped: container not running")
    verbs.kill(container, verbs.pids(container) if options.all else [container["pid"]], sent)


def _delete(options: Options, name: str) -> None:
    """delete [OPTIONS] NAME: remove what is left of a stopped container

    -f, --force   kill it first; one that does not exist is no error
    """
    place = state.directory(name, options.root)
    if os.path.exists(f"{place}/state.json") or not options.force:
        verbs.end(known(options.root, name, *[] if options.force else ["stopped"]))
    elif os.path.isdir(place):
        remove(place)


def _exec(options: Options, name: str, *words: str) -> int:
    """exec [OPTIONS] NAME [COMMAND...]: one more process in a container

    -p, --process FILE        what it is, as config.json has it
    -d, --detach              do not wait
    -t, --tty                 with a terminal
    --cwd DIRECTORY           its working directory
    -e, --env NAME=VALUE...   more of its environment
    -u, --user UID[:GID]      who it is
    -g, --additional-gids N...   its further groups
    -c, --cap NAME...         more rights
    --no-new-privs            it cannot get more rights
    --apparmor PROFILE        its profile
    --ignore-paused           wait in a paused container
    """
    container = known(options.root, name, "created", "running", *["paused"] * options.ignore_paused)
    new = verbs.execute(options, container, _process(options, container["config"]["process"], [*words]))
    if options.detach:
        verbs.let_go()
        return 0
    verbs.forward(new)
    return verbs.waited(new)


def _process(options: Options, own: Json, words: list[str]) -> Json:
    """From a file, or the container's own process with changes."""
    user = own.get("user") or {}
    if options.user:
        user = dict(zip(("uid", "gid"), map(int, options.user.split(":")), strict=False))
    if options.additional_gids:
        user = user | {"additionalGids": [int(number) for number in options.additional_gids]}
    found = own | {"args": words, "user": user, "terminal": options.tty, "cwd": options.cwd or own["cwd"]}
    found["env"] = [*own.get("env", ()), *options.env]
    if options.process:
        with open(options.process) as file:
            found = json.load(file)
    if not found.get("args"):
        raise ContainerError("exec: the command is missing")
    sets = found.get("capabilities") or {}
    if options.cap:
        more = {name: [*sets.get(name, ()), *map(str.upper, options.cap)] for name in oci.SETS[:3]}
        found["capabilities"] = sets | more
    found["noNewPrivileges"] = found.get("noNewPrivileges") or options.no_new_privs
    return found | ({"apparmorProfile": options.apparmor} if options.apparmor else {})


def _list(options: Options) -> None:
    """list [OPTIONS]: all containers below the root

    -f, --format FORMAT   table, or json
    -q, --quiet           names only
    """
    names = [os.path.basename(path) for path in state.directories(options.root)]
    found = [known(options.root, name) for name in names if os.path.exists(f"{options.root}/{name}/state.json")]
    if options.format == "json":
        print(json.dumps([oci.public(one) | {"created": one["created"], "owner": "root"} for one in found]))
        return
    rows = [[one[key] for key in ("id", "pid", "status", "bundle", "created")] for one in found]
    for row in rows if options.quiet else [["ID", "PID", "STATUS", "BUNDLE", "CREATED"], *rows]:
        print(row[0] if options.quiet else "   ".join(f"{word!s:10}" for word in row).rstrip())


def _ps(options: Options, name: str, *words: str) -> None:
    """ps [OPTIONS] NAME [COMMAND...]: its processes, as ps(1) shows them

    -f, --format FORMAT   table, or json: their numbers
    """
    pids = verbs.pids(known(options.root, name))
    if options.format == "json":
        print(json.dumps(pids))
        return
    lines = subprocess.run(["ps", *(words or ["-ef"])], capture_output=True, text=True, check=True).stdout.splitlines()
    column = lines[0].split().index("PID")
    print(lines[0], *(line for line in lines[1:] if int(line.split()[column]) in pids), sep="\n")


def _pause(options: Options, name: str) -> None:
    """pause NAME: stop all of its processes where they are"""
    if not freeze(verbs.freezer(known(options.root, name, "running", "created")), True):
        raise ContainerError(f"pause: container {name}: a process of it has not stopped")


def _resume(options: Options, name: str) -> None:
    """resume NAME: let them go on"""
    freeze(verbs.freezer(known(options.root, name, "paused")), False)


def _update(options: Options, name: str) -> None:
    """update [OPTIONS] NAME: change the limits of a container

    -r, --resources FILE     as linux.resources has them; - is standard input
    """
    container, asked = known(options.root, name, "created", "running", "paused"), dict[str, Json]()
    if options.resources:
        with open(0 if options.resources == "-" else options.resources) as file:
            asked = json.load(file)
    for flag, value in ((flag, options[flag]) for flag in FLAGS if options[flag]):
        part, key = FLAGS[flag].split()
        asked.setdefault(part, {})[key] = value if flag.startswith("cpuset") else int(value)
    own = container["config"]["linux"].setdefault("resources", {})
    for part in asked.keys() - {"devices"}:
        if isinstance(asked[part], dict):  # what is not said stays as it is
            asked[part] = (own.get(part) or {}) | {key: value for key, value in asked[part].items() if value}
    Groups(container["cgroup"], asked, made=True).limit()
    own |= asked
    oci.save(container)


def _events(options: Options, name: str) -> None:
    """events [OPTIONS] NAME: what it uses, as JSON

    --stats          once
    --interval TIME  between two of them (5s)
    """
    while True:
        container = known(options.root, name, "created", "running", "paused")
        figures: Any = Statistics(Groups(container["cgroup"], {}).places())  # type: ignore[arg-type]
        memory = {"usage": figures.memory_bytes or 0, "max": figures.memory_peak_bytes or 0}
        used: Json = {"cpu": {"usage": {"total": int((figures.cpu_seconds or 0) * 1e9)}}, "memory": {"usage": memory}}
        print(
            json.dumps({"type": "stats", "id": name, "data": used | {"pids": {"current": figures.pids or 0}}}),
            flush=True,
        )
        if options.stats:
            return
        time.sleep(float((options.interval or "5s").rstrip("s")))


def _features(options: Options) -> None:
    """features: what this runtime knows, as JSON"""
    moments = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    linux: Json = {"namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]}
    linux |= {"capabilities": [f"CAP_{name}" for name in NAMES], "selinux": {"enabled": False}}
    linux |= {"cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False}, "apparmor": {"enabled": True}}
    linux |= {"seccomp": {"enabled": True, "actions": [*ACTIONS], "operators": [*OPERATORS]}}
    versions = {"ociVersionMin": "1.0.0", "ociVersionMax": oci.VERSION}
    print(json.dumps(versions | {"hooks": moments, "mountOptions": root.ALL, "linux": linux}, indent=2))


def _spec(options: Options) -> None:
    """spec [OPTIONS]: write a config.json to begin with

    -b, --bundle DIRECTORY   where (here)
    """
    with open(os.path.join(options.bundle, "config.json"), "x") as file:
        json.dump(root.example(), file, indent=1)


VERBS = {
    "create": _create, "start": _start, "state": _state, "kill": _kill, "delete": _delete, "run": _run, "exec": _exec,
    "list": _list, "ps": _ps, "pause": _pause, "resume": _resume, "update": _update, "events": _events,
    "features": _features, "spec": _spec,
}  # type: dict[str, Any]  # fmt: skip

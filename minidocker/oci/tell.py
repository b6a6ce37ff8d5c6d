"""Chapter 11: what a runtime tells of its containers, and of itself; and new limits."""

from __future__ import annotations

import json
import os
import subprocess
import time

from minidocker import oci, state
from minidocker.cgroups import Statistics
from minidocker.oci import Json, known
from minidocker.oci.groups import Groups
from minidocker.oci.root import ALL, example
from minidocker.security.bpf import ACTIONS, OPERATORS
from minidocker.security.capabilities import NAMES
from minidocker.syscalls import Any

FLAGS = {  # of update: the name in linux.resources
    "memory": "memory limit", "memory-reservation": "memory reservation", "memory-swap": "memory swap",
    "cpu-period": "cpu period", "cpu-quota": "cpu quota", "cpu-burst": "cpu burst", "cpu-share": "cpu shares",
    "cpu-rt-period": "cpu realtimePeriod", "cpu-rt-runtime": "cpu realtimeRuntime", "cpu-idle": "cpu idle",
    "cpuset-cpus": "cpu cpus", "cpuset-mems": "cpu mems", "pids-limit": "pids limit", "blkio-weight": "blockIO weight",
}  # fmt: skip


def state_(options: Any, name: str) -> None:
    """state NAME: print what is known of a container, as JSON"""
    container = known(options.root, name)
    rootfs = os.path.join(container["bundle"], container["config"]["root"]["path"])
    print(json.dumps(oci.public(container) | {"rootfs": rootfs, "created": container["created"]}, indent=2))


def list_(options: Any) -> None:
    """list [OPTIONS]: all containers below the root

    -f, --format FORMAT   table, or json
    -q, --quiet           names only
    """
    names = [os.path.basename(path) for path in state.directories(options.root)]
    found = [known(options.root, name) for name in names if os.path.exists(f"{options.root}/{name}/state")]
    if options.format == "json":
        print(json.dumps([oci.public(one) | {"created": one["created"], "owner": "root"} for one in found]))
        return
    rows = [[one[key] for key in ("id", "pid", "status", "bundle", "created")] for one in found]
    for row in rows if options.quiet else [["ID", "PID", "STATUS", "BUNDLE", "CREATED"], *rows]:
        print(row[0] if options.quiet else "   ".join(f"{word!s:10}" for word in row).rstrip())


def ps_(options: Any, name: str, *words: str) -> None:
    """ps [OPTIONS] NAME [COMMAND...]: its processes, as ps(1) shows them

    -f, --format FORMAT   table, or json: their numbers
    """
    pids = oci.pids(known(options.root, name))
    if options.format == "json":
        print(json.dumps(pids))
        return
    lines = subprocess.run(["ps", *(words or ["-ef"])], capture_output=True, text=True, check=True).stdout.splitlines()
    column = lines[0].split().index("PID")
    print(lines[0], *(line for line in lines[1:] if int(line.split()[column]) in pids), sep="\n")


def update_(options: Any, name: str) -> None:
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
    linux = container["config"]["linux"]
    own = linux["resources"] = linux.get("resources") or {}
    for part in asked.keys() - {"devices"}:
        if isinstance(asked[part], dict):  # what is not said stays as it is
            asked[part] = (own.get(part) or {}) | {key: value for key, value in asked[part].items() if value}
    Groups(container["cgroup"], asked, made=container["pid"]).limit()
    own |= asked
    oci.save(container)


def events_(options: Any, name: str) -> None:
    """events [OPTIONS] NAME: what it uses, as JSON

    --stats          once
    --interval TIME  between two of them (5s)
    """
    while True:
        container = known(options.root, name, "created", "running", "paused")
        figures: Any = Statistics(Groups(container["cgroup"], {}).places())  # type: ignore[arg-type]
        used: Json = {"cpu": {"usage": {"total": int((figures.cpu_seconds or 0) * 1e9)}}}
        used["memory"] = {"usage": {"usage": figures.memory_bytes or 0, "max": figures.memory_peak_bytes or 0}}
        used["pids"] = {"current": figures.pids or 0}
        print(json.dumps({"type": "stats", "id": name, "data": used}), flush=True)
        if options.stats:
            return
        time.sleep(float((options.interval or "5s").rstrip("s")))


def features_(options: Any) -> None:
    """features: what this runtime knows, as JSON"""
    moments = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    linux: Json = {"namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]}
    linux |= {"capabilities": [f"CAP_{name}" for name in NAMES], "selinux": {"enabled": False}}
    linux |= {"cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False}, "apparmor": {"enabled": True}}
    linux |= {"seccomp": {"enabled": True, "actions": [*ACTIONS], "operators": [*OPERATORS]}}
    versions = {"ociVersionMin": "1.0.0", "ociVersionMax": oci.VERSION}
    print(json.dumps(versions | {"hooks": moments, "mountOptions": ALL, "linux": linux}, indent=2))


def spec_(options: Any) -> None:
    """spec [OPTIONS]: write a config.json to begin with

    -b, --bundle DIRECTORY   where (here)
    """
    with open(os.path.join(options.bundle, "config.json"), "x") as file:
        json.dump(example(), file, indent=1)


update_.__doc__ = f"{update_.__doc__}{''.join(f'--{flag} VALUE' + chr(10) for flag in FLAGS)}"

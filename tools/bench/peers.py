"""The other runtimes of `make bench`: each is one command that runs `echo up`.

with lab() as scratch, peers(scratch) as commands:     # {"crun": ["crun", ...], ...}, those that are installed
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from minidocker.security import capabilities
from minidocker.security.paths import MASKED, READ_ONLY
from minidocker.security.seccomp import HERE
from tools.bench.engines import docker, podman
from tools.bench.measure import Missing, lose
from tools.bench.sandbox import COMMAND, CPUS, GROUP, MEMORY, PATH, PIDS, ROOT, checked

WALLS = " walls"  # the end of the names of those whose bundle has the walls of Docker's default
DEFAULT_PROFILE = f"{HERE}/seccomp.json"
MOUNTS = (
    ("/proc", "proc", "proc", "nosuid", "nodev", "noexec"),
    ("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755", "size=64k"),
    ("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid", "nodev", "noexec", "mode=1777", "size=64m"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid", "nodev", "noexec"),
    ("/sys", "sysfs", "sysfs", "nosuid", "nodev", "noexec", "ro"),
)


def bundle(group: str) -> dict[str, Any]:
    """The config.json of an OCI bundle that asks for what our own list asks for, and so for no capabilities."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": COMMAND, "cwd": "/", "env": [f"PATH={PATH}"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(ROOT)},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network", "cgroup")],
            "cgroupsPath": f"/{GROUP}-{group}",
            "resources": {
                "memory": {"limit": MEMORY},
                "cpu": {"quota": 100_000 * CPUS, "period": 100_000},
                "pids": {"limit": PIDS},
            },
        },
    }


def walled(settings: dict[str, Any]) -> dict[str, Any]:
    """The same with the walls of Docker's default, which are those of `minidocker run`: mounts, devices, capabilities,
    the filter of system calls (its rules for these capabilities), masked and read-only paths."""
    kept, profile = [f"CAP_{name}" for name in capabilities.DEFAULT], json.loads(Path(DEFAULT_PROFILE).read_text())
    names = ("destination", "type", "source", "options")
    settings["mounts"] = [dict(zip(names, (*mount[:3], list(mount[3:])), strict=True)) for mount in MOUNTS]
    sets = dict.fromkeys(("bounding", "effective", "permitted"), kept)
    settings["process"] |= {"capabilities": sets, "noNewPrivileges": False}
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if key in rule}
        for rule in profile["syscalls"]
        if {*rule.get("includes", {}).get("caps", ())} <= {*kept}
        and arch in rule.get("includes", {}).get("arches", [arch])
    ]
    seccomp = {"architectures": [f"SCMP_ARCH_{os.uname().machine.upper()}"], "syscalls": rules}
    seccomp |= {key: profile[key] for key in ("defaultAction", "defaultErrnoRet")}
    settings["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    settings["linux"] |= {"seccomp": seccomp, "maskedPaths": list(MASKED), "readonlyPaths": list(READ_ONLY)}
    return settings


def oci(scratch: Path, name: str, number: int = 0, walls: bool = False) -> list[str]:
    """crun or runc, with a bundle and a name of its own. One of many has a /dev, too: runc makes nodes in there."""
    folder = scratch / f"{name}-{'walls' if walls else number}"
    folder.mkdir()
    settings = walled(bundle(folder.name)) if walls else bundle(folder.name)
    if number:
        settings["mounts"].append({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]})
    (folder / "config.json").write_text(json.dumps(settings))
    return [name, "--root", str(scratch / f"state-{name}"), "run", "--bundle", str(folder), f"bench-{folder.name}"]


def unshare(scratch: Path) -> list[str]:
    """util-linux's: namespaces and a root, no limits and no pivot."""
    walls = ["--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup"]
    return ["unshare", *walls, f"--root={ROOT}", "--mount-proc=/proc", *COMMAND]


def bwrap(scratch: Path) -> list[str]:
    """bubblewrap: namespaces and a root of its own; no limits."""
    walls = [f"--unshare-{kind}" for kind in ("pid", "uts", "ipc", "net", "cgroup")]
    return ["bwrap", *walls, "--bind", str(ROOT), "/", "--proc", "/proc", *COMMAND]


def lxc(scratch: Path) -> list[str]:
    """lxc-start in the foreground: the command is the container's first process."""
    folder = scratch / "lxc/box"
    folder.mkdir(parents=True)
    settings = {
        "rootfs.path": f"dir:{ROOT}",
        "uts.name": "box",
        "net.0.type": "empty",
        "mount.auto": "proc:rw",
        "autodev": 0,
        "tty.max": 0,
        "pty.max": 0,
        "console.path": "none",
        "init.cmd": " ".join(["/bin/" + COMMAND[0], *COMMAND[1:]]),
        "cgroup.dir": f"{GROUP}-lxc",
        "cgroup.memory.limit_in_bytes": MEMORY,
        "cgroup.cpu.cfs_quota_us": 100_000 * CPUS,
        "cgroup.pids.max": PIDS,
        "cgroup2.memory.max": MEMORY,
        "cgroup2.cpu.max": f"{100_000 * CPUS} 100000",
        "cgroup2.pids.max": PIDS,
    }
    (folder / "config").write_text("".join(f"lxc.{key} = {value}\n" for key, value in settings.items()))
    return ["lxc-start", "-P", str(folder.parent), "-n", "box", "-F"]


def nspawn(scratch: Path) -> list[str]:
    """systemd-nspawn without a word to systemd, which need not run; no limits."""
    walls = ["--register=no", "--keep-unit", "--private-network", "--console=pipe", "-q"]
    return ["systemd-nspawn", *walls, "-D", str(ROOT), *COMMAND]


# name: (the program that must be installed, how to make the command)
RUNTIMES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "crun": ("crun", lambda scratch: oci(scratch, "crun")),
    "runc": ("runc", lambda scratch: oci(scratch, "runc")),
    f"crun{WALLS}": ("crun", lambda scratch: oci(scratch, "crun", walls=True)),
    f"runc{WALLS}": ("runc", lambda scratch: oci(scratch, "runc", walls=True)),
    "unshare": ("unshare", unshare),
    "bwrap": ("bwrap", bwrap),
    "lxc": ("lxc-start", lxc),
    "nspawn": ("systemd-nspawn", nspawn),
    "podman": ("podman", podman),
    "docker": ("dockerd", docker),
}


@contextmanager
def peers(scratch: Path, names: tuple[str, ...] = tuple(RUNTIMES)) -> Iterator[dict[str, list[str]]]:
    """The commands of those that are installed and work. Of the others it is said that, and why, there is no figure."""
    commands = {}
    with ExitStack() as stack:
        for name in names:
            program, make = RUNTIMES[name]
            try:
                if not shutil.which(program, path=PATH):
                    raise Missing("it is not installed (make run installs the peers that Debian has)")
                made = make(scratch)
                commands[name] = made if isinstance(made, list) else stack.enter_context(made)
                works(commands[name])
            except (Missing, OSError, subprocess.TimeoutExpired) as reason:
                commands.pop(name, None)
                lose(name, reason)
        commands["process"] = [str(ROOT / "bin/busybox"), *COMMAND]
        yield commands


def works(argv: list[str]) -> None:
    """Try it once, before the rounds begin."""
    if "up" not in checked(argv).split():
        raise Missing("it did not say up")


def versions(commands: dict[str, list[str]]) -> dict[str, str]:
    """What they say they are."""
    answers = {}
    for name in [name for name in commands if name in RUNTIMES and not name.endswith(WALLS)]:
        program = RUNTIMES[name][0]
        answer = checked([program, "--version"])
        words = [word.strip(",") for word in answer.splitlines()[0].split()] if answer else ["?"]
        answers[name] = next((word for word in words if word[0].isdigit()), words[-1])
    return answers

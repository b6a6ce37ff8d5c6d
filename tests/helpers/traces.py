"""Everything that a container could leave on this machine: `nothing_left` in conftest compares it before and after."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import HOME, REPO

# Made at first use, to stay; the last is podman's.
STATE = ("containers", "merged", "build", "tmp", "ready", "network", "volumes", "libpod_lock")
STATE += ("records", "names", "uses", "events")  # chapter 10


def traces():
    """Everything that a container could leave on this machine, one line of text each."""
    kinds = {
        "mount": Path("/proc/self/mountinfo").read_text().splitlines(),
        "cgroup": cgroups(),
        "network link": (name for _, name in socket.if_nameindex()),
        "firewall": firewall(),
        "process": descendants(os.getpid()),
        "descriptor": descriptors(),
        "union server": servers(),
        "directory without an owner": ownerless(),
        "monitor": monitors(),
        "record": (str(path) for kind in ("records", "names", "uses") for path in (HOME / kind).glob("*")),
        "this process:": (f"{name} {os.readlink(f'/proc/self/{name}')}" for name in ("root", "cwd", *namespaces())),
        "file": files(),
    }
    return {f"{kind} {text}" for kind, texts in kinds.items() for text in texts}


def cgroups():
    """The cgroups of containers: what lies below a directory `minidocker` or is named minidocker-something."""
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name.startswith("minidocker-") or "/minidocker" in directory:
                yield f"{directory}/{name}"


def firewall():
    """The tables of nft."""
    if not shutil.which("nft"):
        return []
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines()


def descendants(pid):
    """Children, and theirs: "pid command line"; but not launcher and watcher, which live as long as their caller."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in read(children).split():
            if read(Path(f"/proc/{child}/comm")) == "watcher\n":
                continue
            command = read(Path(f"/proc/{child}/cmdline")).replace("\0", " ")
            if "minidocker.launcher" not in command:
                yield f"{child} {command or read(Path(f'/proc/{child}/stat'))[:40]}"
            yield from descendants(child)


def servers():
    """Those of the driver aufs that this clone started, also if their owner is dead: they end with their mount."""
    for pid in filter(str.isdigit, os.listdir("/proc")):  # glob looks into each, and one may end meanwhile
        command = read(Path(f"/proc/{pid}/cmdline"))
        if "aufs.server" in command and str(REPO) in command:
            yield f"{pid} {command}"


def monitors():
    """Those of containers that stay, whose parent ended long ago; this clone's, by the environment."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if read(Path(f"/proc/{pid}/comm")) == "monitor\n" and str(REPO) in read(Path(f"/proc/{pid}/environ")):
            yield f"{pid} {read(Path(f'/proc/{pid}/cmdline'))}".replace("\0", " ")


def ownerless():
    """Directories of containers that nobody has locked: what `minidocker prune` would remove. proc(5), /proc/locks."""
    locked = {line.split()[5].rpartition(":")[2] for line in read(Path("/proc/locks")).splitlines() if "FLOCK" in line}
    for path in (HOME / "containers").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if str(path.stat().st_ino) not in locked:
                yield path.name


def read(path):
    """Its text, or nothing if it is gone meanwhile."""
    try:
        return path.read_text(errors="replace")  # a command line may be any bytes
    except OSError:
        return ""


def descriptors():
    """Open descriptors of this process, but not those with which it talks to its launcher and its watcher."""
    launcher, child = (sys.modules.get(f"minidocker.{name}") for name in ("launcher", "child"))
    own = {launcher and launcher._Caller.socket, child and child._watchers.get(os.getpid())}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the directory that listdir had open
        if int(number) not in own:
            yield f"{number} {target}"


def namespaces():
    """The names of this process's own namespaces."""
    return (f"ns/{name}" for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children"))


def files():
    """Directories that an engine writes to: its state, /tmp and shared memory, the top of the roots."""
    temporary = Path(tempfile.gettempdir())
    yield from (str(path) for path in temporary.iterdir() if "minidocker" in path.name)
    for directory in (
        Path("/dev/shm"),
        Path("/run/minidocker"),
        HOME,
        *HOME.glob("roots/*"),
        *HOME.glob("roots/*/tmp"),
    ):
        if directory.is_dir():
            yield from (str(path) for path in directory.iterdir() if path.name not in STATE)

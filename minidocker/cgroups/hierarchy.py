"""Chapter 3: where the control groups of this machine are, and one directory in one of them.

Control groups are directories of a file system, cgroups(7). Version 2 has one hierarchy (a tree of directories) with
all controllers; version 1 has one for each controller, or a few. A machine may mount both, and a controller is in one
of them. Version 2 freezes and kills with or without controllers: where it is mounted, it is used for these.
"""

from __future__ import annotations

import errno
import os
import time

from minidocker import state
from minidocker.outcome import failure
from minidocker.syscalls import signal

PARENT = "minidocker"  # all our groups are children of this one
PATIENCE = 5.0  # seconds for killed processes to leave: an uninterruptible read from a disk may take some
# Where to write that the processes of a group are to stop, what, where it shows, and what is there then: version 2, 1
FREEZERS = (
    ("cgroup.freeze", ("0", "1"), "cgroup.events", ("frozen 0", "frozen 1")),
    ("freezer.state", ("THAWED", "FROZEN"), "freezer.state", ("THAWED", "FROZEN")),
)

_found: list[Hierarchy] | None = None


class Hierarchy:
    """A mounted tree of control groups: its `version`, its `path`, and the `controllers` that are in it."""

    def __init__(self, version: int, path: str, controllers: set[str]) -> None:
        self.version, self.path, self.controllers = version, path, controllers
        self.parent = f"{path}/{PARENT}"

    def make(self, path: str, _: int) -> None:
        """mkdir(2) of a container's group. In version 2 its parents, which may hold no process, pass controllers on."""
        wanted = self.controllers & {"cpu", "memory", "pids", "io"} if self.version == 2 else set()
        for group in (self.path, self.parent) if wanted else ():
            file = f"{group}/cgroup.subtree_control"
            if not wanted <= {*read(file).split()}:
                write(file, " ".join(f"+{name}" for name in sorted(wanted)))
        os.mkdir(path)


def hierarchies() -> list[Hierarchy]:
    """Those of this machine, with the one that freezes in front. Read once: mounts of these outlive processes."""
    global _found
    if _found is None:
        _found = parse(read("/proc/self/mountinfo"))
    return _found


def parse(mountinfo: str) -> list[Hierarchy]:
    """From the text of /proc/PID/mountinfo, proc(5): the mount point is field 5; type and options follow " - "."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        place, _, rest = line.partition(" - ")
        path, (kind, _, options) = place.split()[4], rest.split(" ", 2)
        if kind == "cgroup2" and kind not in found:
            found[kind] = Hierarchy(2, path, {*read(f"{path}/cgroup.controllers").split(), "freezer"})
        elif kind == "cgroup" and options not in found:
            found[options] = Hierarchy(1, path, {*options.split(",")} - {"rw", "ro"})
    return sorted(found.values(), key=lambda hierarchy: ("freezer" not in hierarchy.controllers, -hierarchy.version))


def read(path: str) -> str:
    """The whole text of a small file of the kernel; empty if there is no such file, as some depend on its version."""
    try:
        with open(path, "rb", 0) as file:
            return file.read().decode()
    except OSError as gone:
        if gone.errno not in (errno.ENOENT, errno.ENODEV):  # the latter if its group goes meanwhile
            raise
        return ""


def write(path: str, text: str) -> None:
    """One write(2): it takes effect, or the error names the file. No limit is silently off."""
    try:
        with open(os.open(path, os.O_WRONLY), "wb", 0) as file:
            os.write(file.fileno(), text.encode())
    except OSError as refused:
        why = str(refused.strerror).lower()
        if refused.errno == errno.EBUSY and path.endswith("subtree_control"):
            why = "an inner group may hold no process, and this one does: move them to a group below it"
        raise failure("Cgroup", f"write {text!r}", refused.errno, path, why) from refused


class Group:
    """The directory of one container in one hierarchy, which its owner holds as long as it lives: see `state`."""

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self.version, self.path = hierarchy.version, state.directory(name, hierarchy.parent)
        self.lock = state.claim(self.path, remove, hierarchy.make)


def kill(path: str) -> None:
    """SIGKILL to all of the group: at once, by a file of Linux 5.14, or while they stand still and cannot fork."""
    if os.path.exists(f"{path}/cgroup.kill"):
        return write(f"{path}/cgroup.kill", "1")
    freeze(path, True)
    for pid in read(f"{path}/cgroup.procs").split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    freeze(path, False)  # what is frozen does not even die


def freeze(path: str, frozen: bool) -> bool:
    """Stop all processes of a group, or let them go on; say whether they do."""
    for file, texts, shows, done in FREEZERS:
        if os.path.exists(f"{path}/{file}"):
            write(f"{path}/{file}", texts[frozen])
            deadline = time.monotonic() + PATIENCE
            while not (reached := done[frozen] in read(f"{path}/{shows}")) and time.monotonic() < deadline:
                time.sleep(0.001)
            return reached
    return False  # version 1, and another controller


def frozen(path: str) -> bool:
    """Whether all processes of a group stand still."""
    return any(done[True] in read(f"{path}/{shows}") for _, _, shows, done in FREEZERS)


def remove(path: str) -> None:
    """rmdir(2), which fails with EBUSY while there are processes: end those, and wait for them to leave."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as busy:
            if busy.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        for child in [entry.path for entry in os.scandir(path) if entry.is_dir()]:
            remove(child)  # made inside, by a container that may write here
        kill(path)
        time.sleep(0.002)


def prune() -> list[str]:
    """Remove the groups that dead owners left, with all processes in them; return their paths. As root.

    Groups of living owners stay, and so does every group that is not below ours.
    """
    parents = [hierarchy.parent for hierarchy in hierarchies()]
    try:
        return state.prune(*parents, remove=remove) if parents else []
    finally:
        for parent in parents:
            try:
                os.rmdir(parent)
            except OSError:
                pass  # a living owner's group is in there, or nobody was here

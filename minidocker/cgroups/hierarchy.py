"""Chapter 3: where the control groups of this machine are, and one directory in one of them.

Control groups are directories of a file system, cgroups(7). There are two versions of it, and a machine may mount both:

    version 2    one hierarchy (a tree of directories) with all controllers; what a directory's children may use
                 is written to its cgroup.subtree_control
    version 1    a hierarchy for each controller (or a few): the same tree of directories again and again

A controller is in one hierarchy only. So each is looked up once, wherever it is. Version 2 freezes and kills with or
without controllers, and does it better than version 1; so where it is mounted it is used for these.
"""

from __future__ import annotations

import errno
import os
import time

from minidocker import state
from minidocker.files import NotRemoved
from minidocker.outcome import ContainerError, failure
from minidocker.syscalls import signal

PARENT = "minidocker"  # all our groups are children of this one
PATIENCE = 5.0  # seconds for killed processes to leave: an uninterruptible read from a disk may take some

_found: list[Hierarchy] = []


class Hierarchy:
    """A mounted tree of control groups: its `version`, its `path`, and the `controllers` that are in it."""

    def __init__(self, version: int, path: str, controllers: set[str]) -> None:
        self.version, self.path, self.controllers = version, path, controllers

    def make(self, path: str, _: int) -> None:
        """mkdir(2) of a container's group, with all controllers."""
        if self.version == 2:
            self.enable()
        os.mkdir(path)

    def enable(self) -> None:
        """Version 2: let the children of our parent group use the controllers. Inner groups may hold no process."""
        wanted = self.controllers & {"cpu", "memory", "pids", "io"}
        for group in (self.path, f"{self.path}/{PARENT}") if wanted else ():
            path = f"{group}/cgroup.subtree_control"
            if not wanted <= {*read(path).split()}:
                write(path, " ".join(f"+{name}" for name in sorted(wanted)))


def hierarchies() -> list[Hierarchy]:
    """Those of this machine, with the one that freezes in front. Read once: mounts of these outlive processes."""
    if not _found:
        with open("/proc/self/mountinfo") as file:
            _found.extend(parse(file.read()))
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
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b"")).decode()
    finally:
        os.close(descriptor)


def write(path: str, text: str) -> None:
    """One write(2): it takes effect, or the error names the file. No limit is silently off."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as refused:
        why = str(refused.strerror).lower()
        if refused.errno == errno.EBUSY and path.endswith("subtree_control"):
            why = "an inner group may hold no process, and this one does: move them to a group below it"
        raise failure("Cgroup", f"write {text!r}", refused.errno, path, why) from refused


class Group:
    """The directory of one container in one hierarchy, which its owner holds as long as it lives: see `state`."""

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        if "/" in name or name in (".", ".."):
            raise ContainerError(f"Cgroup: {name!r} cannot be the name of a directory: leave out the /")
        self.version, self.path = hierarchy.version, f"{hierarchy.path}/{PARENT}/{name}"
        self.lock = state.claim(self.path, remove, hierarchy.make)

    def read(self, file: str) -> str:
        """The text of one of its files; empty if the kernel has none of this name."""
        return read(f"{self.path}/{file}")

    def write(self, file: str, text: str) -> None:
        """Set something."""
        write(f"{self.path}/{file}", text)

    def has(self, file: str) -> bool:
        """Whether this kernel has that file."""
        return os.path.exists(f"{self.path}/{file}")

    def remove(self) -> None:
        """End what is in it, and remove it."""
        try:
            remove(self.path)
        finally:
            os.close(self.lock)


def processes(path: str) -> list[int]:
    """The numbers of the processes in a group, as this process sees them."""
    return [int(pid) for pid in read(f"{path}/cgroup.procs").split()]


def kill(path: str) -> None:
    """SIGKILL to all that is in the group. Linux 5.14 has a file for it in version 2.

    Without that one they are frozen first, where this is possible, since a signal to each would lose a race with fork.
    """
    if os.path.exists(f"{path}/cgroup.kill"):
        return write(f"{path}/cgroup.kill", "1")
    freeze(path, True)
    for pid in processes(path):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    freeze(path, False)  # version 1: what is frozen does not even die


def freeze(path: str, frozen: bool) -> bool:
    """Stop all processes of a group, or let them go on; say whether they do. Version 1 has a controller for it."""
    file, shows, text, done = "cgroup.freeze", "cgroup.events", str(int(frozen)), f"frozen {int(frozen)}"
    if os.path.exists(f"{path}/freezer.state"):
        file = shows = "freezer.state"
        text = done = "FROZEN" if frozen else "THAWED"
    elif not os.path.exists(f"{path}/{file}"):
        return False  # version 1, and another controller
    write(f"{path}/{file}", text)
    deadline = time.monotonic() + PATIENCE
    while done not in read(f"{path}/{shows}") and time.monotonic() < deadline:
        time.sleep(0.001)
    return done in read(f"{path}/{shows}")


def remove(path: str) -> None:
    """rmdir(2), which fails with EBUSY while there are processes: end those, and wait for them to leave."""
    deadline, pause = time.monotonic() + PATIENCE, 0.001
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
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def prune() -> list[str]:
    """Remove the groups that dead owners left, with all processes in them; return their paths. As root.

    Groups of living owners stay, and so does every group that is not below ours.
    """
    removed, failures = list[str](), list[Exception]()
    for hierarchy in hierarchies():
        parent = f"{hierarchy.path}/{PARENT}"
        try:
            removed += state.prune(parent, remove)
            os.rmdir(parent)
        except NotRemoved as left:
            removed += left.removed
            failures += left.failures
        except FileNotFoundError:
            pass  # nobody was here, or another prune
        except OSError as busy:
            if busy.errno != errno.EBUSY:
                raise  # a living owner's group is in there: that is no error
    if failures:
        raise NotRemoved(failures, removed)
    return removed

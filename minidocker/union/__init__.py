"""Chapter 4: one file system out of several. The isolator `Union`, which is what its three drivers have in common.

    union = Union(["/layers/app", "/layers/base"])                 # the first is the top one, as in lowerdir=
    run(["sh"], Namespaces("pid mount uts ipc net"), union, PivotRoot(union.root))

The lower directories are only read, by any number of containers at the same time. What the container changes goes to
its own upper directory, which is thrown away with it, or kept if you name one. Drivers: `overlay`, the kernel's
OverlayFS; `aufs`, our own, in Python over FUSE; `copy`, no union at all but a full copy, which is what a VM has.
"""

from __future__ import annotations

import os

from minidocker import state
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.syscalls import CLONE_NEWNS

DRIVERS = {"overlay": "Overlay", "aufs": "Aufs", "copy": "Copy"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Union(Isolator):
    """Show `lowers`, the top one first, below one writable directory, as the directory `root` of the container.

    `upper`: a directory to keep what the container writes; it must exist, and one container uses it at a time. By
    default the container has one of its own, which is removed at its end. `trace`: a file that the driver aufs
    appends to, one line for each lookup, copy-up and whiteout.
    `root` is the same path for all containers: each mounts there in its own mount namespace, so the host sees nothing
    there, and nothing has to be unmounted. Before `PivotRoot(union.root)` in the list.
    """

    clone_flags = CLONE_NEWNS
    needs_root = False

    def __new__(cls, *_: Any, driver: str = "overlay", **__: Any) -> Union:
        """`Union(driver="aufs")` is an `Aufs`: that module is imported only if it is wanted."""
        if cls is Union:
            if driver not in DRIVERS:
                raise ContainerError(f"no union driver is called {driver!r}: there are {' '.join(DRIVERS)}")
            cls = getattr(__import__(f"minidocker.union.{driver}", fromlist=["_"]), DRIVERS[driver])
        return super().__new__(cls)

    def __init__(
        self, lowers: Sequence[str], upper: str | None = None, *, driver: str = "overlay", trace: str | None = None
    ) -> None:
        if isinstance(lowers, str):
            raise ContainerError(f"Union: the lower directories are a list, not {lowers!r}: write [{lowers!r}]")
        self.lowers = [os.path.abspath(lower) for lower in lowers]
        self.kept = os.path.abspath(upper) if upper else None
        self.trace = os.path.abspath(trace) if trace else None
        self.root = os.path.join(state.home(), "merged")
        self._locks: list[int] = []

    def __enter__(self) -> Isolator:
        """Claim the container's directory, and let the driver prepare. Host side, the caller's rights."""
        self._check()
        os.makedirs(self.root, exist_ok=True)
        self.own = state.directory(self.container)
        self._locks = [state.claim(self.own)]
        try:
            self._prepare_upper()
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _check(self) -> None:
        """All directories are there, there is at least one, and the driver can work for this user."""
        name = type(self).__name__
        if self.needs_root and os.geteuid() != 0:
            raise ContainerError(f"{name}: this driver needs root: use the driver overlay", isolator=name)
        for path in [*self.lowers, *([self.kept] if self.kept else [])]:
            if not os.path.isdir(path):
                raise ContainerError(f"{name}: {path} is not a directory", isolator=name, path=path)
        if not self.lowers:
            raise ContainerError(f"{name}: no lower directory: give at least one root file system", isolator=name)

    def _prepare_upper(self) -> None:
        """The writable directory: a new one with the owner and mode of the root it covers, or the kept one, locked."""
        self.upper = self.kept or os.path.join(self.own, "upper")
        if self.kept is None:
            top = os.stat(self.lowers[0])
            os.mkdir(self.upper)
            os.chmod(self.upper, top.st_mode & 0o7777)
            os.chown(self.upper, top.st_uid, top.st_gid) if os.geteuid() == 0 else None
            return
        lock = state.hold(self.kept)
        if lock is None:
            name = type(self).__name__
            raise ContainerError(f"{name}: {self.kept} is in use by another container", isolator=name)
        self._locks.append(lock)

    def prepare(self) -> None:
        """What a driver does on the host before the process exists."""

    def __exit__(self, *_: object) -> None:
        """Remove the container's directory. Its mounts went with its mount namespace."""
        *kept, own = reversed(self._locks)
        for lock in kept:
            os.close(lock)
        state.release(self.own, own)

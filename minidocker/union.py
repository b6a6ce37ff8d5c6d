"""Chapter 4: one file system out of several: OverlayFS, the union of the Linux kernel since 3.18, Docker's `overlay2`.

    union = Union(["/layers/app", "/layers/base"])                 # the first is the top one, as in lowerdir=
    run(["sh"], Namespaces("pid mount uts ipc net"), union, PivotRoot(union.root))

The lower directories are only read, by any number of containers at the same time. What the container changes goes to
its own upper directory, which is thrown away with it, or kept if you name one. Another driver is a class that puts
something else at `root`, such as chapter 4's own AUFS.
"""

from __future__ import annotations

import errno
import os
from _collections_abc import Sequence

from minidocker import state
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError, warn
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import CLONE_NEWNS, mount
from minidocker.trees import remove

INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of <linux/proc_ns.h>
SPECIAL = set(":,\\\"'")  # what separates, quotes or escapes in lowerdir= and between options
# What kernels are built with differs. With these on, an upper directory would not be all that changed: directories that
# were renamed point to where they were, copied-up files have no content yet, and an index beside it joins hard links
DEFAULTS = "redirect_dir=nofollow,index=off,metacopy=off"
UPPER_REMEDY = "the upper directory must be on a file system that can hold one: ext4, xfs, btrfs, tmpfs; not on overlay"


class Union(Isolator):
    """Show `lowers`, the top one first, below one writable directory, as the directory `root` of the container.

    `upper`: a directory to keep what the container writes; it must exist, and one container uses it at a time. By
    default the container has one of its own, which is removed at its end.
    `held`: files and directories that are to stay as long as the container runs, such as the layers of an image.
    `root` is the same path for all containers: each mounts there in its own mount namespace, so the host sees nothing
    there, and nothing has to be unmounted. Before `PivotRoot(union.root)` in the list. Works without root in a user
    namespace, since Linux 5.11.
    """

    clone_flags = CLONE_NEWNS
    work = ""

    def __init__(self, lowers: Sequence[str], upper: str | None = None, held: Sequence[str] = ()) -> None:
        if isinstance(lowers, str):
            raise self._error(f"the lower directories are a list, not {lowers!r}: write [{lowers!r}]")
        self.lowers = [os.path.abspath(lower) for lower in lowers]
        self.kept = os.path.abspath(upper) if upper else None
        self.held, self.root = held, os.path.join(state.home(), "merged")
        self._locks: list[int] = []

    def __enter__(self) -> Isolator:
        """Claim the container's directory, and let the driver prepare. Host side, the caller's rights."""
        os.makedirs(self.root, exist_ok=True)
        self.own = state.directory(self.container)
        self._locks = [state.claim(self.own)]
        try:
            self._check()
            self._prepare_upper()
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _check(self) -> None:
        for path in self.held:
            self._hold(path, "has just been removed: pull or build the image again", exclusive=False, wait=True)
        for path in [*self.lowers, *([self.kept] if self.kept else [])]:
            if not os.path.isdir(path):
                raise self._error(f"{path} is not a directory", path)
        if not self.lowers:
            raise self._error("no lower directory: give at least one root file system")

    def _error(self, text: str, path: str | None = None) -> ContainerError:
        name = type(self).__name__
        return ContainerError(f"{name}: {text}", isolator=name, path=path)

    def _prepare_upper(self) -> None:
        """The writable directory: a new one with the owner and mode of the root it covers, or the kept one, locked."""
        self.upper = self.kept or os.path.join(self.own, "upper")
        if self.kept is None:
            top = os.stat(self.lowers[0])
            os.mkdir(self.upper)
            os.chmod(self.upper, top.st_mode & 0o7777)
            os.chown(self.upper, top.st_uid, top.st_gid) if os.geteuid() == 0 else None
        else:
            self._hold(self.kept, "is in use by another container")

    def _hold(self, path: str, otherwise: str, **how: bool) -> None:
        if (lock := state.hold(path, **how)) is None:
            raise self._error(f"{path} {otherwise}", path)
        self._locks.append(lock)

    def prepare(self) -> None:
        """The work directory, beside the upper one: the kernel copies up into it, and only a whole copy leaves it."""
        self.work = f"{self.upper}.work" if self.kept else os.path.join(self.own, "work")
        os.makedirs(self.work, exist_ok=True)

    def inside(self) -> None:
        """Mount it; needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace.

        Where the options do not fit, or a name has a character that means something there, each directory is opened and
        named by the number of its descriptor.
        """
        make_mounts_private()
        directories = [*self.lowers, self.upper, self.work]
        options, opened = self._options(directories), list[int]()
        if len(options) >= os.sysconf("SC_PAGE_SIZE") or SPECIAL.intersection("".join(directories)):
            os.chdir("/proc/self/fd")  # here an open directory has a name of 1 to 3 digits
            opened = [os.open(path, os.O_PATH) for path in directories]
            options = self._options([str(number) for number in opened])
        try:
            mount("overlay", self.root, "overlay", data=options)
        except OSError as refused:
            if refused.errno == errno.EINVAL:
                refused.strerror = f"{refused.strerror} ({UPPER_REMEDY})"
            raise
        finally:
            for number in opened:
                os.close(number)

    def _options(self, directories: list[str]) -> str:
        """`volatile`: no sync to disk when it is unmounted, since what is thrown away need not outlive a power cut."""
        *lowers, upper, work = directories
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{DEFAULTS}"
        return options + ("" if self.kept else ",volatile") + ("" if initial() else ",userxattr")

    def __exit__(self, *_: object) -> None:
        """Remove the container's directory; its mounts went with its mount namespace. What resists is for `prune`."""
        try:
            if self.work and self.kept:
                remove(self.work)
            state.release(self.own, self._locks.pop(0))
        except ContainerError as left:
            warn(str(left))
        finally:
            while self._locks:
                os.close(self._locks.pop())


def initial() -> bool:
    """Whether this is the user namespace that the machine started with. Only its root makes devices, or trusted.*."""
    return os.stat("/proc/self/ns/user").st_ino == INITIAL_USER_NAMESPACE

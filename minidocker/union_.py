"""Chapter 4: the driver `overlay`, the union of the Linux kernel since 3.18, and Docker's `overlay2`.

    Union(["/layers/app", "/layers/base"])        # mount -t overlay -o lowerdir=app:base,upperdir=...,workdir=...

One mount(2) in the container's own mount namespace. The kernel takes up to 500 lower directories, but all options
together must fit a page: where they do not, or where a name has a character that means something there, each directory
is opened and named by the number of its descriptor. Works without being root in a user namespace, since Linux 5.11.
"""

from __future__ import annotations

import errno
import os

from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import call, mount
from minidocker.union import Union

# <linux/proc_ns.h>, PROC_USER_INIT_INO: the inode number of the user namespace that the machine started with
INITIAL_USER_NAMESPACE = 0xEFFFFFFD
SPECIAL = set(":,\\\"'")  # what separates, quotes or escapes in lowerdir= and between options

# What kernels are built with differs. With these on, an upper directory would not be all that changed: directories that
# were renamed point to where they were, copied-up files have no content yet, and an index beside it joins hard links
DEFAULTS = "redirect_dir=nofollow,index=off,metacopy=off"

UPPER_REMEDY = (
    "the upper directory must lie on a file system that can hold one: ext4, xfs, btrfs, tmpfs; not on overlay"
)


class Overlay(Union):
    """OverlayFS. The upper directory and an empty one for the kernel's own use lie side by side on one file system."""

    work = ""

    def prepare(self) -> None:
        """The work directory: the kernel copies up into it, and a copy leaves it only when it is whole."""
        self.work = f"{self.upper}.work" if self.kept else os.path.join(self.own, "work")
        os.makedirs(self.work, exist_ok=True)

    def inside(self) -> None:
        """Mount it; needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace."""
        make_mounts_private()
        directories = [*self.lowers, self.upper, self.work]
        options = self._options(directories)
        opened: list[int] = []
        if len(options) >= os.sysconf("SC_PAGE_SIZE") or SPECIAL.intersection("".join(directories)):
            opened = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in directories]
            call("chdir", "/proc/self/fd", path="/proc/self/fd")  # here an open directory has a name of 1 to 3 digits
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
        """`volatile`: no sync to disk when it is unmounted, since what is thrown away need not outlive a power cut.

        Only the host's root may set trusted.* attributes; in a user namespace the marks are user.* ones.
        """
        *lowers, upper, work = directories
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{DEFAULTS}"
        options += "" if self.kept else ",volatile"
        initial = os.stat("/proc/self/ns/user").st_ino == INITIAL_USER_NAMESPACE
        return options + ("" if initial else ",userxattr")

    def __exit__(self, *_: object) -> None:
        """The work directory of a kept upper one is not in the container's directory."""
        from minidocker.files import remove

        if self.kept and self.work:
            remove(self.work)
        super().__exit__()

"""Chapter 9, and each container of an image from chapter 5 on: devices, which no namespace divides.

    run(argv, ..., PivotRoot(root), NoDevices([(1, 3)]), Bounding(kept))

Root in a container keeps MKNOD, as in Docker, so it may make the node of the host's disk. It must not open it.
"""

from __future__ import annotations

import os
import stat
from _collections_abc import Iterable

from minidocker.isolator import Isolator
from minidocker.security.paths import PATH, check_proc
from minidocker.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, mount_setattr

MOUNT_ATTR_NODEV = 4  # <linux/mount.h>


class NoDevices(Isolator):
    """No device node opens, whoever made it and wherever it is, but terminals and the container's own devices.

    Each mount that is there becomes nodev, mount(8): so it comes after the last of them. Two kinds are spared, since
    no other node can be in them: mounts of one file, which is an own device, and devpts, where mknod(2) is refused.
    `own` are the (major, minor) of character devices, `more` the (type, number) of others, as in stat(2).
    """

    def __init__(self, own: Iterable[tuple[int, int]] = (), more: Iterable[tuple[int, int]] = ()) -> None:
        self.own = {(stat.S_IFCHR, os.makedev(*numbers)) for numbers in own} | {*more}

    def inside(self) -> None:
        """Needs CAP_SYS_ADMIN over the mounts; who keeps that can undo it."""
        mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, MOUNT_ATTR_NODEV)
        with open("/proc/self/mountinfo", "rb") as file:
            check_proc(file.fileno())
            mounts = [line.split(b" ") for line in file]
        terminals = {words[2] for words in mounts if words[words.index(b"-") + 1] == b"devpts"}
        for words in mounts:
            if words[3] != b"/" or words[2] in terminals:  # not the root of its file system: perhaps a single file
                self._spare(words[4].replace(b"\\040", b" "), terminals)

    def _spare(self, path: bytes, terminals: set[bytes]) -> None:
        """Judges what it has opened, and not the path: that may be in a volume, which others change meanwhile."""
        try:
            mounted = os.open(path, PATH)
            status = os.fstat(mounted)
            own = (stat.S_IFMT(status.st_mode), status.st_rdev) in self.own
            if own or b"%d:%d" % (os.major(status.st_dev), os.minor(status.st_dev)) in terminals:
                mount_setattr(mounted, "", AT_EMPTY_PATH, off=MOUNT_ATTR_NODEV)
            os.close(mounted)
        except OSError:
            pass  # not there any more, or covered by another mount: it stays closed

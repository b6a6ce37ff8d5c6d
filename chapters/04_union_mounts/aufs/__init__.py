"""Chapter 4: the driver `aufs`, our own union file system: AUFS's format, in Python, over FUSE.

    Aufs([root], trace="/tmp/trace")

AUFS was Docker's first storage driver, and never became a part of Linux. FUSE lets a process be a file system: the
kernel turns each call that reaches the mount into a message on /dev/fuse, and waits for the answer.

    container's process ── open("/etc/motd") ──► kernel ── message on /dev/fuse ──► our server, on the host
                                                        ◄── descriptor, or errno ──

The server (module `server`) is started before the container and outside of it. It ends with its mount, because the
last process that sees the mount closes the connection; before there is a mount, it ends with the pipe to its owner.
So it outlives neither, however they end.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys

from minidocker import state
from minidocker.outcome import ContainerError
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import mount
from minidocker.union import Copy, Union

# The server's program, and its descriptors: an end of the pipe that tells it of the mount, one to say it is ready, FUSE
BOOT = "import sys; sys.path[:0] = {paths!r}; from aufs.server import main; main(sys.argv[1])"
MOUNTED, READY, FUSE = 0, 1, 3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Aufs(Union):
    """The server's owner. Needs /dev/fuse, libfuse 3 and mfusepy; set-up brings the last two.

    `trace`: a file that the server appends to, one line for each lookup, copy-up and whiteout.
    """

    needs_root = True
    fuse = mounted = server = -1

    def __init__(self, *arguments: Any, trace: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.trace = os.path.abspath(trace) if trace else None

    def prepare(self) -> None:
        """Start the server and wait until it could answer."""
        self.fuse = os.open("/dev/fuse", os.O_RDWR)
        mounted, self.mounted = os.pipe()
        ready, theirs = os.pipe()
        with open(ready, encoding="utf-8", errors="replace") as answer:
            try:
                self.server = self._start({MOUNTED: mounted, READY: theirs, FUSE: self.fuse})
            finally:
                os.close(mounted)
                os.close(theirs)
            text = answer.read()
        if text != "ready":
            why = text.strip().split("\n")[-1] or "it says nothing"  # the last line of a traceback says what it was
            raise ContainerError(
                f"Aufs: the server did not start: {why}; set-up brings what it needs: make run", isolator="Aufs"
            )
        self.descriptors = (self.fuse, self.mounted)

    def _start(self, descriptors: dict[int, int]) -> int:
        """posix_spawn is safe among threads. A session of its own: Ctrl-C is for the container."""
        paths = [os.path.dirname(os.path.dirname(os.path.abspath(file))) for file in (__file__, state.__file__)]
        order = json.dumps({"upper": self.upper, "lowers": self.lowers, "trace": self.trace})
        argv = [_python(), "-I", "-c", BOOT.format(paths=paths), order]
        free = max(descriptors.values()) + 1  # above all: none is overwritten before it is copied
        actions: list[tuple[int, ...]] = []
        for offset, number in enumerate(descriptors.values()):
            actions.append((os.POSIX_SPAWN_DUP2, number, free + offset))
        for offset, number in enumerate(descriptors):
            actions.append((os.POSIX_SPAWN_DUP2, free + offset, number))
        actions += [(os.POSIX_SPAWN_DUP2, READY, 2)]
        actions += [(os.POSIX_SPAWN_CLOSE, free + offset) for offset in range(len(descriptors))]
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True)

    def attach(self, pid: int) -> None:
        """The process has its copies; if ours stayed open, the connection would outlive a server that was killed."""
        self._close()

    def inside(self) -> None:
        """mount(2) with the server's descriptor. The kernel judges permissions by the modes it is told: fuse(4)."""
        make_mounts_private()
        options = f"fd={self.fuse},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        try:
            mount("aufs", self.root, "fuse.aufs", data=options)
        except OSError as refused:
            if refused.errno == errno.EINVAL:
                refused.strerror = "/dev/fuse was opened in another user namespace: use OverlayFS there"
            raise
        os.write(self.mounted, b"x")

    def _close(self) -> None:
        for descriptor in {self.fuse, self.mounted} - {-1}:
            os.close(descriptor)
        self.fuse = self.mounted = -1

    def __exit__(self, *_: object) -> None:
        """The mount is gone, so the server ends; if something that the container left running holds it, end it here."""
        self._close()
        if self.server > 0:
            pidfd = os.pidfd_open(self.server)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            if not ended.poll(2000):
                os.kill(self.server, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(self.server, 0)
            self.server = -1
        super().__exit__()


def _python() -> str:
    """The interpreter of set-up's environment, where mfusepy is; the command minidocker runs without it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    ours = os.path.join(state.home(), f"venv-{version}", "bin", "python")
    return ours if os.path.exists(ours) else sys.executable


DRIVERS = {"overlay": Union, "aufs": Aufs, "copy": Copy}

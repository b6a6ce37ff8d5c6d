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
import sys
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired

from minidocker import state
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import mount
from minidocker.union import Copy, Union

BOOT = "import sys; sys.path[:0] = {paths!r}; from aufs.server import main; main(sys.argv[1])"  # the server's program

_servers: dict[int, Popen[bytes]] = {}  # by their numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Aufs(Union):
    """The server's owner. Needs /dev/fuse, libfuse 3 and mfusepy; set-up brings the last two.

    `trace`: a file that the server appends to, one line for each lookup, copy-up and whiteout.
    """

    needs_root = True
    server = -1

    def __init__(self, lowers: Sequence[str], upper: str | None = None, trace: str | None = None) -> None:
        super().__init__(lowers, upper)
        self.trace = os.path.abspath(trace) if trace else None

    def prepare(self) -> None:
        """Start the server, and wait until it could answer: then it closes its output."""
        fuse, (mounted, tell) = os.open("/dev/fuse", os.O_RDWR), os.pipe()
        self.descriptors = (fuse, tell)
        paths = [os.path.dirname(os.path.dirname(os.path.abspath(file))) for file in (__file__, state.__file__)]
        order = json.dumps({"fuse": fuse, "upper": self.upper, "lowers": self.lowers, "trace": self.trace})
        ours = os.path.join(state.home(), f"venv-{sys.version_info.major}.{sys.version_info.minor}", "bin", "python")
        python = ours if os.path.exists(ours) else sys.executable  # that of set-up's environment, where mfusepy is
        argv = [python, "-I", "-c", BOOT.format(paths=paths), order]
        with open(mounted):  # a session of its own: Ctrl-C is for the container
            server = Popen(argv, stdin=mounted, stdout=PIPE, stderr=STDOUT, pass_fds=[fuse], start_new_session=True)
        self.server = server.pid
        _servers[server.pid] = server
        assert server.stdout
        with server.stdout as answer:
            text = answer.read().decode(errors="replace")
        if text != "ready":
            why = text.strip().split("\n")[-1] or "it says nothing"  # the last line of a traceback says what it was
            raise self._error(f"the server did not start: {why}; set-up brings what it needs: make run")

    def attach(self, *_: object) -> None:
        """The process has its copies; if ours stayed open, the connection would outlive a server that was killed."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()

    def inside(self) -> None:
        """mount(2) with the server's descriptor. The kernel judges permissions by the modes it is told: fuse(4)."""
        fuse, tell = self.descriptors
        make_mounts_private()
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        try:
            mount("aufs", self.root, "fuse.aufs", data=options)
        except OSError as refused:
            if refused.errno == errno.EINVAL:
                refused.strerror = "/dev/fuse was opened in another user namespace: use OverlayFS there"
            raise
        os.write(tell, b"x")

    def __exit__(self, *_: object) -> None:
        """The mount is gone, so the server ends; if something that the container left running holds it, end it here."""
        self.attach()
        if self.server in _servers:
            server = _servers.pop(self.server)
            try:
                server.wait(2)
            except TimeoutExpired:
                server.kill()
                server.wait()
            self.server = -1
        super().__exit__()


DRIVERS = {"overlay": Union, "aufs": Aufs, "copy": Copy}

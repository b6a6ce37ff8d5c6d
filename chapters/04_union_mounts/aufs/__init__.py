"""Chapter 4: two drivers beside OverlayFS: a full copy, and our own AUFS, in Python, over FUSE.

    Aufs([root], trace="/tmp/trace")

FUSE lets a process be a file system: the kernel turns each call into a message on /dev/fuse, and waits for the answer.

    container's process ── open("/etc/motd") ──► kernel ── message on /dev/fuse ──► our server, on the host
                                                        ◄── descriptor, or errno ──

The server is started before the container and outside of it. It ends with its mount, because the last process that sees
the mount closes the connection; before there is a mount, it ends with the pipe to its owner.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired

from minidocker import state
from minidocker.isolator import Isolator
from minidocker.process import run
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import MS_BIND, mount
from minidocker.union import Union

BOOT = "import sys; sys.path[:0] = {paths!r}; from aufs.server import main; main(sys.argv[1])"  # the server's program
MARK = "trusted.minidocker.copy"  # xattr(7): only the host's root may set an attribute of this kind, or see it

_servers: dict[int, Popen[bytes]] = {}  # by their numbers


class _ByRoot(Union):
    def __enter__(self) -> Isolator:
        if os.geteuid() != 0:
            raise self._error("this driver needs root: use OverlayFS")
        return super().__enter__()


class Copy(_ByRoot):
    """All files of the lower directories are copied into the upper one, as a virtual machine has them."""

    def prepare(self) -> None:
        """Mount the union for a moment, and copy what it shows. A kept directory that was filled before has a mark."""
        if MARK in os.listxattr(self.upper):
            return
        if os.listdir(self.upper):
            raise self._error(f"{self.upper} is not empty, and no whole copy: empty it, or name another", self.upper)
        union = Union(self.lowers)
        if (copied := run(["cp", "-a", f"{union.root}/.", self.upper], union)).exit_code:
            raise self._error(copied.stderr, self.upper)
        os.setxattr(self.upper, MARK, b"")

    def inside(self) -> None:
        make_mounts_private()
        mount(self.upper, self.root, flags=MS_BIND)


class Aufs(_ByRoot):
    """The server's owner. Needs /dev/fuse, libfuse 3 and mfusepy; set-up brings the last two.

    `trace`: a file that the server appends to, one line for each lookup, copy-up and whiteout.
    """

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
        if (server := _servers.pop(self.server, None)) is not None:
            try:
                server.wait(2)
            except TimeoutExpired:
                server.kill()
                server.wait()
            self.server = -1
        super().__exit__()


DRIVERS = {"overlay": Union, "aufs": Aufs, "copy": Copy}

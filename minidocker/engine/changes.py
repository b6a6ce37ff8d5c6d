"""Chapter 10: into a container's files, out of them, and what has changed in them: `docker cp`, `docker diff`.

    with found("/etc/nginx", [Inside(pid, "mount")], follow=False) as source:
        Landing("/nginx", source).put([PivotRoot("/srv")])

The container may be hostile, and exchange a directory for a link while we copy. So the process that writes sees nothing
but the place where the files go, and has an open directory where they come from, out of which no link leads. It imports
nothing there, and executes nothing (CVE-2018-15664, CVE-2019-14271).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from minidocker import files
from minidocker.images.build.copy import NOTHING, Copy, Source, opened, real
from minidocker.isolator import Isolator
from minidocker.namespaces import Join
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import CLONE_NEWNS, MNT_DETACH, call, signal
from minidocker.trees import walk

OURS = {b"dev", b"proc", b"sys", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"}  # made at a start, to mount on


class Inside(Join):
    """Among the files of a running process, in a copy of its mounts, without what is the kernel's."""

    def inside(self) -> None:
        """In its /proc are links that lead out of what it sees. And the number may be somebody else's by now."""
        if not self.flags & CLONE_NEWNS:
            raise ContainerError("this container has just ended")
        super().inside()
        call("unshare", CLONE_NEWNS)
        make_mounts_private()
        for path in filter(os.path.ismount, ("/proc", "/sys", "/dev")):
            call("umount2", path, MNT_DETACH, path=path)


@contextlib.contextmanager
def found(path: str, walls: Sequence[Isolator], follow: bool) -> Iterator[Source]:
    """What is at this path behind these walls; a link itself, but with `follow`, or with a slash behind it."""
    inner, whole = path.endswith(("/", "/.")), os.path.normpath(f"/{path}")
    parent, called = os.path.split(whole)
    with start(signal.pause, *walls) as process, opened(None, f"/proc/{process.pid}/root") as root:
        way = real(root, whole + "/" * inner if follow or inner else parent, NOTHING)
        above, name = os.path.split(way or "") if follow or inner else (way, called)
        with opened(root, above or "") as top:
            if way is None or not os.access(name or ".", os.F_OK, dir_fd=top, follow_symlinks=False):
                raise ContainerError(f"{path}: no such file, or no such directory")
            yield Source(top, name, "" if path.endswith("/.") else called)


class Landing(Copy):
    """Where a source goes, as `docker cp` has it: into the directory `target`, or to that name. Directories grow
    together, other files replace each other. `numbers`: who owns them there; `base`: what is before the target here."""

    def __init__(self, target: str, source: Source, numbers: files.Owner = None, base: str = "") -> None:
        super().__init__(target)
        self.sources, self.numbers, self.base = [source], numbers, base

    def put(self, walls: Sequence[Isolator]) -> None:
        """Copy it behind these walls. Needs root."""
        carry = Isolator()
        carry.descriptors = (self.sources[0].root,)
        run(self.write, *walls, carry)

    def write(self) -> None:
        """What looks like the source comes last, since what is put into a directory changes its time."""
        os.umask(0)
        source, asked = self.sources[0], self.target
        self.target = os.path.realpath(asked)
        folder = stat.S_ISDIR(os.lstat(source.path or ".", dir_fd=source.root).st_mode)
        into, above = os.path.isdir(self.target), os.path.dirname(self.target)
        try:
            if into:
                self.target = os.path.join(self.target, source.name)
            elif asked.endswith("/.") or (folder and os.path.lexists(self.target)) or (asked[-1] == "/" and not folder):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", asked.removesuffix("/."))
            elif not os.path.isdir(above):
                raise FileNotFoundError(errno.ENOENT, "no such directory", above)
            self._source(source, inside=False)
            if folder and (source.name or not into):
                with opened(source.root, source.path) as like:
                    files.attributes(os.fstat(like), files.xattrs(like), self.target, self.numbers)
        except OSError as refused:
            place = self.base + os.fsdecode(refused.filename or self.target)
            raise ContainerError(f"{place}: {refused.strerror}") from None


def changed(upper: int) -> None:
    """Print what the open directory changes where the root is what the image has: A is new, C has changed, D is gone.
    A directory has changed if something came into it, or went, or if it looks different."""
    said = {b""}
    with opened(None, "/") as root, open(1, "wb", closefd=False) as out:
        for path, _, _, status in walk(upper):
            before, gone = None, stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            with contextlib.suppress(OSError), opened(root, os.fsdecode(path), os.O_PATH | os.O_NOFOLLOW) as there:
                before = os.fstat(there)
            alike = before and (status.st_mode, status.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
            if not path or (alike and stat.S_ISDIR(status.st_mode)) or (path in OURS and not before):
                continue
            above, kind = os.path.dirname(path), b"D" if gone else b"C" if before else b"A"
            if kind != b"C" and above not in said:
                out.write(b"C /%s\n" % above)
            out.write(b"%s /%s\n" % (kind, path))
            said |= {above, path}

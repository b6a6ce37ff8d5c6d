"""Chapter 1: another root. A root built by hand, `Chroot` that looks like a jail, and `PivotRoot` that is one.

    copy_program("/bin/ls", "/tmp/root")                       # the program, and the libraries that ldd names
    run(["/bin/ls", "/"], Chroot("/tmp/root"))                 # works; root inside can leave it again
    run(["/bin/ls", "/"], PivotRoot("/tmp/root"))              # nothing is left to go back to

chroot(2) changes where *one process* begins to look up absolute paths; the old root is still mounted, and a process
with CAP_SYS_CHROOT can climb back to it. pivot_root(2) changes the root *mount of a mount namespace*, and then the old
root can be unmounted.
"""

from __future__ import annotations

import os

from minidocker import syscalls
from minidocker.isolator import Isolator
from minidocker.outcome import failure
from minidocker.syscalls import CLONE_NEWNS, MNT_DETACH, MS_BIND, MS_PRIVATE, MS_REC, call, mount

NO_SURPRISES = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC  # neither rights nor programs from /proc


def copy_program(program: str, root: str) -> list[str]:
    """Copy a program and its shared libraries below `root`, under the same paths; return the paths that were copied.

    ldd(1) asks the dynamic loader, which may execute the program: only for programs that you trust.
    """
    import shutil  # here, since starting a container needs neither, and they take a third of its time
    import subprocess

    answer = subprocess.run(["ldd", program], capture_output=True, text=True)  # a static program: none, and exit 1
    paths = [program, *(word for word in answer.stdout.split() if word.startswith("/"))]
    for path in paths:
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(path, target)  # follows links: the copy has the library's name and its content
    return paths


class _NewRoot(Isolator):
    """What `Chroot` and `PivotRoot` share: a directory that is there."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(root)

    def __enter__(self) -> Isolator:
        if not os.path.isdir(self.root):
            what = "is not a directory" if os.path.exists(self.root) else "does not exist"
            text = f"root {what}; set-up makes some: make run"
            raise failure(type(self).__name__, None, None, self.root, text)
        return self


class Chroot(_NewRoot):
    """chroot(2): absolute paths begin at `root`. Needs CAP_SYS_CHROOT. Not a wall: see the escape in chapter 1."""

    def inside(self) -> None:
        """Change the root, and step into it: a working directory outside would be the open door."""
        call("chroot", self.root, path=self.root)
        call("chdir", "/", path="/")


class PivotRoot(_NewRoot):
    """Make `root` the root mount of a mount namespace of its own, mount /proc there, and let the host's root go.

    Needs CAP_SYS_ADMIN, and an empty directory `proc` in the root, unless `proc` is False. EINVAL: see pivot_root(2).
    """

    clone_flags = CLONE_NEWNS

    def __init__(self, root: str | os.PathLike[str], proc: bool = True) -> None:
        super().__init__(root)
        self.proc = proc

    def inside(self) -> None:
        """pivot_root wants a mount point, and puts the old root on top of the new one: both are "." for a moment."""
        make_mounts_private()
        mount(self.root, self.root, flags=MS_BIND | MS_REC)
        call("chdir", self.root, path=self.root)
        if self.proc:  # before the pivot: a user namespace may mount one only while it still sees another
            mount("proc", "proc", "proc", NO_SURPRISES)
        call("pivot_root", ".", ".", path=self.root)
        call("umount2", ".", MNT_DETACH, path=".")
        call("chdir", "/", path="/")


def make_mounts_private() -> None:
    """Inside, before any mount: systemd makes each mount of the host *shared*, so that it would get ours, too."""
    mount(None, "/", flags=MS_REC | MS_PRIVATE)

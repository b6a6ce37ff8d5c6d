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

from minidocker.outcome import failure
from minidocker.process import Isolator
from minidocker.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    call,
    mount,
    pivot_root,
    umount,
)


def copy_program(program: str, root: str) -> list[str]:
    """Copy a program and its shared libraries below `root`, under the same paths; return the paths that were copied.

    ldd(1) asks the dynamic loader, which may execute the program: only for programs that you trust.
    """
    import shutil  # here, since starting a container needs neither, and they take a third of its time
    import subprocess

    answer = subprocess.run(["ldd", program], capture_output=True, text=True)  # a static program: none, and exit 1
    words = answer.stdout.split()
    paths = [program, *(word for word in words if word.startswith("/"))]
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

    Needs CAP_SYS_ADMIN, and an empty directory `proc` in the root, unless `proc` is False: then it stays empty.
    EINVAL from pivot_root: see pivot_root(2), and the machine may have its root on the initial ramfs, which cannot be
    pivoted away.
    """

    clone_flags = CLONE_NEWNS

    def __init__(self, root: str | os.PathLike[str], proc: bool = True) -> None:
        super().__init__(root)
        self.proc = proc

    def inside(self) -> None:
        """The order leaves no other choice; chapter 1 says why, call by call."""
        make_mounts_private()
        mount(self.root, self.root, flags=MS_BIND | MS_REC)  # pivot_root wants a mount point
        call("chdir", self.root, path=self.root)
        # A user namespace may mount /proc only while it still sees another one, so this comes before the pivot
        if self.proc:
            mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        pivot_root(".", ".")  # the old root now lies on top of the new one, and both are "."
        umount(".", MNT_DETACH)
        call("chdir", "/", path="/")


def make_mounts_private() -> None:
    """Cut the ties (mount_namespaces(7), "shared subtrees") by which mounts made here would appear on the host, too.

    Run by the new process in its own mount namespace: systemd makes every mount of the host shared.
    """
    mount(None, "/", flags=MS_REC | MS_PRIVATE)

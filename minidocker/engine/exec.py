"""Chapter 10: one more process in a running container, `docker exec`: its namespaces, its groups, and its walls."""

from __future__ import annotations

import os
import stat
from _collections_abc import Mapping, Sequence

from minidocker import state
from minidocker.cgroups import hierarchy
from minidocker.images.inside import User
from minidocker.isolator import Isolator
from minidocker.namespaces import Init, Join
from minidocker.outcome import ContainerError
from minidocker.security.capabilities import Bounding, Capabilities, capabilities
from minidocker.security.options import ReadOnly
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import CLONE_NEWPID, CLONE_NEWUSER, Any, call


class Enter(Join):
    """Into the control groups and the namespaces of the container `name`, where the process `pid` is. But not into the
    namespace of processes, where we would be seen: root in there may have CAP_SYS_PTRACE, and could take over a process
    that still has all rights of the host (CVE-2016-9962)."""

    def __init__(self, pid: int, name: str) -> None:
        super().__init__(pid)
        self.name = name

    def __enter__(self) -> Isolator:
        """So we are not born in there, either. The groups' files are opened now: inside there are other paths."""
        super().__enter__()
        self.pid_namespace = None
        paths = [f"{one.parent}/{self.name}/cgroup.procs" for one in hierarchy.hierarchies()]
        try:
            self.descriptors += tuple(os.open(path, os.O_WRONLY) for path in paths if os.path.exists(path))
        except FileNotFoundError:
            raise ContainerError(f"{self.name}: this container has just ended") from None
        if not self.descriptors[1:] and f"/{self.name}" in hierarchy.read(f"/proc/{self.pid}/cgroup"):
            raise ContainerError(f"{self.name}: its limits are those of another session: run exec in that")
        return self

    def inside(self) -> None:
        """Only children will be born in its namespace of processes; that belongs to the host's users, even if `super`
        makes us others. To a group, "0" means the process that writes it: cgroups(7)."""
        for group in self.descriptors[1:]:
            call("write", group, b"0", 1, path="cgroup.procs")
        call("setns", self.descriptors[0], CLONE_NEWPID, path=f"process {self.pid}")
        for stream in range(3) if self.flags & CLONE_NEWUSER else ():
            if stat.S_ISFIFO(os.fstat(stream).st_mode):  # as at a start: root in there opens /dev/stdout
                os.fchown(stream, int(self.maps[0].split()[1]), -1)
        super().inside()


def join(pid: int, init: bool) -> int:
    """Without root: into the user namespace of this process, over which its maker has all rights; we are root there.
    --init itself is hidden from us, too, but not its first child. Returns whose namespaces can be entered."""
    from minidocker.security.rootless import delegated

    if init and (children := hierarchy.read(f"/proc/{pid}/task/{pid}/children").split()):
        pid = int(children[0])
    os.environ["MINIDOCKER_HOME"] = state.home()
    process = os.pidfd_open(pid)
    call("setns", process, CLONE_NEWUSER, path=f"process {pid}")
    os.close(process)
    os.setgroups([])
    hierarchy._found = delegated()
    return pid


def walls_of(
    pid: int, name: str, terminal: Sequence[Isolator], user: str, privileged: bool, asked: Mapping[str, Any]
) -> list[Isolator]:
    """The isolators of one more process: what the first one has, as /proc tells, and what was `asked` for it.

    The groups come first, while their files can still be written; the rights go last, as at a start.
    """
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    mask = int(status["CapBnd"], 16)
    kept = capabilities(privileged=True) if privileged else frozenset(bit for bit in range(64) if mask >> bit & 1)
    profile = "unconfined" if privileged or status["Seccomp"] == "0" else str(asked.get("seccomp", ""))
    walls = [wall for wall in asked.get("walls", ()) if not isinstance(wall, ReadOnly)]
    born = Init()  # a child, which is seen, has no more than the container has
    born.clone_flags = 0
    rights = [Seccomp(kept, profile), Bounding(kept), User(user), Capabilities(kept)]
    return [Enter(pid, name), *terminal, *walls, *rights, born]

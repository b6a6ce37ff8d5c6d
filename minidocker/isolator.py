"""Chapter 0: the one idea. A container is a process and a list of isolators, each a wall around that process.

    class Umask(Isolator):
        def inside(self) -> None:
            os.umask(0o077)

    run(["sh"], Umask())

Each isolator has its say at four moments. The order of the list is the order in which walls go up:

    moment                                             who runs it                    method
    before the process exists                          the host side                  __enter__
    the process exists, and waits at the gate          the host side                  attach(pid)
    it is released, and has not executed the command   the new process, inside        inside()
    after it ended, in reverse order                   the host side                  __exit__
"""

from __future__ import annotations


class Isolator:
    """One wall around a process. Override what you need; the default of each moment does nothing.

    An isolator is pickled when the caller has several threads (see `launcher`), so it holds plain values. What
    `inside` needs is imported at the top of its module, since nothing can be imported inside.
    """

    clone_flags = 0
    """CLONE_NEW* of <linux/sched.h>: the namespaces that the process is born in."""
    cgroup: int | None = None
    """Descriptor of a cgroup v2 directory that the process is born in; `__enter__` may open it."""
    pid_namespace: int | None = None
    """Descriptor of a PID namespace, or a pidfd of one of its processes, that the process is born in."""
    descriptors: tuple[int, ...] = ()
    """Open descriptors that `inside` needs; there they have the same numbers. All others are closed before."""
    terminal: tuple[int, ...] = ()
    """Our end of a terminal that `inside` opened: the host side gets a copy of it."""
    container = ""
    """The name of the container that this isolator serves; the engine sets it before `__enter__`."""

    def __enter__(self) -> Isolator:
        """Before the process exists. Host side, the caller's rights. If it raises, it must leave nothing."""
        return self

    def attach(self, pid: int) -> None:
        """The process `pid` exists and waits. Host side, the caller's rights: write its uid map, move its veth."""

    def inside(self) -> None:
        """Run by the new process, with all rights it was born with, before the command replaces it."""

    def __exit__(self, *_: object) -> None:
        """After the process has ended, or could not be started. Host side. Remove what `__enter__` made."""

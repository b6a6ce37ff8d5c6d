"""Chapter 0: the watcher, a small process that ends containers when their owner ends, however it ends.

    watch(pid, pidfd)       # from now on that process does not outlive this one

A process can ask for a signal at the death of its parent: PR_SET_PDEATHSIG of prctl(2). The kernel forgets this when
the process changes its user, or executes a set-user-ID program. So a process of ours sees the end of the owner instead.
"""

from __future__ import annotations

import os

from minidocker import syscalls
from minidocker.syscalls import pair, polled, receive, send, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CHANNEL, OWNER = 0, 1  # the only descriptors of the watcher, beside the pidfds
_sockets: dict[int, int] = {}  # the pid of this process -> its socket to its watcher; a fork of it needs its own


def watch(pid: int, pidfd: int) -> None:
    """Tell the watcher of this process, which is forked at the first need. The caller must have one thread.

    A message that was sent is read even if this process is killed now, so nobody has to wait for an answer.
    """
    owner = os.getpid()
    try:
        send(_sockets[owner], pid, pidfd)
    except (KeyError, ConnectionError):  # there is none yet, or somebody has killed it
        ours, theirs = pair()
        itself = os.pidfd_open(owner)  # before the fork: this process may be gone when the watcher asks for it
        if syscalls.clone3(0, exit_signal=0) == 0:  # no SIGCHLD at its end: the caller's wait(2) does not see it
            _serve(theirs, itself)
        os.close(itself)
        os.close(theirs)
        if owner in _sockets:
            os.close(_sockets[owner])
        _sockets[owner] = ours
        send(ours, pid, pidfd)


def _serve(channel: int, owner: int) -> NoReturn:
    """The whole life of the watcher: note each pidfd that comes, forget those that end, kill the rest at last."""
    watched: dict[int, int] = {}
    try:
        _settle(channel, owner)
        while ready := polled([CHANNEL, OWNER, *watched], None):
            for pidfd in watched.keys() & {*ready}:
                del watched[pidfd]
                os.close(pidfd)
            pid, pidfds = receive(CHANNEL) if CHANNEL in ready else (None, [])
            watched |= {pidfd: pid for pidfd in pidfds if pid}
            if pid is None and {CHANNEL, OWNER} & {*ready}:
                break  # what was sent before the end has been read
        for pidfd, pid in watched.items():
            _end(pid, pidfd)
    finally:
        os._exit(0)


def _settle(channel: int, owner: int) -> None:
    """Hold nothing else: no stream, whose reader would wait for our end, and no terminal whose keys would reach us."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_NAME, b"watcher")
    os.dup2(channel, CHANNEL)
    os.dup2(owner, OWNER)
    syscalls.close_range(OWNER + 1)
    import resource  # nobody else needs it; the owner may raise its limit of open files, and start many

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _end(pid: int, pidfd: int) -> None:
    """SIGKILL to its process group, while its number is certainly its own, and to it."""
    for kill, whom in ((os.killpg, pid), (signal.pidfd_send_signal, pidfd)):
        try:
            if not polled([pidfd], 0):
                kill(whom, signal.SIGKILL)
        except OSError:
            pass  # it never became the leader of a group, or it has ended

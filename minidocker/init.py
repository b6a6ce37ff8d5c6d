"""Chapter 2: the first process of a PID namespace, when the command was not written to be one.

    run(["server"], Namespaces("pid"), Init())

The kernel gives every orphan of a PID namespace to its first process, which must reap it; it drops every signal for
which that process has no handler; and when it ends, all others are killed: pid_namespaces(7).
"""

from __future__ import annotations

import os

from minidocker import syscalls
from minidocker.process import Isolator
from minidocker.syscalls import signal


class Init(Isolator):
    """A PID namespace whose first process stays ours and does its duties; the command is its child, as with --init.

    Last in the list, so that it stands behind all the walls, too.
    """

    clone_flags = syscalls.CLONE_NEWPID

    def inside(self) -> None:
        """Only the child returns, and becomes the command."""
        go_on_as_child()


def go_on_as_child() -> None:
    """Fork; the child returns, to become the command. The parent forwards signals, reaps, and ends with it.

    A blocked signal is kept, even for PID 1, until sigwait(3) fetches it: so none is lost, from before the fork on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _hide_the_host()  # before the fork: the command may run, and look, before this process goes on
    command = os.fork()
    if command == 0:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # the watcher holds its parent
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    syscalls.close_range(3)  # among them the report, which must not stay open when the command executes
    os._exit(_serve(command))


def _hide_the_host() -> None:
    """This process is still a copy of one of the host's, and the container sees it in /proc/1: it must not tell.

    Not dumpable, its memory, its descriptors and its program (CVE-2019-5736) are closed to all but root of the host.
    Its arguments and environment lie in memory that proc_pid_stat(5) names; they are overwritten, as postgres does it.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.call("prctl", syscalls.PR_SET_NAME, b"init", 0, 0, 0)
    try:
        with open("/proc/self/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return  # a root without /proc
    start, end = int(fields[45]), int(fields[48])  # arg_start and env_end
    syscalls.call("memset", start, 0, end - start)
    syscalls.call("memcpy", start, b"init", 4)


def _take_terminal() -> None:
    """If there is a terminal, the signals of its keys are for the command alone: it becomes the foreground group."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())


def _serve(command: int) -> int:
    """Forward each signal to the command and reap whatever ends; return the command's exit code."""
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number != signal.SIGCHLD:
            os.kill(command, number)  # it is there, or its zombie is, which nobody but us can reap
        elif (code := _reap(command)) is not None:
            return code


def _reap(command: int) -> int | None:
    """Reap all that have ended by now. If the command is among them, its exit code: 128+N after a signal."""
    ended = -1
    while ended != 0:  # as long as the command is not reaped, there is a child, so this cannot fail
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
    return None

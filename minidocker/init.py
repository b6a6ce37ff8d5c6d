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
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # again: a change of user clears it
    command = os.fork()
    if command == 0:
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    syscalls.close_range(3)  # among them the report, which must not stay open when the command executes
    os._exit(_serve(command))


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

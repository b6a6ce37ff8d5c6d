"""Chapter 0: the launcher, a small process with one thread that forks in place of a large one with many.

A Jupyter kernel must not fork: a fork copies one thread and the locks that the others held, and costs 5 ms for each
100 MB. So the first `run` in such a process starts a launcher, which waits for orders at a socket. With each order
come copies of the descriptors (SCM_RIGHTS, unix(7)), and a channel of its own for the answer; so any number of threads
may ask at once without a lock.

    caller                                launcher                           new process
    order, descriptors  ── socket ──►     spawn                   ──►        arrange, wait at the gate
    pid                 ◄── channel ──    its pid and a pidfd
    attach, open the gate  ─────────────────── pipe ─────────────►           inside(), exec
    wait status         ◄── channel ──    reap                    ◄──        end

The launcher dies with its caller, and the containers with the launcher. This module is the caller's side of it;
`launcher_main` is the other.
"""

from __future__ import annotations

import marshal
import os
import pickle
import socket
import sys
import threading

from minidocker import child, syscalls
from minidocker.outcome import ContainerError
from minidocker.syscalls import signal

# The launcher's program. -I and -S: nothing of the user's environment or site-packages, which would cost 20 ms
BOOT = """import sys; sys.path.insert(0, {path!r})
from minidocker.launcher_main import Launcher; Launcher({caller}, 3).serve()"""


class Launched:
    """A new process whose parent is the launcher: `pid`, `pidfd`, and `ended`, a descriptor readable at its end."""

    def __init__(self, birth: child.Birth, order: child.Order) -> None:
        """Ask the launcher; again, if it was dying when it was asked: what it may have made dies with it."""
        for _ in range(3):
            if self._ask(birth, order):
                return
        raise ContainerError("launcher: killed each time it was asked; see dmesg whether memory is short")

    def _ask(self, birth: child.Birth, order: child.Order) -> bool:
        """Its answer is the pid, with a pidfd, or the errno with which clone3 failed. False: there is no answer."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            _post(birth, order, theirs)
            theirs.close()
            answer, extra, _, _ = ours.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            if not answer:
                return False
            pid, syscall, number = marshal.loads(answer)
            if number:
                raise syscalls.error(syscall, number)
            self.pid, self.ended = pid, ours.detach()
            self.pidfd = int.from_bytes(extra[0][2], sys.byteorder)  # recv_fds would let other programs inherit it
            return True

    def collect(self) -> int:
        """Its wait status, once it has ended. If the launcher was killed, so was it."""
        answer = os.read(self.ended, 64)
        return int(marshal.loads(answer)) if answer else int(signal.SIGKILL)


def _post(birth: child.Birth, order: child.Order, channel: socket.socket) -> None:
    """Send the order in a file in memory, which has no size limit; numbers and descriptors in one message."""
    payload, here = os.memfd_create("order"), os.open("/proc/self/cwd", os.O_PATH | os.O_CLOEXEC)
    try:
        modules = _write_order(payload, order)
        asked = {"cgroup": birth.cgroup, "pid_namespace": birth.pid_namespace}
        extra = {key: number for key, number in asked.items() if number is not None}
        message = marshal.dumps((birth.flags, [*extra], [*birth.descriptors], sys.path, modules))
        copies = [payload, here, channel.fileno(), *birth.streams, *extra.values(), *birth.descriptors]
        _send(message, copies)
    finally:
        os.close(payload)
        os.close(here)


def _write_order(payload: int, order: child.Order) -> list[str]:
    """Pickle the order; return the modules that it takes to unpickle it.

    Classes of a notebook's cells are in no module: cloudpickle sends their code along.
    """
    modules = {type(isolator).__module__ for isolator in order.isolators}
    pickler = __import__("cloudpickle" if "__main__" in modules else "pickle")
    try:
        text = pickler.dumps(order)
    except (TypeError, pickle.PicklingError, AttributeError) as refused:
        raise ContainerError(f"an isolator holds what cannot be sent to another process: {refused}") from refused
    while text:
        text = text[os.write(payload, text) :]
    os.lseek(payload, 0, os.SEEK_SET)  # the copy that the launcher gets shares the position
    return [*modules - {"__main__"}, pickler.__name__]


class _Caller:
    """The caller's side of its launcher: the socket, and whose it is, since a fork of the caller needs its own."""

    lock = threading.Lock()
    owner = pid = 0
    socket: socket.socket | None = None


def _send(message: bytes, copies: list[int]) -> None:
    """Give the launcher an order; start it first if there is none, and again if somebody killed it."""
    launcher = _launcher(dead=None)
    try:
        socket.send_fds(launcher, [message], copies)
    except (BrokenPipeError, ConnectionResetError):
        socket.send_fds(_launcher(dead=launcher), [message], copies)


def _launcher(dead: socket.socket | None) -> socket.socket:
    """The socket of this process's launcher, but not that one."""
    with _Caller.lock:
        if _Caller.socket is dead or _Caller.owner != os.getpid():
            _Caller.socket = _start()
        assert _Caller.socket is not None
        return _Caller.socket


def _start() -> socket.socket:
    """Start a launcher, in a session of its own so that Ctrl-C does not reach it. posix_spawn is safe among threads."""
    if _Caller.owner == os.getpid():
        _bury(_Caller.pid)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    argv = [sys.executable, "-I", "-S", "-c", BOOT.format(path=package, caller=os.getpid())]
    with theirs:
        null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3), *null]
        _Caller.pid = os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsid=True)
    _Caller.owner = os.getpid()
    return ours


def _bury(pid: int) -> None:
    """Reap a launcher that somebody killed, or it would stay in the caller's /proc as a zombie."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # the caller ignores SIGCHLD, or waits for all children itself

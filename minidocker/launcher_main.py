"""Chapter 0: the other side of the launcher, a program of its own: one loop, one thread, as little memory as possible.

`launcher` starts it, with the pid of its caller and the descriptor of the socket between the two. It imports little,
so that it starts fast and each of its forks is cheap.
"""

from __future__ import annotations

import marshal
import os
import pickle
import select
import socket
import sys

from minidocker import child, syscalls
from minidocker.syscalls import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Launcher:
    """Spawn what is ordered, reap what ended, and end everything with the caller."""

    def __init__(self, caller: int, orders: int) -> None:
        syscalls.close_range(orders + 1)
        self.orders = socket.socket(fileno=orders)
        self.caller = os.pidfd_open(caller)
        self.running: dict[int, tuple[int, socket.socket]] = {}  # pidfd -> its pid, and the channel for its status
        self.poll = select.poll()
        for descriptor in (orders, self.caller):
            self.poll.register(descriptor, select.POLLIN)

    def serve(self) -> None:
        """Wait for orders, for ends, and for the caller's own end, whichever way it comes."""
        try:
            while True:
                for descriptor, _ in self.poll.poll():
                    if descriptor in self.running:
                        self._report(descriptor)
                    elif descriptor == self.caller or not self._obey():
                        return
        finally:
            self._end_all()
            os._exit(0)

    def _obey(self) -> bool:
        """Take one order and answer with the pid and a pidfd, or with an errno. False: there will be no more."""
        message, copies, _, _ = socket.recv_fds(self.orders, 1 << 16, 253)
        if not message:
            return False
        payload, here, channel_number, *rest = copies
        channel = socket.socket(fileno=channel_number)
        try:
            birth, ours = _received(message, rest)
            pid = child.spawn(birth, _reader(payload, here, ours))
        except OSError as refused:
            _answer(channel, (0, getattr(refused, "syscall", "clone3"), refused.errno))
            channel.close()
        else:
            pidfd = os.pidfd_open(pid)
            self.running[pidfd] = pid, channel
            self.poll.register(pidfd, select.POLLIN)
            _answer(channel, (pid, "clone3", 0), pidfd)
        for number in (payload, here, *rest):
            os.close(number)
        return True

    def _report(self, pidfd: int) -> None:
        """The process behind `pidfd` ended: reap it, and tell its caller the wait status."""
        self.poll.unregister(pidfd)
        os.close(pidfd)
        pid, channel = self.running.pop(pidfd)
        with channel:
            _answer(channel, child.reap(pid))

    def _end_all(self) -> None:
        """No container outlives the caller. (If the launcher is killed, the parent-death signal does the same.)"""
        for pidfd, (pid, _) in self.running.items():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            child.reap(pid)


def _answer(channel: socket.socket, answer: int | tuple[int, str, int | None], *descriptors: int) -> None:
    """Tell the caller, if it still wants to know: somebody may have pressed Ctrl-C there."""
    try:
        socket.send_fds(channel, [marshal.dumps(answer)], descriptors)
    except OSError:
        pass


def _received(message: bytes, copies: list[int]) -> tuple[child.Birth, bool]:
    """The order's numbers, with the descriptors under the numbers that they got here; and whether all code is ours.

    Our modules are imported here, once, so that each new process need not.
    """
    flags, extra, numbers, path, modules = marshal.loads(message)
    sys.path[:] = path
    ours = [name for name in modules if name.partition(".")[0] in ("minidocker", "cloudpickle", "pickle")]
    for name in ours:
        try:
            __import__(name)
        except ImportError:
            pass  # the new process will meet the same error, and can report it
    streams, rest = copies[:5], iter(copies[5:])
    given = {key: next(rest) for key in extra}
    descriptors = dict(zip(numbers, rest, strict=True))
    birth = child.Birth(flags, given.get("cgroup"), given.get("pid_namespace"), streams, descriptors)
    return birth, ours == modules and "cloudpickle" not in ours


def _reader(payload: int, here: int, ours: bool) -> Callable[[], child.Order]:
    """What the new process does to get its order: unpickle it, in the caller's working directory.

    A learner's class may do harm while it is unpickled, so that happens only there. An order without one is unpickled
    here, ten times as fast: to the new process everything is new, and each page that it writes to a copy to be made.
    """
    try:
        order = _unpickled(payload) if ours else None
    except Exception:
        order = None  # an isolator of ours holds what is a learner's; the new process will meet the same error

    def read_order() -> child.Order:
        syscalls.call("fchdir", here, path=".")
        return order or _unpickled(payload)

    return read_order


def _unpickled(payload: int) -> child.Order:
    """The order in a file in memory."""
    order: child.Order = pickle.loads(os.pread(payload, os.fstat(payload).st_size, 0))
    return order

"""Chapter 0: the launcher, a small process with one thread that forks in place of a large one with many.

A Jupyter kernel must not fork: a fork copies one thread and the locks that the others held, and costs 5 ms for each
100 MB. So the first `run` in such a process starts a launcher. With each order come copies of the descriptors
(SCM_RIGHTS, unix(7)), and a socket of its own for the answers; so any number of threads may ask at once.

    caller                                launcher                           new process
    order, descriptors  ── socket ──►     Forked                  ──►        arrange, wait at the gate
    pid, pidfd, channel ◄── answers ──
    attach, open the gate  ─────────────────── the process's channel ──►     inside(), exec
    wait status         ◄── answers ──    collect                 ◄──        end

The launcher dies with its caller, and the containers with the launcher. It imports little: each fork copies it.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading

from minidocker import child, syscalls
from minidocker.outcome import ContainerError, failure
from minidocker.syscalls import in_memory, pair, polled, receive, send, signal

# The launcher's program. -I and -S: nothing of the user's environment or site-packages, which would cost 20 ms
BOOT = "import sys; sys.path.insert(0, {path!r}); from minidocker.launcher import serve; serve({caller}, 3)"


class Launched:
    """A new process whose parent is the launcher: `pid`, `pidfd`, and `channel`, our end of the socket between us."""

    def __init__(self, birth: child.Birth, order: child.Order) -> None:
        """Ask the launcher; again, if it was dying when it was asked: what it may have made dies with it."""
        text = _pickled(order)
        used = {type(isolator).__module__ for isolator in order.isolators}
        modules = [name for name in used if name.partition(".")[0] == "minidocker"]
        modules += ["cloudpickle"] if b"cloudpickle" in text else []
        asked = birth.flags, [*birth.needed], sys.path, modules
        copies = [in_memory(text), os.open("/proc/self/cwd", os.O_PATH)]
        try:
            for _ in range(3):
                try:
                    return self._ask(asked, *copies, *birth.needed.values())
                except ConnectionError:
                    pass
        finally:
            for copy in copies:
                os.close(copy)
        raise ContainerError("launcher: killed each time it was asked; see dmesg whether memory is short")

    def _ask(self, asked: object, *copies: int) -> None:
        """It answers with pid, pidfd and channel, or with what went wrong; if it is dead, that is a ConnectionError."""
        self._answers, theirs = pair()
        try:
            try:
                send(_launcher(), asked, theirs, *copies)
            finally:
                os.close(theirs)
            answer, descriptors = receive(self._answers)
            if answer is None:
                raise ConnectionError
            if isinstance(answer, tuple):
                raise failure(*answer)
            self.pid, (self.pidfd, self.channel) = answer, descriptors
        except BaseException:
            os.close(self._answers)
            raise

    def collect(self) -> int:
        """Its wait status, once it has ended. If the launcher was killed, so was it."""
        status = receive(self._answers)[0]
        os.close(self._answers)
        return signal.SIGKILL if status is None else int(status)


def _pickled(order: child.Order) -> bytes:
    """The order as bytes. What is defined in a notebook's cells is in no module: cloudpickle sends its code along."""
    try:
        text = pickle.dumps(order)
    except (TypeError, pickle.PicklingError, AttributeError):
        text = b"__main__"
    if b"__main__" not in text:
        return text
    try:
        import cloudpickle

        return bytes(cloudpickle.dumps(order))
    except (TypeError, pickle.PicklingError, AttributeError, ImportError) as refused:
        raise ContainerError(f"an isolator holds what cannot be sent to another process: {refused}") from refused


class _Caller:
    """The caller's side of its launcher: the socket, and whose it is, since a fork of the caller needs its own."""

    lock = threading.Lock()
    owner = pid = 0
    socket = -1


def _launcher() -> int:
    """The socket of this process's launcher, which is started if there is none, or if that one is dead."""
    with _Caller.lock:
        if _Caller.owner == os.getpid():
            if not polled([_Caller.socket], 0):
                return _Caller.socket
            _Caller.owner = 0
            os.close(_Caller.socket)
            try:
                os.waitpid(_Caller.pid, 0)  # or it would stay in the caller's /proc as a zombie
            except ChildProcessError:
                pass  # the caller ignores SIGCHLD, or waits for all children itself
        _Caller.socket, _Caller.owner = _start(), os.getpid()
        return _Caller.socket


def _start() -> int:
    """Start a launcher, in a session of its own so that Ctrl-C does not reach it. posix_spawn is safe among threads."""
    ours, theirs = pair()
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    argv = [sys.executable, "-I", "-S", "-c", BOOT.format(path=package, caller=os.getpid())]
    null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, theirs, 3), *null]
        _Caller.pid = os.posix_spawn(
            argv[0], argv, os.environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=(signal.SIGCHLD,)
        )
    finally:
        os.close(theirs)
    return ours


def serve(caller: int, orders: int) -> None:
    """The launcher's whole life: wait for orders, for ends, and for the caller's own end, whichever way it comes."""
    syscalls.close_range(orders + 1)
    caller = os.pidfd_open(caller)
    running: dict[int, tuple[child.Forked, int]] = {}  # pidfd -> its process, and the socket for its status
    try:
        while caller not in (ready := polled([orders, caller, *running], None)):
            for pidfd in running.keys() & {*ready}:
                process, answers = running.pop(pidfd)
                os.close(pidfd)
                _answer(answers, process.collect())
                os.close(answers)
            if orders in ready and not _obey(orders, running):
                return
    finally:
        os._exit(0)  # and its watcher ends the containers


def _obey(orders: int, running: dict[int, tuple[child.Forked, int]]) -> bool:
    """Take one order; answer with pid, pidfd and channel, or with what went wrong. False: there will be no more."""
    order, copies = receive(orders)
    if order is None:
        return False
    flags, needed, sys.path[:], modules = order
    answers, payload, here, *rest = copies
    for name in modules:  # once for all: what the new process imports, only it would have
        try:
            __import__(name)
        except ImportError:
            pass  # the new process will meet the same error, and can report it
    try:
        birth = child.Birth((), dict(zip(needed, rest, strict=True)), flags)
        process = child.Forked(birth, lambda: _order(payload, here))
        running[process.pidfd] = process, answers
        _answer(answers, process.pid, process.pidfd, process.channel)
        os.close(process.channel)
    except (OSError, ContainerError) as refused:
        _answer(answers, child._described(None, refused))
        os.close(answers)
    for descriptor in (payload, here, *rest):
        os.close(descriptor)
    return True


def _answer(answers: int, answer: object, *descriptors: int) -> None:
    try:
        send(answers, answer, *descriptors)
    except OSError:
        pass  # the caller does not want to know any more: somebody may have pressed Ctrl-C there


def _order(payload: int, here: int) -> child.Order:
    """Unpickled by the new process, in the caller's working directory: what a learner's class does harms only it."""
    syscalls.call("fchdir", here, path=".")
    order: child.Order = pickle.loads(os.pread(payload, os.fstat(payload).st_size, 0))
    return order

"""Chapter 0: the inside. What the new process does between its birth and the command, and who sees to its end.

    Forked ──► arrange descriptors ──► wait at the gate ──► seal imports ──► inside() of each isolator ──► exec

The host side and the new process share one socket, the channel. A message that comes through it opens the gate. Before
the command begins, one goes back; so does whatever goes wrong. A successful exec closes it. The process ends with
`os._exit`: it is a copy of its parent, and must never run on in the parent's code.
"""

from __future__ import annotations

import errno
import os
import sys
from _collections_abc import Callable, Sequence

from minidocker import syscalls
from minidocker.isolator import Isolator
from minidocker.outcome import ENGINE_FAILED, NOT_FOUND, ContainerError, described
from minidocker.syscalls import NoReturn, close_range, pair, polled, prctl, receive, send, signal

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP, PID_NAMESPACE = -1, -2  # what a process is born in; the other descriptors that it needs have a number inside

Command = list[str] | Callable[[], object]
Walls = Sequence[Isolator]


class Order:
    """What the new process is to do: the command, its surroundings, the list of isolators to walk, and where it is."""

    at: Isolator | None = None

    def __init__(self, command: Command, env: dict[str, str], cwd: str | None, isolators: Walls) -> None:
        self.command, self.env, self.cwd, self.isolators = command, env, cwd, isolators


class Birth:
    """What must be known before the process exists: flags for clone3, and the descriptors that it needs.

    `needed`: number in the new process -> number here; in the launcher, which has received copies, they differ.
    """

    def __init__(self, isolators: Walls, needed: dict[int, int], flags: int = 0) -> None:
        """One can be born in one cgroup and in one PID namespace: the last in the list decides."""
        self.flags, self.needed = flags, needed
        for isolator in isolators:
            self.flags |= isolator.clone_flags
            born_in = {CGROUP: isolator.cgroup, PID_NAMESPACE: isolator.pid_namespace}
            needed |= {use: number for use, number in born_in.items() if number is not None}
            needed |= {number: number for number in isolator.descriptors}


class Forked:
    """A new process whose parent is this one: `pid`, `pidfd`, and `channel`, our end of the socket between us."""

    def __init__(self, birth: Birth, read_order: Callable[[], Order]) -> None:
        """The caller must have one thread: a small program, or the launcher. The process is under watch before the
        gate can open, so that it never outlives its owner."""
        self.pid, self.pidfd, (self.channel, theirs) = 0, -1, pair()
        try:
            self.pid = _fork(birth, theirs, read_order)
            self.pidfd = os.pidfd_open(self.pid)
            watch(self.pid, self.pidfd)
        except BaseException:
            os.close(self.channel)  # so it ends at its gate
            if self.pid:
                self.collect()
            if self.pidfd >= 0:
                os.close(self.pidfd)
            raise
        finally:
            os.close(theirs)

    def collect(self) -> int:
        """Wait until it has ended, end what it left in its process group, and return its wait status.

        Its zombie still holds the number, so the group cannot be anybody else's.
        """
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            pass  # it never became the leader of a group
        return os.waitpid(self.pid, 0)[1]


def _fork(birth: Birth, channel: int, read_order: Callable[[], Order]) -> int:
    """clone3(2). Only the parent returns.

    Nobody can change their own PID namespace: setns and unshare decide where the *next child* is born. So the caller
    turns to the other PID namespace for the moment of the birth, and back.
    """
    cgroup, there = (birth.needed.pop(use, -1) for use in (CGROUP, PID_NAMESPACE))
    flags = birth.flags | (syscalls.CLONE_INTO_CGROUP if cgroup >= 0 else 0)
    home = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        if there >= 0:
            syscalls.call("setns", there, syscalls.CLONE_NEWPID)
        pid = syscalls.clone3(flags, max(cgroup, 0))
        if pid == 0:
            _live(birth, channel, read_order)
        return pid
    finally:
        if there >= 0:
            syscalls.call("setns", home, syscalls.CLONE_NEWPID)
        os.close(home)


def _live(birth: Birth, channel: int, read_order: Callable[[], Order]) -> NoReturn:
    """The whole life of the new process on our side of exec."""
    order: Order | None = None
    try:
        prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # until it is under watch
        order = read_order()
        channel = arrange(channel, birth.needed)
        forget_the_parent()
        if receive(channel)[0] is None:
            os._exit(ENGINE_FAILED)  # the host side died, or gave up: nobody waits for this process
        if not birth.flags & syscalls.CLONE_NEWPID:
            prctl(syscalls.PR_SET_PDEATHSIG, 0)  # so that the watcher finds the leader of its group alive
        _seal_imports()
        send(channel, True, *_walk(order))  # it fails if nobody holds the other end any more
        (_call if callable(order.command) else _execute)(order)
    except BaseException as failure:
        send(channel, _described(order.at if order else None, failure))
    finally:
        os._exit(NOT_FOUND)


def _walk(order: Order) -> list[int]:
    """`inside` of each isolator. A terminal that one of them has opened is for the host side."""
    for isolator in order.isolators:
        order.at = isolator
        isolator.inside()
    order.at = None
    if order.cwd is not None:
        syscalls.call("chdir", order.cwd, path=order.cwd)
    return [end for isolator in order.isolators for end in isolator.terminal]


def arrange(channel: int, needed: dict[int, int]) -> int:
    """Give each descriptor its number, close every other (CVE-2024-21626), and return the number of the channel.

    First all are lifted above every number in use, so that none is overwritten before it is copied.
    """
    top = max(2, channel, *needed, *needed.values()) + 1
    for offset, here in enumerate([channel, *needed.values()]):
        os.dup2(here, top + offset, inheritable=False)
    close_range(3, top - 1)
    for offset, number in enumerate(needed, 1):
        os.dup2(top + offset, number, inheritable=number <= 2)
    close_range(top + 1)
    return top


def forget_the_parent() -> None:
    """A session of its own, no inherited signal handling, and the usual umask."""
    os.setsid()
    for number in range(1, signal.NSIG):
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)


class _Sealed:
    """The import system after the seal: from here on, an import would resolve inside the container (CVE-2019-14271)."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        raise ImportError(f"import of {name!r} inside the container: import it at the top of the isolator's module")


def _seal_imports() -> None:
    """Forget every place that modules come from; those that are loaded stay usable."""
    sys.meta_path[:], sys.path[:], sys.path_hooks[:] = [_Sealed], [], []


def _call(order: Order) -> NoReturn:
    """Our own code as the command. What it prints goes to the streams of the container, and not to the parent's."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    order.command()  # type: ignore[operator]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _execute(order: Order) -> NoReturn:
    """execve(2) the first match of argv[0] in PATH, as a shell would; what `env` holds is the whole environment."""
    argv: list[str] = order.command  # type: ignore[assignment]
    program, failure = argv[0], syscalls.error("execve", errno.ENOENT, argv[0])
    for directory in [""] if "/" in program else order.env.get("PATH", DEFAULT_PATH).split(":"):
        candidate = os.path.join(directory, program)
        try:
            os.execve(candidate, argv, order.env)
        except OSError as refused:
            if refused.errno == errno.ENOENT and os.path.exists(candidate):
                failure = syscalls.error("execve", errno.ELIBBAD, candidate)  # it is there; its interpreter is not
            elif refused.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = syscalls.error("execve", refused.errno or 0, candidate)
    raise failure


def _described(isolator: Isolator | None, failure: BaseException) -> tuple[object, ...]:
    """The failure for the host side: isolator, system call, errno, path, text. Plain values, never code.

    Of a mistake in the isolator's own code it says where: to read the line itself would mean the container's files.
    """
    name = type(isolator).__name__ if isolator is not None else None
    if isinstance(failure, OSError) and failure.strerror:
        return described(name, failure)
    if isinstance(failure, ContainerError):  # one of our own, a line for people already
        return "", None, None, None, str(failure)[:4096]
    place, trace = "", failure.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename != __file__ and not code.co_filename.startswith("<frozen"):  # neither ours nor Python's
            place = f" (line {trace.tb_lineno} of {code.co_name})"
        trace = trace.tb_next
    return name, None, None, None, f"{type(failure).__name__}: {failure}"[:4096] + place


# The watcher, a small process that ends containers when their owner ends, however it ends. A process can ask for a
# signal at the death of its parent: PR_SET_PDEATHSIG of prctl(2). The kernel forgets this when the process changes its
# user, or executes a set-user-ID program. So a process of ours sees the end of the owner instead.

FROM_OWNER, OWNER = 0, 1  # the descriptors of the watcher: the socket, and a pidfd; all others are pidfds of containers
_watchers: dict[int, int] = {}  # the pid of this process -> its socket to its watcher; a fork of it needs its own


def watch(pid: int, pidfd: int) -> None:
    """Tell the watcher, which is forked at the first need: the caller must have one thread. It says when it has begun;
    after that a message is read even if this process is killed now, so nobody waits for an answer."""
    owner = os.getpid()
    try:
        send(_watchers[owner], pid, pidfd)
    except (KeyError, ConnectionError):  # there is none yet, or somebody has killed it
        ours, theirs = pair()
        itself = os.pidfd_open(owner)  # before the fork: this process may be gone when the watcher asks for it
        if syscalls.clone3(0, exit_signal=0) == 0:  # no SIGCHLD at its end: the caller's wait(2) does not see it
            _watch(theirs, itself)
        os.close(itself)
        os.close(theirs)
        if owner in _watchers:
            os.close(_watchers[owner])
        _watchers[owner] = ours
        if receive(ours)[0] is None:
            raise ContainerError("the watcher, which ends containers when their owner ends, could not begin") from None
        send(ours, pid, pidfd)


def _watch(channel: int, owner: int) -> NoReturn:
    """The whole life of the watcher: note each pidfd that comes, forget those that end, kill the rest at last."""
    watched: dict[int, int] = {}
    try:
        _settle(channel, owner)
        send(FROM_OWNER, True)
        while ready := polled([FROM_OWNER, OWNER, *watched], None):
            for pidfd in watched.keys() & {*ready}:
                del watched[pidfd]
                os.close(pidfd)
            pid, pidfds = receive(FROM_OWNER) if FROM_OWNER in ready else (None, [])
            watched |= {pidfd: pid for pidfd in pidfds if pid}
            if pid == 0:  # they may outlive the owner
                watched.clear()
            if pid is None and {FROM_OWNER, OWNER} & {*ready}:
                break  # what was sent before the end has been read
        for pidfd, pid in watched.items():
            _end(pid, pidfd)
    finally:
        os._exit(0)


def _settle(channel: int, owner: int) -> None:
    """Hold nothing else: no stream, whose reader would wait for our end, and no terminal whose keys would reach us."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.setsid()
    prctl(syscalls.PR_SET_NAME, b"watcher")
    os.dup2(channel, FROM_OWNER)
    os.dup2(owner, OWNER)
    close_range(OWNER + 1)
    limits = os.open("/proc/self/limits", os.O_RDONLY)  # the owner may raise its own of files, and start many
    most = int(syscalls.read(limits).partition(b"Max open files")[2].split()[1])
    os.close(limits)
    syscalls.call("prlimit64", 0, 7, syscalls.structure(most, most), None)  # NOFILE; the module resource takes 0.5 MB


def _end(pid: int, pidfd: int) -> None:
    """SIGKILL to its process group, while its number is certainly its own, and to it."""
    for kill, whom in ((os.killpg, pid), (signal.pidfd_send_signal, pidfd)):
        try:
            if not polled([pidfd], 0):
                kill(whom, signal.SIGKILL)
        except OSError:
            pass  # it never became the leader of a group, or it has ended

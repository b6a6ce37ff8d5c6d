"""Chapter 0: the inside. What the new process does between its birth and the command.

The host side and the new process share nothing but a few descriptors. The new process tidies them, waits at a
gate until the host side has finished its part, walks the list of isolators and executes the command:

    spawn ──► arrange descriptors ──► wait at the gate ──► seal imports ──► inside() of each isolator ──► exec

Whatever goes wrong on the way is sent to the host side through a pipe that a successful exec closes, and the
process ends with `os._exit`: it is a copy of its parent, and must never run on in the parent's code.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import sys

from minidocker import syscalls
from minidocker.outcome import ENGINE_FAILED, NOT_FOUND
from minidocker.syscalls import signal

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from minidocker.process import Isolator


class Order:
    """What the new process is to do: the command, its surroundings, and the list of isolators to walk."""

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: str | None, isolators: Sequence[Isolator], terminal: bool
    ) -> None:
        self.argv, self.env, self.cwd, self.isolators, self.terminal = argv, env, cwd, isolators, terminal


class Birth:
    """What must be known before the process exists: namespaces, cgroup, descriptors. Numbers only.

    `streams` are (stdin, stdout, stderr, gate, report). `descriptors` maps the number that an isolator knows to the
    number under which this process holds the same thing: in the launcher, which received copies, they differ.
    """

    def __init__(
        self, flags: int, cgroup: int | None, pid_namespace: int | None, streams: list[int], descriptors: dict[int, int]
    ) -> None:
        self.flags, self.cgroup, self.pid_namespace = flags, cgroup, pid_namespace
        self.streams, self.descriptors = streams, descriptors

    @classmethod
    def of(cls, isolators: Sequence[Isolator], streams: list[int]) -> Birth:
        """What the isolators ask for together. One can be born in one cgroup and one PID namespace: the last wins."""
        birth = cls(0, None, None, streams, {})
        for isolator in isolators:
            birth.flags |= isolator.clone_flags
            birth.cgroup = isolator.cgroup if isolator.cgroup is not None else birth.cgroup
            birth.pid_namespace = isolator.pid_namespace if isolator.pid_namespace is not None else birth.pid_namespace
            birth.descriptors.update({number: number for number in isolator.descriptors})
        return birth


class Forked:
    """A new process whose parent is this one: `pid`, `pidfd`, and `ended`, a descriptor that is readable at its end."""

    def __init__(self, birth: Birth, order: Order) -> None:
        self.pid = spawn(birth, lambda: order)
        self.pidfd = self.ended = os.pidfd_open(self.pid)

    def collect(self) -> int:
        """Its wait status, once it has ended."""
        return reap(self.pid)


def spawn(birth: Birth, read_order: Callable[[], Order]) -> int:
    """Make the new process and return its pid. The caller must have one thread: it is a small program, or the launcher.

    Nobody can change their own PID namespace: setns and unshare decide where the *next child* is born. So the caller
    turns to the other PID namespace for the moment of the birth, and back.
    """
    flags = birth.flags | (syscalls.CLONE_INTO_CGROUP if birth.cgroup is not None else 0)
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if birth.pid_namespace is not None else -1
    parent = os.pidfd_open(os.getpid())
    try:
        if birth.pid_namespace is not None:
            syscalls.setns(birth.pid_namespace, syscalls.CLONE_NEWPID)
        pid = syscalls.clone3(flags, birth.cgroup or 0)
        if pid == 0:
            _live(birth, read_order, parent)
    finally:
        os.close(parent)
        if home >= 0:
            syscalls.setns(home, syscalls.CLONE_NEWPID)
            os.close(home)
    return pid


def _live(birth: Birth, read_order: Callable[[], Order], parent: int) -> NoReturn:
    """The whole life of the new process on our side of exec; `parent` is a pidfd of the one that it is to die with.

    A parent that died before the wish was made sends no signal. Its number would not tell (getppid(2) is 0 for one in
    another PID namespace); its pidfd does, which is readable at its end.
    """
    report = birth.streams[4]
    isolator: Isolator | None = None
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if _polled(parent, select.POLLIN):
            os._exit(ENGINE_FAILED)
        order = read_order()
        gate, report = _arrange(birth)
        _forget_the_parent(order.terminal)
        if os.read(gate, 1) != b"x":
            os._exit(ENGINE_FAILED)  # the host side died, or gave up: nobody waits for this process
        _seal_imports()
        for isolator in order.isolators:
            isolator.inside()
        isolator = None
        _survive_nobody(report)
        _execute(order)
    except BaseException as failure:
        _send(report, isolator, failure)
    finally:
        os._exit(NOT_FOUND)


def _arrange(birth: Birth) -> tuple[int, int]:
    """Give each descriptor its number, close every other (CVE-2024-21626), and return those of the gate and the report.

    First all are lifted above every number in use, so that none is overwritten before it is copied.
    """
    free = max([2, *birth.descriptors]) + 1
    wanted = dict(zip([0, 1, 2, free, free + 1], birth.streams, strict=True)) | birth.descriptors
    top = max([*wanted, *wanted.values()]) + 1
    for offset, source in enumerate(wanted.values()):
        os.dup2(source, top + offset, inheritable=False)
    for offset, number in enumerate(wanted):
        os.dup2(top + offset, number, inheritable=number <= 2)
    lowest = 3
    for number in sorted(number for number in wanted if number > 2):
        if number > lowest:
            syscalls.close_range(lowest, number - 1)
        lowest = number + 1
    syscalls.close_range(lowest)
    return free, free + 1


def _forget_the_parent(terminal: bool) -> None:
    """A session of its own, no inherited signal handling; with `terminal`, descriptor 0 is its controlling terminal."""
    os.setsid()
    for number in range(1, signal.NSIG):
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if terminal:
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # tty_ioctl(4): the first terminal that a session leader opens
    os.umask(0o022)


class _Sealed:
    """The import system after the seal: from here on, an import would resolve inside the container (CVE-2019-14271)."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        raise ImportError(f"import of {name!r} inside the container: import it at the top of the isolator's module")


def _seal_imports() -> None:
    """Forget every place that modules come from; those that are loaded stay usable."""
    sys.meta_path[:] = [_Sealed]
    sys.path.clear()
    sys.path_hooks.clear()


def _survive_nobody(report: int) -> None:
    """Ask again to die with the parent, since a change of user clears the wish (prctl(2)); see whether it is dead."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if _polled(report, 0):  # POLLERR: nobody holds the other end
        os._exit(ENGINE_FAILED)


def _polled(descriptor: int, events: int) -> bool:
    """Whether one of these events, or an error, is there right now: poll(2)."""
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(0))


def _execute(order: Order) -> NoReturn:
    """execve(2) the first match of argv[0] in PATH, as a shell would; what `env` holds is the whole environment."""
    if order.cwd is not None:
        syscalls.call("chdir", order.cwd, path=order.cwd)
    program = order.argv[0]
    directories = [""] if "/" in program else order.env.get("PATH", DEFAULT_PATH).split(":")
    failure = syscalls.error("execve", errno.ENOENT, program)
    for directory in directories:
        candidate = os.path.join(directory, program)
        try:
            os.execve(candidate, order.argv, order.env)
        except OSError as refused:
            if refused.errno == errno.ENOENT and os.path.exists(candidate):
                failure = syscalls.error("execve", errno.ELIBBAD, candidate)  # it is there; its interpreter is not
            elif refused.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = syscalls.error("execve", refused.errno or 0, candidate)
    raise failure


def _send(report: int, isolator: Isolator | None, failure: BaseException) -> None:
    """Describe the failure to the host side: isolator, system call, errno, path, text. Plain values, never code."""
    name = type(isolator).__name__ if isolator is not None else None
    if isinstance(failure, OSError) and failure.strerror:
        path = failure.filename and os.fsdecode(failure.filename)
        fields = (name, getattr(failure, "syscall", None), failure.errno, path, failure.strerror)
    else:
        fields = (name, None, None, None, f"{type(failure).__name__}: {failure}{_place(failure)}")
    os.write(report, marshal.dumps(fields))


def _place(failure: BaseException) -> str:
    """Where in the isolator's code it happened; reading the source itself would mean the container's files."""
    place, trace = "", failure.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename != __file__ and not code.co_filename.startswith("<frozen"):  # neither ours nor Python's
            place = f" (line {trace.tb_lineno} of {code.co_name})"
        trace = trace.tb_next
    return place


def reap(pid: int) -> int:
    """Wait until the process has ended, end what it left in its process group, and return its wait status.

    The parent runs this. Its zombie still holds the number, so the group cannot be anybody else's.
    """
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass  # it never became the leader of a group
    return os.waitpid(pid, 0)[1]

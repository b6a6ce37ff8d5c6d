"""Chapter 2: namespaces, a view of one's own. All eight of them, and joining those of a running container.

    run(["sh"], Namespaces("pid mount uts ipc net"), PivotRoot(root))    # alone, as far as it can see
    run(["ps"], Join(process.pid))                                       # one more process in there: docker exec
    run(["server"], Namespaces("pid"), Init())                           # behind a first process that does its duties

A namespace is made at the birth of a process, or by unshare(2); it lasts as long as a process is in it (or somebody
holds it open), and everything that belongs to it ends with it: namespaces(7).
"""

from __future__ import annotations

import errno
import os
import sys

from minidocker import syscalls
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError, Result
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import signal

KINDS = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "net": syscalls.CLONE_NEWNET,
    "user": syscalls.CLONE_NEWUSER,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}
# Not made at birth: its maker's cgroup becomes the root, so it has to be in it; clocks are set while nobody is inside.
LATE = ("cgroup", "time")
SIOCSIFFLAGS, IFF_UP, AF_INET, SOCK_DGRAM = 0x8914, 1, 2, 2  # <linux/sockios.h>, <linux/if.h>, <linux/socket.h>
PR_CAPBSET_DROP = 24  # <linux/prctl.h>
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def namespace_of(pid: int | str, kind: str) -> int:
    """The identity of a namespace: the inode number of its file in /proc. Needs the right to trace the process."""
    return os.stat(f"/proc/{pid}/ns/{'mnt' if kind == 'mount' else kind}").st_ino


def _checked(kinds: str) -> list[str]:
    for kind in kinds.split():
        if kind not in KINDS:
            raise ContainerError(f"no namespace is called {kind!r}: the kernel has {' '.join(KINDS)}")
    return kinds.split()


class Namespaces(Isolator):
    """New namespaces of these `kinds`, e.g. "pid mount uts", each made usable.

    `hostname`: for uts (default: the container's name). `uid_map`, `gid_map`: for user, lines "inside outside count" of
    user_namespaces(7) (default: root inside is the caller outside, which any user may ask for). `monotonic`,
    `boottime`: for time, seconds that the two clocks are ahead of the host's.
    Needs CAP_SYS_ADMIN, except with "user" among the kinds: who makes a user namespace has all rights *in it*.
    """

    def __init__(
        self,
        kinds: str,
        *,
        hostname: str = "",
        uid_map: str = "",
        gid_map: str = "",
        monotonic: int = 0,
        boottime: int = 0,
    ) -> None:
        self.kinds, self.hostname = _checked(kinds), hostname
        self.uid_map = uid_map or f"0 {os.geteuid()} 1"
        self.gid_map = gid_map or f"0 {os.getegid()} 1"
        self.monotonic, self.boottime = monotonic, boottime
        self.clone_flags = sum(KINDS[kind] for kind in {*self.kinds} - {*LATE})

    def attach(self, pid: int) -> None:
        """Write the maps of a new user namespace, from outside, where the caller's rights count and not those it gives.

        A caller without CAP_SETGID must first give up setgroups(2), with which one could drop a group that forbids.
        """
        if "user" in self.kinds:
            if os.geteuid() != 0:
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/uid_map", self.uid_map)
            _write(f"/proc/{pid}/gid_map", self.gid_map)

    def inside(self) -> None:
        """Make each new view usable. A namespace starts as a copy (mount, uts) or empty (net, ipc, pid).

        The change of user comes last: after it, files in /proc/self belong to somebody else until the command executes.
        """
        if "user" in self.kinds:
            _check_rights()
        if "mount" in self.kinds:
            make_mounts_private()
        if "uts" in self.kinds:
            name = self.hostname or self.container
            syscalls.call("sethostname", name, len(os.fsencode(name)), path=name)
        if "net" in self.kinds:
            _loopback_up()
        if "cgroup" in self.kinds:
            syscalls.call("unshare", syscalls.CLONE_NEWCGROUP)
        if "time" in self.kinds:
            _enter_time(self.monotonic, self.boottime)
        if "user" in self.kinds:
            _leave_groups()
            _become_root(self.uid_map, self.gid_map)


def _write(path: str, text: str) -> None:
    """One write(2) to a file of /proc, as these files want it."""
    descriptor = syscalls.call("open", path, os.O_WRONLY | os.O_CLOEXEC, path=path)
    try:
        syscalls.call("write", descriptor, text.encode(), len(text.encode()), path=path)
    finally:
        os.close(descriptor)


def _check_rights() -> None:
    """Who makes a user namespace has all rights in it, unless a security module takes them away again.

    So ask for something impossible, to drop capability 4095: EINVAL answers those who may ask, EPERM the others.
    """
    try:
        syscalls.prctl(PR_CAPBSET_DROP, 4095)
    except PermissionError:
        text = "this machine gives no rights in a user namespace to those who are not root"
        if os.path.exists(APPARMOR):
            text += "; AppArmor does that: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        raise PermissionError(errno.EPERM, text) from None
    except OSError:
        pass


def _leave_groups() -> None:
    """Keep none of the caller's groups, where that is allowed; else (see `attach`) they stay, as nobody's."""
    try:
        os.setgroups([])
    except PermissionError:
        pass


def _become_root(uid_map: str, gid_map: str) -> None:
    """User and group 0 of the new user namespace, if the maps have them: the first column is the number inside."""
    if "0" in gid_map.split()[::3]:
        syscalls.call("setresgid", 0, 0, 0)
    if "0" in uid_map.split()[::3]:
        syscalls.call("setresuid", 0, 0, 0)


def _loopback_up() -> None:
    """A new network namespace has one interface, lo, and it is down: netdevice(7)."""
    ifreq = b"lo".ljust(16, b"\0") + IFF_UP.to_bytes(2, sys.byteorder).ljust(24, b"\0")
    descriptor = syscalls.call("socket", AF_INET, SOCK_DGRAM, 0)
    syscalls.call("ioctl", descriptor, SIOCSIFFLAGS, ifreq, path="lo")
    os.close(descriptor)


def _enter_time(monotonic: int, boottime: int) -> None:
    """time_namespaces(7): unshare makes one for children; set its clocks while it is empty, then step in oneself."""
    syscalls.call("unshare", syscalls.CLONE_NEWTIME)
    _write("/proc/self/timens_offsets", f"monotonic {monotonic} 0\nboottime {boottime} 0\n")
    descriptor = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    syscalls.call("setns", descriptor, syscalls.CLONE_NEWTIME)
    os.close(descriptor)


class Join(Isolator):
    """Enter the namespaces of the running process `pid` instead of making new ones: nsenter(1), `docker exec`.

    `kinds` default to all; those in which it does not differ from the caller are left out. It takes CAP_SYS_ADMIN over
    each of them: root has it, and the maker of the user namespace that they belong to. setns(2) takes a pidfd, so one
    that ended meanwhile is an error, and never another process with its number.
    """

    def __init__(self, pid: int, kinds: str = "") -> None:
        self.pid, self.kinds = pid, _checked(kinds) or [*KINDS]

    def __enter__(self) -> Isolator:
        """Hold the process, and find out where it lives.

        Root lets the new process be born in its PID namespace. Another user has the right to only after entering the
        user namespace, when it is already born: then a child of it becomes the command.
        """
        try:
            self.descriptors = (os.pidfd_open(self.pid),)
            differ = (kind for kind in self.kinds if namespace_of(self.pid, kind) != namespace_of("self", kind))
            self.flags = sum(KINDS[kind] for kind in differ)
            if self.flags & syscalls.CLONE_NEWPID and os.geteuid() == 0:
                self.flags &= ~syscalls.CLONE_NEWPID
                self.pid_namespace = self.descriptors[0]
            self.maps = [open(f"/proc/{self.pid}/{name}").read() for name in ("uid_map", "gid_map")]
        except BaseException as gone:
            self.__exit__()
            if not isinstance(gone, ProcessLookupError | FileNotFoundError):
                raise
            message = f"Join: process {self.pid} has ended, and its namespaces cannot be entered through it any more"
            raise ContainerError(message, isolator="Join", errno=gone.errno) from None
        return self

    def inside(self) -> None:
        """All at once: the kernel sorts out that the rights come from the user namespace, and the rest follows."""
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # nobody in there may trace us until the exec (CVE-2016-9962)
        if self.flags & syscalls.CLONE_NEWUSER:
            _leave_groups()  # root's groups would be of use in there
        if self.flags:
            syscalls.call("setns", self.descriptors[0], self.flags, path=f"process {self.pid}")
        if self.flags & syscalls.CLONE_NEWUSER:
            _become_root(*self.maps)
        if self.flags & syscalls.CLONE_NEWPID:
            _go_on_as_child()

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class Init(Isolator):
    """A PID namespace whose first process stays ours and does its duties; the command is its child, as with --init.

    The kernel gives every orphan of a PID namespace to its first process, which must reap it; it drops every signal for
    which that process has no handler; and when it ends, all others are killed: pid_namespaces(7).
    Last in the list, so that it stands behind all the walls, too.
    """

    clone_flags = syscalls.CLONE_NEWPID

    def inside(self) -> None:
        """Only the child returns, and becomes the command."""
        _go_on_as_child()


def _go_on_as_child() -> None:
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
    syscalls.close_range(3)  # among them the channel, which must not stay open when the command executes
    os._exit(_serve(command))


def _hide_the_host() -> None:
    """This process is still a copy of one of the host's, and the container sees it in /proc/1: it must not tell.

    Not dumpable, its memory, its descriptors and its program (CVE-2019-5736) are closed to all but root of the host.
    Its arguments and environment lie in memory that proc_pid_stat(5) names; they are overwritten, as postgres does it.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_NAME, b"init")
    try:
        with open("/proc/self/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return  # a root without /proc
    start, end = int(fields[45]), int(fields[48])  # arg_start and env_end
    syscalls.call("memset", start, 0, end - start)
    syscalls.call("memcpy", start, b"init", 4)


def _take_terminal() -> None:
    """The signals of the keys of a terminal are for the command alone: it becomes the foreground group."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return  # there is no terminal
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())


def _serve(command: int) -> int:
    """Forward each signal to the command, reap all that ends; return the command's exit code, 128+N after a signal."""
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number != signal.SIGCHLD:
            os.kill(command, number)  # it is there, or its zombie is, which nobody but us can reap
            continue
        ended = -1
        while ended != 0:  # as long as the command is not reaped, there is a child, so this cannot fail
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == command:
                return Result(status).exit_code

"""Machines on which Docker, Podman and containerd run, for the lab and the tests of chapter 11: containers of ours.

    with Machine("host1") as host, docker(host, ours(host)) as client:
        print(host.do(*client, "run", "--rm", "busybox", "echo", "hello"))

A machine has all namespaces but that of users, and a part of each control group, which to it is the whole. It sees the
files of the host, but for /run and what the engines write, which are in memory. When it ends, however it ends, all of
its processes end with it, daemons and shims, too; its mounts, networks and groups are gone.
"""

import contextlib
import os
import signal
import sys
import sysconfig
import time

import minidocker
from minidocker import process, syscalls
from minidocker.cgroups import Cgroup, hierarchies
from minidocker.cgroups.hierarchy import Group
from minidocker.namespaces import Init, Join, Namespaces
from minidocker.outcome import ContainerError

# Debian's programs first: an unrelated docker client of another version may lie in /usr/local/bin
PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
ENV = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/run", "container": "minidocker"}  # so AppArmor is left alone
IN_MEMORY = ("/run", "/dev/shm", "/var/tmp", "/opt", "/var/lib/cni")  # engines write there; the last is of networks
IMAGE = "docker.io/library/busybox:latest"  # the long name, which all three understand


class Slice(Cgroup):
    """A group in each hierarchy of this machine, which inside is the top of it."""

    def __enter__(self):
        super().__enter__()  # those that limit and measure
        self.modern = len(hierarchies()) == 1
        old = [one for one in hierarchies() if one.version == 1]
        self.mounts = [(one.path, ",".join(sorted(one.controllers))) for one in old] or [(hierarchies()[0].path, "")]
        self.dropped = [one.path for one in hierarchies() if one.version == 2]  # nobody else takes both versions
        has = {os.path.dirname(group.path) for group in self._all()}
        try:
            for one in (one for one in old if one.parent not in has):
                self.groups[one.path] = group = Group(one, self.container)
                if "cpuset" in one.controllers:  # a new group has no CPU and no memory
                    for path, file in ((path, f) for path in (one.parent, group.path) for f in ("cpus", "mems")):
                        with open(f"{one.path}/cpuset.{file}") as every, open(f"{path}/cpuset.{file}", "w") as part:
                            part.write(every.read())
                self.descriptors += (os.open(f"{group.path}/tasks", os.O_WRONLY),)
        except BaseException:
            self.__exit__()
            raise
        return self

    def inside(self):
        super().inside()
        syscalls.call("unshare", syscalls.CLONE_NEWCGROUP)
        for path in {*self.dropped, *(path for path, _ in self.mounts)}:
            syscalls.call("umount2", path, syscalls.MNT_DETACH, path=path)
        for path, names in self.mounts:
            syscalls.mount("cgroup", path, "cgroup" if names else "cgroup2", data=names or None)
        if self.modern:  # version 2: where groups are below, there may be no processes
            os.mkdir("/sys/fs/cgroup/init")
            for file, text in (("init/cgroup.procs", "0"), ("cgroup.subtree_control", "+cpu +memory +pids +io")):
                with open(f"/sys/fs/cgroup/{file}", "w") as group:
                    group.write(text)


class Place(process.Isolator):
    """The file systems of a machine: /proc of its own processes, and memory for what is written."""

    def inside(self):
        syscalls.mount("proc", "/proc", "proc")
        for path in IN_MEMORY:
            os.makedirs(path, exist_ok=True)
            syscalls.mount("tmpfs", path, "tmpfs")
        os.mkdir("/run/lock")
        with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
            switch.write("1")


class Into(Join):
    """Into the namespaces of a machine, and before that into its groups."""

    def __init__(self, pid, group):
        super().__init__(pid)
        self.group = group

    def __enter__(self):
        super().__enter__()
        paths = [f"{one.path}{self.group}/cgroup.procs" for one in hierarchies()]
        self.descriptors += tuple(os.open(path, os.O_WRONLY) for path in paths)
        return self

    def inside(self):
        for group in self.descriptors[1:]:
            os.write(group, b"0")  # the process that writes it
        super().inside()


class Machine:
    """One host: `do` runs a command on it, `spawn` starts one that goes on; `off` cuts its power."""

    def __init__(self, name):
        group, spaces = Slice(), Namespaces("pid mount net uts ipc", hostname=name)
        parts = spaces, group, Place(), Init()  # its first process collects orphans, such as shims
        self.keeper = process.start(["sleep", "infinity"], *parts, env=ENV, name=f"{name}-{os.urandom(4).hex()}")
        self.name, self.group = name, f"/minidocker/{self.keeper.name}{'/init' * group.modern}"
        self.pid, self.running = self.keeper.pid, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.off()

    def off(self):
        """SIGKILL to its first process: the kernel ends all others, and this is what a power cut looks like."""
        self.keeper.kill()
        for one in (
            self.running
        ):  # it has ended only when all of its processes are collected, also those whose parent is outside
            one.__exit__()
        self.keeper.__exit__()
        self.running = []

    def here(self):
        """What brings a process of the real host to this one."""
        return Into(self.pid, self.group)

    def path(self, path):
        """Where a file of the machine is seen from here."""
        return f"/proc/{self.pid}/root{path}"

    def spawn(self, *argv, **options):
        """A program that runs meanwhile: a Process."""
        options = {"env": ENV} | options
        self.running.append(process.start([*map(str, argv)], self.here(), **options))
        return self.running[-1]

    def command(self, *argv, timeout=120, **options):
        """A program, and its Result."""
        options = {"env": ENV} | options
        return process.run([*map(str, argv)], self.here(), timeout=timeout, **options)

    def do(self, *argv, **options):
        """A program that must succeed; what it prints."""
        done = self.command(*argv, **options)
        if done.exit_code:
            raise ContainerError(
                f"{self.name}: {' '.join(map(str, argv))[:200]}: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout.strip()


def until(condition, seconds=30.0):
    """Wait for something that happens soon; its last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


@contextlib.contextmanager
def daemon(host, ready, *argv):
    """A program that serves until the block ends, from the moment on in which the command `ready` succeeds."""
    with open(host.path(f"/run/{argv[0]}.log"), "wb") as log:
        server = host.spawn(*argv, stdout=log.fileno(), stderr=log.fileno())
    if not until(lambda: not server.alive() or host.command(*ready).exit_code == 0) or not server.alive():
        raise ContainerError(
            f"{argv[0]} does not get ready: {host.command('tail', '-n3', f'/run/{argv[0]}.log').stdout}"
        )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            server.wait(20)


def write(host, path, text):
    """A file of the machine, which its /proc/PID/root shows."""
    with open(host.path(path), "w") as file:
        file.write(text)
    return path


def ours(host):
    """`minidocker runtime` of this clone, as a program of the machine: its path."""
    places = [os.path.dirname(os.path.dirname(minidocker.__file__)), sysconfig.get_paths()["purelib"]]
    code = f"import sys\nsys.path += {places!r}\nfrom minidocker.cli.runtime import command\ncommand()\n"
    return executable(host, "/run/ours", f"#!{sys.executable} -IS\n{code}")


def noting(host, runtime):
    """A program that executes the runtime, and notes its arguments in /run/calls: its path."""
    return executable(host, "/run/noting", f'#!/bin/sh\necho "$*" >>/run/calls\nexec {runtime} "$@"\n')


def executable(host, path, text):
    """A program of the machine; its path."""
    write(host, path, text)
    host.do("chmod", "755", path)
    return path


def archive(host):
    """The image busybox of our store, as a file of the machine."""
    save = [sys.executable, "-m", "minidocker", "save", "-o", "/run/image.tar", "busybox"]
    home = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
    host.do(*save, env=ENV | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MINIDOCKER_HOME": home})
    return "/run/image.tar"


@contextlib.contextmanager
def docker(host, runtime, *options):
    """dockerd with its containerd, whose containers are all of this runtime: the words of its client."""
    argv = ["dockerd", "--config-file", write(host, "/run/daemon.json", "{}"), "--data-root=/run/docker-data"]
    argv += ["--storage-driver=overlay2", f"--add-runtime=ours={runtime}", "--default-runtime=ours"]
    client = ["docker", "-H", "unix:///run/docker.sock"]
    with daemon(host, [*client, "version"], *argv, *options):
        host.do(*client, "load", "-q", "-i", archive(host))
        yield client


@contextlib.contextmanager
def podman(host, runtime, *options):
    """The words of a Podman, which has no daemon; its image is there."""
    ulimits = '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n'
    settings = write(host, "/run/containers.conf", ulimits)
    client = ["env", f"CONTAINERS_CONF={settings}", "podman", "--log-level=error", f"--runtime={runtime}"]
    client += ["--root=/run/store", "--storage-driver=overlay", "--events-backend=file", "--cgroup-manager=cgroupfs"]
    host.do(*client, "load", "-q", "-i", archive(host))
    yield [*client, *options]

"""Verbs that need no root: what this machine can do, found by trying (doctor); how it forgets us; who we are (login).

Each probe does the real thing (unshares the namespace, mounts the overlay, adds the firewall table) behind walls of the
engine's own that end with it, so nothing is left behind. The files in /proc and /sys say what a kernel was built with;
only a try says what this user, in this container or virtual machine, is allowed to do.
"""

import base64
import fcntl
import getpass
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from minidocker import state, syscalls
from minidocker.cgroups import Cgroup
from minidocker.cgroups.hierarchy import hierarchies, read
from minidocker.cli import Options
from minidocker.cli.lists import tell
from minidocker.engine.records import records
from minidocker.images.manifest import DEFAULT_REGISTRY, parsed, platform
from minidocker.images.registry import Registry
from minidocker.images.store import Store
from minidocker.namespaces import KINDS, Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run
from minidocker.rootfs import PivotRoot
from minidocker.security.seccomp import HERE, Seccomp
from minidocker.union import Union

TOOLS = ["busybox", "mount", "unshare", "nsenter", "ldd", "strace", "ip", "nft", "mmdebstrap", "runc", "crun", "bwrap"]
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
LIMITS: dict[str, dict[str, Any]] = {"cpu": {"cpus": 0.5}, "memory": {"memory": "64m"}, "pids": {"pids": 64}}
BE_ROOT, PROVISION = "run it as root, or with sudo", "run: sh vagrant/provision.sh"
NOTES = ("user without root", "overlayfs", "FUSE", "nftables", "seccomp", "KVM's device", "free disk")  # not for 0 to 3
ONLY_ROOT = "user namespaces only work as root here"
OVERLAY = "modprobe overlay; MINIDOCKER_HOME has to be on ext4, xfs, btrfs or tmpfs"
APPARMOR = "AppArmor forbids it: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
HUB = ("", DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io")  # what people call it
Check = tuple[str, str, str]  # name, what was found, and the remedy: nothing if all is well


def doctor(_: Options) -> int:
    """doctor: say what this machine can do, and how to mend what it cannot"""
    status = 0
    for name, found, remedy in checks():
        mark = "ok" if not remedy else "note" if name in NOTES else "MISSING"
        print(f"{mark:<8} {name:<21} {found}" + (f"; {remedy}" if remedy else ""))
        status |= mark == "MISSING"
    return status


def version(options: Options) -> None:
    """version [OPTIONS]: which minidocker this is, on which kernel and Python

    -f, --format TEMPLATE  only this of it, e.g. '{{.Client.Version}}'
    """
    installed = importlib.metadata.distributions(name="minidocker")
    number, has = next((one.version for one in installed), "0.1.0"), platform()  # a checkout does not know its number
    known = {"Version": number, "Python": sys.version.split()[0], "KernelVersion": os.uname().release}
    known |= {"Os": has["os"], "Arch": has["architecture"]}
    tell(options, {"Client": known, "Server": known})  # there is no daemon: what is asked does it itself


def info(options: Options) -> None:
    """info [OPTIONS]: what there is here: containers, images, and what the machine has for them

    -f, --format TEMPLATE  only this of it, e.g. '{{.ContainersRunning}}'
    """
    states = [record.state()["status"] for record in records()]
    known: dict[str, object] = {f"Containers{name.capitalize()}": states.count(name) for name in ("running", "paused")}
    known |= {"ContainersStopped": sum(one not in ("running", "paused") for one in states)}
    known |= {"Containers": len(states), "Images": len(Store().manifests())}
    known |= {"Driver": "overlay2", "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs"}
    known |= {"CgroupVersion": f"{max((one.version for one in hierarchies()), default=0)}"}
    known |= {"SecurityOptions": ["name=seccomp,profile=default"], "DockerRootDir": state.home()}
    has, memory = os.uname(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    known |= {"Name": has.nodename, "KernelVersion": has.release, "OSType": "linux", "Architecture": has.machine}
    known |= {"NCPU": os.cpu_count() or 0, "MemTotal": memory}
    tell(options, known)


def reset(_: Options) -> None:
    """reset: remove every trace of minidocker from this machine, as make reset does"""
    script = os.path.join(os.path.dirname(__file__), "..", "..", "vagrant", "reset.sh")
    if not os.path.exists(script):
        raise ContainerError(f"{script} is not there: run it from a checkout of the repository")
    os.execv("/bin/sh", ["sh", script])


def login(options: Options, server: str = "") -> None:
    """login [OPTIONS] [SERVER]: keep a name and a password for a registry (Docker Hub), once they are tried

    -u, --username NAME      who you are there
    -p, --password PASSWORD  which others can see then, in /proc
        --password-stdin     read it from standard input
    """
    known = options.username and (options.password or options.password_stdin)
    if not known and not sys.stdin.isatty():
        raise ContainerError("there is no terminal to ask you on: use -u NAME and --password-stdin")
    name, server = options.username or input("Username: "), _registry(server)
    password = sys.stdin.read().rstrip("\r\n") if options.password_stdin else options.password or getpass.getpass()
    os.environ["MINIDOCKER_AUTH"] = f"{server}={name}:{password}"  # which a client takes before all that is stored
    with Registry(server, "") as registry:
        registry.rest(registry.request("GET", "/v2/"))
    _write(server, {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()})
    print("Login Succeeded")


def logout(_: Options, server: str = "") -> None:
    """logout [SERVER]: forget the name and the password for a registry"""
    server = _registry(server)
    print("Removing login credentials for" if _write(server) else "Not logged in to", server)


def _registry(server: str) -> str:
    host = server.removeprefix("https://").partition("/")[0]
    return DEFAULT_REGISTRY if host in HUB else host


def _write(server: str, entry: dict[str, str] | None = None) -> bool:
    """Set or remove one entry, and keep all else; whether there was one. Only its owner can read the file."""
    os.umask(0o077)
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    os.makedirs(directory, exist_ok=True)
    state.hold(directory, wait=True)  # until this process ends
    path, config = os.path.realpath(f"{directory}/config.json"), dict[str, Any]()
    if os.path.exists(path):
        with open(path, "rb") as file:
            config = parsed(file.read(), what=path)
    key = "https://index.docker.io/v1/" if server == DEFAULT_REGISTRY else server
    was = config.setdefault("auths", {}).pop(key, None)
    config["auths"] |= {key: entry} if entry else {}
    state.replace(path, json.dumps(config, indent="\t").encode())
    return was is not None


def tried(name: str, remedy: str, command: Callable[[], object] | list[str], *isolators: Isolator) -> Check:
    """The check that comes of an attempt behind these isolators. Who is not root is told to be that first."""
    try:
        result = run(command, *isolators, env={"PATH": PATH})
        problem = result.stderr.strip() or f"exit status {result.exit_code}" if result.exit_code else ""
    except ContainerError as refused:
        problem = os.strerror(refused.errno).lower() if refused.errno else str(refused)
    return name, problem or "works", (BE_ROOT if os.geteuid() else remedy) if problem else ""


def checks() -> Iterator[Check]:
    """The kernel, the rights, the tools, the root file systems; all eight namespaces; a limit of each kind. Then union
    mounts (chapter 4), the firewall that publishes ports (7), virtual machines (8), the filter of calls (9), and room.
    """
    release, user = os.uname().release, os.geteuid()
    new = tuple(map(int, release.split("-")[0].split(".")[:2])) >= (5, 12)
    yield "kernel", release, "" if new else "Linux 5.12 or later is needed"
    yield "rights", f"user id {user}" if user else "root", BE_ROOT if user else ""
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    yield "tools", f"not here: {', '.join(missing)}" if missing else "all here", PROVISION if missing else ""
    for name in ("busybox", "debian"):
        root = PivotRoot(f"{state.home()}/roots/{name}")
        yield tried(f"root {name}", PROVISION, ["sh", "-c", ":"], Namespaces("mount pid"), root)
    for kind in KINDS:
        name = {"net": "network"}.get(kind, kind)
        namespace = Namespaces(kind, uid_map="0 0 1", gid_map="0 0 1") if kind == "user" else Namespaces(kind)
        yield tried(f"namespace {name}", "the kernel, a policy or a container forbids it", os.getpid, namespace)
    restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() not in ("", "0")
    yield tried("user without root", APPARMOR if restricted else ONLY_ROOT, unshare_as_nobody)
    versions = " and ".join(sorted({f"v{one.version}" for one in hierarchies()}))
    yield "cgroup version", versions or "none mounted", "" if versions else "mount -t cgroup2 none /sys/fs/cgroup"
    for name, limits in LIMITS.items():
        remedy = f"boot with cgroup_enable={name}, or use the virtual machine (vagrant up)"
        yield tried(f"cgroup {name}", remedy, os.getpid, Cgroup(**limits))
    yield tried("seccomp", "the kernel is built without it", os.getpid, Seccomp(frozenset(), f"{HERE}/seccomp.json"))
    yield tried("overlayfs", OVERLAY, os.getpid, Union(["/usr"]))
    yield tried("FUSE", "modprobe fuse", lambda: os.open("/dev/fuse", os.O_RDWR))
    yield tried("nftables", "modprobe nf_tables", ["nft", "add", "table", "inet", "doctor"], Namespaces("net"))
    # 0xAE00 is KVM_GET_API_VERSION; whether a guest boots where KVM answers, only a boot can say: see chapter 8
    slow = "virtual machines are emulated, and slow"
    yield tried("KVM's device", slow, lambda: fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE00))
    disk = os.statvfs(state.home() if os.path.exists(state.home()) else "/")
    free = disk.f_bavail * disk.f_frsize / 1e9
    yield "free disk", f"{free:.0f} GB", "" if free >= 2 else f"2 GB are needed for {state.home()}"


def unshare_as_nobody() -> None:
    """In the child, as nobody: a user namespace, and another that it owns. AppArmor allows only the first."""
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    syscalls.call("unshare", syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWUTS)

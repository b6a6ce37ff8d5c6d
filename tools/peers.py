"""The other runtimes of `make bench`: each is one command that runs `echo up`, in a lab that leaves the host alone.

    with lab() as scratch, peers(scratch) as commands:     # {"crun": ["crun", ...], ...}, those that are installed

The lab is a mount namespace and a network namespace of its own, entered once, with a copy of the root in memory and a
/run of its own. There a hybrid host has no /sys/fs/cgroup/unified, since crun refuses hybrid hosts; and the network has
`lo` only.
What is equal among them is said in tools/bench.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from minidocker import state, syscalls
from minidocker.bench.storage import usage
from minidocker.rootfs import make_mounts_private

ROOT = Path(state.home(), "roots/busybox")
# Debian's programs first: an unrelated docker client of another version may lie in /usr/local/bin
PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
MEMORY, CPUS, PIDS = 64 << 20, 1, 64  # a start stays far below each of them
GROUP = "minidocker-bench"  # the cgroups that we ask the others to use begin so
THEIRS = ("docker", "libpod_parent", "lxc.pivot")  # what they make all the same at the top of a hierarchy
COMMAND = ["echo", "up"]


class Missing(Exception):
    """A runtime that cannot be measured here, and why."""


@contextmanager
def lab() -> Iterator[Path]:
    """Leave the host's mounts and network for good, and yield a directory in memory. The caller has one thread so far.

    The process stays the lab's owner; at its end only the directory's mounts are gone.
    """
    before = {path for path in cgroups() if path.name in THEIRS}
    with tempfile.TemporaryDirectory(prefix="minidocker-bench-") as folder:
        enter(folder)
        try:
            yield Path(folder)
        finally:
            syscalls.umount(str(ROOT), syscalls.MNT_DETACH)
            for place in (folder, "/run"):
                syscalls.umount(place, syscalls.MNT_DETACH)
            for path in cgroups():
                if path not in before and (path.name in THEIRS or path.name.startswith((GROUP, "lxc."))):
                    remove_groups(path)


def enter(folder: str) -> None:
    """The namespaces, and a copy of the root in memory in the place of the one on disk."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    make_mounts_private()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        syscalls.umount("/sys/fs/cgroup/unified", syscalls.MNT_DETACH)
    for place in ("/run", folder):
        syscalls.mount("tmpfs", place, "tmpfs")
    subprocess.run(["cp", "-a", str(ROOT), f"{folder}/rootfs"], check=True)
    syscalls.mount(f"{folder}/rootfs", str(ROOT), flags=syscalls.MS_BIND)


def cgroups() -> list[Path]:
    """The groups just below the top of each hierarchy."""
    return [path for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()]


def remove_groups(top: Path) -> None:
    """Remove a group and those below it, if no process is in them; what is used by somebody stays."""
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            Path(directory).rmdir()
        except OSError:
            return


def bundle(name: str) -> dict[str, Any]:
    """The config.json of an OCI bundle that asks for what our own list asks for, and so for no capabilities."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": COMMAND, "cwd": "/", "env": [f"PATH={PATH}"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(ROOT)},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network", "cgroup")],
            "cgroupsPath": f"/{GROUP}-{name}",
            "resources": {
                "memory": {"limit": MEMORY},
                "cpu": {"quota": 100_000 * CPUS, "period": 100_000},
                "pids": {"limit": PIDS},
            },
        },
    }


def oci(scratch: Path, name: str) -> list[str]:
    """crun or runc, with a bundle of its own."""
    folder = scratch / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(bundle(name)))
    return [name, "--root", str(scratch / f"state-{name}"), "run", "--bundle", str(folder), "bench"]


def unshare(scratch: Path) -> list[str]:
    """util-linux's: namespaces and a root, no limits and no pivot."""
    walls = ["--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup"]
    return ["unshare", *walls, f"--root={ROOT}", "--mount-proc=/proc", *COMMAND]


def bwrap(scratch: Path) -> list[str]:
    """bubblewrap: namespaces and a root of its own; no limits."""
    walls = [f"--unshare-{kind}" for kind in ("pid", "uts", "ipc", "net", "cgroup")]
    return ["bwrap", *walls, "--bind", str(ROOT), "/", "--proc", "/proc", *COMMAND]


def lxc(scratch: Path) -> list[str]:
    """lxc-start in the foreground: the command is the container's first process."""
    folder = scratch / "lxc/box"
    folder.mkdir(parents=True)
    settings = {
        "rootfs.path": f"dir:{ROOT}",
        "uts.name": "box",
        "net.0.type": "empty",
        "mount.auto": "proc:rw",
        "autodev": 0,
        "tty.max": 0,
        "pty.max": 0,
        "console.path": "none",
        "init.cmd": " ".join(["/bin/" + COMMAND[0], *COMMAND[1:]]),
        "cgroup.dir": f"{GROUP}-lxc",
        "cgroup.memory.limit_in_bytes": MEMORY,
        "cgroup.cpu.cfs_quota_us": 100_000 * CPUS,
        "cgroup.pids.max": PIDS,
        "cgroup2.memory.max": MEMORY,
        "cgroup2.cpu.max": f"{100_000 * CPUS} 100000",
        "cgroup2.pids.max": PIDS,
    }
    (folder / "config").write_text("".join(f"lxc.{key} = {value}\n" for key, value in settings.items()))
    return ["lxc-start", "-P", str(folder.parent), "-n", "box", "-F"]


def nspawn(scratch: Path) -> list[str]:
    """systemd-nspawn without a word to systemd, which need not run; no limits."""
    walls = ["--register=no", "--keep-unit", "--private-network", "--console=pipe", "-q"]
    return ["systemd-nspawn", *walls, "-D", str(ROOT), *COMMAND]


@contextmanager
def on_disk() -> Iterator[Path]:
    """A directory among those of the containers: if we are killed, `minidocker prune` removes it."""
    name = f"bench-{os.urandom(6).hex()}"
    lock = state.claim(name)
    try:
        yield Path(state.directory(name))
    finally:
        detach(state.directory(name))
        state.release(name, lock)


def detach(place: str) -> None:
    """Unmount what lies below a directory: Podman leaves its store mounted on itself."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(place)), reverse=True):
        syscalls.umount(mount, syscalls.MNT_DETACH)


def podman_client(scratch: Path, data: Path) -> list[str]:
    """Podman with settings of its own, and its store in `data`."""
    settings = scratch / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n')
    store = [f"--root={data}", f"--runroot={scratch}/run", f"--tmpdir={scratch}/tmp"]  # it wants short names
    store += ["--storage-driver=overlay", "--events-backend=file", "--cgroup-manager=cgroupfs"]
    return ["env", f"CONTAINERS_CONF={settings}", "podman", "--log-level=error", *store]


@contextmanager
def podman(scratch: Path) -> Iterator[list[str]]:
    """Podman without a network, as the others. Its store is on the disk, as Docker's and ours are."""
    with on_disk() as data:
        yield podman_run(scratch, podman_client(scratch, data))


def podman_run(scratch: Path, client: list[str]) -> list[str]:
    """The command, once its image is there."""
    checked([*client, "import", "-q", str(archive(scratch, ROOT)), "bench"])
    return [*client, "run", "--rm", "--network=none", f"--cgroup-parent=/{GROUP}-podman", *limits(), "bench", *COMMAND]


@contextmanager
def docker_client(scratch: Path, data: Path) -> Iterator[list[str]]:
    """Docker with a daemon of its own, in a PID namespace so that nothing of it survives, and its store in `data`."""
    daemon = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "dockerd", "--bridge=none"]
    (scratch / "daemon.json").write_text("{}")
    daemon += ["--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver=overlay2"]
    daemon += [f"--config-file={scratch}/daemon.json", f"--data-root={data}", "--log-level=fatal"]
    daemon += [f"--exec-root={scratch}/docker-exec", f"--pidfile={scratch}/docker.pid"]
    client = ["docker", "-H", f"unix://{scratch}/docker.sock"]
    log = (scratch / "docker.log").open("w")
    process = subprocess.Popen([*daemon, *client[1:]], stdout=log, stderr=log, env={"PATH": PATH})
    try:
        wait_for([*client, "version"], process)
        yield client
    finally:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)  # the first process of the namespace: all others die with it
        process.wait()
        log.close()


@contextmanager
def docker(scratch: Path) -> Iterator[list[str]]:
    """Docker without a network."""
    with on_disk() as data, docker_client(scratch, data) as client:
        checked([*client, "import", str(archive(scratch, ROOT)), "bench"])
        run = ["run", "--rm", "--network=none", f"--cgroup-parent=/{GROUP}-docker", *limits()]
        yield [*client, *run, "bench", *COMMAND]


def store(client: list[str], archive: Path, data: Path, command: str) -> Callable[[int], int]:
    """Bytes on disk of the store `data` of Docker or Podman, with so many containers of the archive that have run."""
    checked([*client, "import", str(archive), "debian"])
    started: list[int] = []

    def measured(number: int) -> int:
        while len(started) < number:
            run = ["run", "--network=none", f"--cgroup-parent=/{GROUP}-store", "debian", "sh", "-c", command]
            checked([*client, *run])
            started.append(1)
        return usage(str(data))

    return measured


@contextmanager
def stores(scratch: Path, place: Path, command: str) -> Iterator[dict[str, Callable[[int], int]]]:
    """What `store` says for each of the two that is installed. Their data lie in `place`, as what is compared does."""
    found = {}
    with ExitStack() as stack:
        for way, program in (("overlay2", "dockerd"), ("podman_store", "podman")):
            folder, data = scratch / way, place / way
            folder.mkdir()
            try:
                if not shutil.which(program, path=PATH):
                    raise Missing("it is not installed")
                client = podman_client(folder, data)
                if program == "dockerd":
                    client = stack.enter_context(docker_client(folder, data))
                found[way] = store(client, archive(scratch, Path(state.home(), "roots/debian")), data, command)
            except Missing as reason:
                print(f"bench: no figure against {way}: {reason}")
        yield found


def limits() -> list[str]:
    """Of a container, in the words of Docker and Podman."""
    return [f"--memory={MEMORY}", f"--cpus={CPUS}", f"--pids-limit={PIDS}"]


def archive(scratch: Path, root: Path) -> Path:
    """A root as a tar archive."""
    path = scratch / f"{root.name}.tar"
    if not path.exists():
        checked(["tar", "-C", str(root), "-cf", str(path), "."])
    return path


def checked(argv: list[str]) -> None:
    """Run a preparation; if it fails, its runtime is missing."""
    done = subprocess.run(argv, env={"PATH": PATH}, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{argv[0]}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


def wait_for(argv: list[str], process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Until the command succeeds, which asks the process whether it is ready."""
    end = time.monotonic() + seconds
    while subprocess.run(argv, env={"PATH": PATH}, capture_output=True).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise Missing(f"{'the daemon'}: it does not get ready")
        time.sleep(0.1)


# name: (the program that must be installed, how to make the command)
RUNTIMES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "crun": ("crun", lambda scratch: oci(scratch, "crun")),
    "runc": ("runc", lambda scratch: oci(scratch, "runc")),
    "unshare": ("unshare", unshare),
    "bwrap": ("bwrap", bwrap),
    "lxc": ("lxc-start", lxc),
    "nspawn": ("systemd-nspawn", nspawn),
    "podman": ("podman", podman),
    "docker": ("dockerd", docker),
}


@contextmanager
def peers(scratch: Path, names: tuple[str, ...] = tuple(RUNTIMES)) -> Iterator[dict[str, list[str]]]:
    """The commands of those that are installed and work. Of the others it is said that, and why, there is no figure."""
    commands = {}
    with ExitStack() as stack:
        for name in names:
            program, make = RUNTIMES[name]
            try:
                if not shutil.which(program, path=PATH):
                    raise Missing("it is not installed (make run installs the peers that Debian has)")
                made = make(scratch)
                commands[name] = made if isinstance(made, list) else stack.enter_context(made)
                works(commands[name])
            except Missing as reason:
                commands.pop(name, None)
                print(f"bench: no figure against {name}: {reason}")
        commands["process"] = [str(ROOT / "bin/busybox"), *COMMAND]
        yield commands


def works(argv: list[str]) -> None:
    """Try it once, before the rounds begin."""
    done = subprocess.run(argv, env={"PATH": PATH}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or "up" not in done.stdout.split():
        last = (done.stderr.strip().splitlines() or ["it did not say up"])[-1]
        raise Missing(f"exit status {done.returncode}: {last}")


def versions(commands: dict[str, list[str]]) -> dict[str, str]:
    """What they say they are."""
    answers = {}
    for name in [name for name in commands if name in RUNTIMES]:
        program = RUNTIMES[name][0]
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, env={"PATH": PATH}).stdout
        words = [word.strip(",") for word in answer.splitlines()[0].split()] if answer else ["?"]
        answers[name] = next((word for word in words if word[0].isdigit()), words[-1])
    return answers

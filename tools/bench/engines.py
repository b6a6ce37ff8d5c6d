"""Podman and Docker in the lab of `make bench`: each with a store of its own on the disk, and Docker with a daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.storage import usage
from minidocker import state, syscalls
from tools.bench.measure import Missing, lose
from tools.bench.sandbox import COMMAND, CPUS, GROUP, MEMORY, PATH, PIDS, ROOT, checked


@contextmanager
def on_disk() -> Iterator[Path]:
    """A directory among those of the containers: if we are killed, `minidocker prune` removes it."""
    name = f"bench-{os.urandom(6).hex()}"
    lock = state.claim(state.directory(name))
    try:
        yield Path(state.directory(name))
    finally:
        await_podman(state.directory(name))
        detach(state.directory(name))
        state.release(state.directory(name), lock)


def await_podman(place: str) -> None:
    """Until no process names the place any more: Podman cleans up after a container when its command has ended."""
    until = time.monotonic() + 10
    while time.monotonic() < until and any(place.encode() in words(path) for path in Path("/proc").glob("[0-9]*")):
        time.sleep(0.02)


def words(process: Path) -> bytes:
    """What it was started with; nothing of one that has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def detach(place: str) -> None:
    """Unmount what lies below a directory: Podman leaves its store mounted on itself."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(place)), reverse=True):
        syscalls.call("umount2", mount, syscalls.MNT_DETACH)


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
    daemon = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    daemon += ["sh", "-c", 'mount -t tmpfs tmpfs /opt && exec "$@"', "sh"]  # its containerd makes a directory there
    daemon += ["dockerd", "--bridge=none"]
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
        with suppress(OSError):  # it has crashed
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)  # the first process of the namespace: all others die with it
        process.kill()
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
                lose(way, reason)
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


def wait_for(argv: list[str], process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Until the command succeeds, which asks the process whether it is ready."""
    end = time.monotonic() + seconds
    while subprocess.run(argv, env={"PATH": PATH}, capture_output=True, timeout=seconds).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise Missing("the daemon does not get ready")
        time.sleep(0.1)

"""Chapter 11: the life of a container, as a runtime has it: create, start, kill, delete; and one more process, exec.

Each is called by a program of its own, which ends. What they know of a container is in a file: ROOT/NAME/state.json.
"""

from __future__ import annotations

import _socket as socket
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator

from minidocker import child, oci, state
from minidocker.cgroups.hierarchy import freeze, frozen, hierarchies, read
from minidocker.namespaces import Join
from minidocker.oci.groups import Groups
from minidocker.outcome import ContainerError, warn
from minidocker.process import Process, start
from minidocker.syscalls import PR_SET_DUMPABLE, Any, polled, prctl, receive, send, signal
from minidocker.trees import remove

Json = dict[str, Any]
PATIENCE = 10.0  # seconds for a killed process to be gone


def known(root: str, name: str, *statuses: str) -> Json:
    """What is known of a container, which has to be in one of these states, if any are given."""
    place = state.directory(name, root)
    try:
        with open(f"{place}/state.json") as file:
            found: Json = json.load(file)
    except FileNotFoundError:
        raise ContainerError(f"container {name} does not exist") from None
    if found["pid"] and oci.started(found["pid"]) != found["started"]:
        found["status"], found["pid"] = "stopped", 0
    elif found["status"] != "creating":
        found["status"] = "created" if os.path.exists(f"{place}/gate") else "running"
        found["status"] = "paused" if freezer(found) and frozen(freezer(found)) else found["status"]
    if statuses and found["status"] not in statuses:
        raise ContainerError(f"container {name} is {found['status']}: container not {' or '.join(statuses)}")
    return found


def freezer(container: Json) -> str:
    """Its group in the hierarchy that stops processes; "" where there is none."""
    return next((one.path + container["cgroup"] for one in hierarchies() if "freezer" in one.controllers), "")


def pids(container: Json) -> list[int]:
    """All of its processes."""
    groups = os.walk(freezer(container))
    found = [int(pid) for place, _, _ in groups for pid in read(f"{place}/cgroup.procs").split()]
    return found or [container["pid"]] * bool(container["pid"])


@contextlib.contextmanager
def _gate(place: str) -> Iterator[tuple[socket.socket, str]]:
    """A socket, and the address of the gate: that has at most 107 bytes, and a path may have more."""
    directory = os.open(place, os.O_PATH)
    try:
        yield socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), f"/proc/self/fd/{directory}/gate"
    finally:
        os.close(directory)


def create(options: Any, name: str) -> tuple[Process, Json]:
    """Its process exists when this returns, and waits behind all of its walls."""
    place = state.directory(name, options.root)
    os.chdir(options.bundle or ".")
    try:
        with open("config.json") as file:
            config = json.load(file)
    except ValueError as wrong:
        raise ContainerError(f"config.json: it is not JSON: {wrong}") from None
    path = (config.get("linux") or {}).get("cgroupsPath") or name
    if ":" in path:
        raise ContainerError(f"config.json: linux.cgroupsPath: {path}: it is systemd's: use the driver cgroupfs")
    container = {"ociVersion": oci.VERSION, "id": name, "status": "creating", "pid": 0, "started": 0}
    container |= {"bundle": os.getcwd(), "place": place, "cgroup": os.path.normpath(f"/{path.strip('/')}")}
    container |= {"config": config, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    os.makedirs(options.root, exist_ok=True)
    try:
        os.mkdir(place, 0o711)
    except FileExistsError:
        raise ContainerError(f"container {name} exists already: container with given ID already exists") from None
    try:
        oci.save(container)
        walls = oci.isolators(container, pivot=not options.no_pivot)
        if bool(options.console_socket) != bool(options.get("detach", True) and config["process"].get("terminal")):
            raise ContainerError("--console-socket: process.terminal needs one, and nothing else does")
        with _gate(place) as (listener, address):
            listener.bind(address)
            listener.listen(1)
            gate = oci.Gate(container, listener.fileno(), int(options.number("preserve-fds", int)))
            process = start(gate, *walls, gate, stdin=0, stdout=1, stderr=2, name=name)
        try:
            told(options, process)
            oci.save(container | {"status": "created"})
        except BaseException:
            process.kill()
            process.wait()
            raise
    except BaseException:
        remove(place)
        raise
    return process, container


def told(options: Any, process: Process) -> None:
    """Who called us gets the terminal, and the number of the process."""
    if options.console_socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(options.console_socket)
        rights = process.terminal.to_bytes(4, sys.byteorder)
        client.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    if options.pid_file:
        state.replace(options.pid_file, str(process.pid).encode())


def let_go() -> None:
    """What this process has started may outlive it."""
    send(child._watchers[os.getpid()], 0)


def begin(container: Json) -> None:
    """Open the gate: who is behind it says what went wrong, or nothing, when the command executes."""
    try:
        with _gate(container["place"]) as (client, address):
            client.connect(address)
        os.unlink(f"{container['place']}/gate")
    except OSError:
        raise ContainerError(f"container {container['id']} does not wait to be started") from None
    problem, _ = receive(client.fileno())
    if problem is not None:
        raise ContainerError(problem)
    hooks(container, "running", "poststart")


def hooks(container: Json, status: str, moment: str) -> None:
    """Those whose failure is told, and changes nothing."""
    try:
        oci.hooks(container | {"status": status}, moment)
    except ContainerError as failed:
        warn(str(failed))


def end(container: Json) -> None:
    """Kill what still runs in it, and remove what is left."""
    if container["pid"]:
        pidfd = os.pidfd_open(container["pid"])
        kill(container, [container["pid"]], signal.SIGKILL)
        polled([pidfd], PATIENCE)
    Groups(container["cgroup"], {}).__exit__()
    hooks(container | {"pid": 0}, "stopped", "poststop")
    remove(container["place"])


def kill(container: Json, whom: list[int], number: int) -> None:
    """Send a signal. What is frozen does not even die."""
    for pid in whom:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    if number == signal.SIGKILL and freezer(container):
        with contextlib.suppress(ContainerError):
            freeze(freezer(container), False)


def execute(options: Any, container: Json, process: Json) -> Process:
    """One more process, behind the same walls."""
    config = container["config"] | {"process": process}
    gate = oci.Gate(container | {"config": config}, preserved=int(options.number("preserve-fds", int)))
    walls = [Groups(container["cgroup"], {}, made=True), Entered(container["pid"], process)]
    prctl(PR_SET_DUMPABLE, 0)  # root in there must not trace what has our rights still (CVE-2016-9962)
    walls += [*oci.terminal(process), oci.Rights(config), gate]
    new = start(gate, *walls, stdin=0, stdout=1, stderr=2, name=container["id"])
    told(options, new)
    return new


class Entered(Join):
    """Into the namespaces of the container; its limits of a process are set from outside."""

    def __init__(self, pid: int, process: Json) -> None:
        super().__init__(pid)
        self.process = process

    def attach(self, pid: int) -> None:
        """As at the start of the container."""
        oci.limit(self.process, pid)


def forward(process: Process) -> None:
    """Signals that we get are for it."""
    for number in {*signal.valid_signals()} - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, lambda sent, _: process.send_signal(sent))


def waited(process: Process) -> int:
    """Its exit code."""
    if process.terminal >= 0:
        from minidocker.terminal import interact

        return interact(process).exit_code
    return process.wait().exit_code

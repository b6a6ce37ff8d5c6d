"""Chapter 11: the life of a container, as a runtime has it: create, start, state, kill, delete, and all at once, run.

Each is a program that ends. What they know of a container is in a file: ROOT/NAME/state.json.
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
from minidocker.oci.groups import Groups
from minidocker.outcome import ContainerError, warn
from minidocker.process import Process, start
from minidocker.syscalls import Any, polled, receive, send, signal
from minidocker.trees import remove

Json = dict[str, Any]
ANSWER = 10.0  # seconds for killed processes to be gone


def known_of(options: Any, name: str) -> Json:
    """The state of a container: "creating", "created", "running", "paused" or "stopped"."""
    place = state.directory(name, options.root)
    try:
        with open(f"{place}/state.json") as file:
            known: Json = json.load(file)
    except FileNotFoundError:
        raise ContainerError(f"container {name} does not exist") from None
    if known["pid"] and oci.started(known["pid"]) != known["started"]:
        known["status"], known["pid"] = "stopped", 0
    elif known["status"] != "creating":
        paused = (group := freezer(known)) and frozen(group)
        known["status"] = "paused" if paused else "created" if os.path.exists(f"{place}/gate") else "running"
    return known


def freezer(known: Json) -> str:
    """The group of a container in the hierarchy that stops processes; "" where there is none."""
    return next((f"{one.path}{known['cgroup']}" for one in hierarchies() if "freezer" in one.controllers), "")


def wanted(options: Any, name: str, *statuses: str) -> Json:
    """What is known of a container that must be in one of these states."""
    known = known_of(options, name)
    if known["status"] not in statuses:
        raise ContainerError(f"container {name} is {known['status']}: container not {' or '.join(statuses)}")
    return known


@contextlib.contextmanager
def _short(place: str) -> Iterator[str]:
    """The address of the gate: a socket's name has at most 107 bytes, and a path may have more."""
    directory = os.open(place, os.O_PATH)
    try:
        yield f"/proc/self/fd/{directory}/gate"
    finally:
        os.close(directory)


def let_go() -> None:
    """What this process has started may outlive it."""
    send(child._watchers[os.getpid()], 0)


def create_(options: Any, name: str) -> None:
    """create [OPTIONS] NAME: make a container; its process waits until start

    -b, --bundle DIRECTORY    where config.json is (here)
    --pid-file FILE           write the number of its process there
    --console-socket SOCKET   send the terminal there
    --preserve-fds N          descriptors that it inherits, from 3 on
    --no-pivot                change the root without pivot_root(2)
    --no-new-keyring          accepted, and without effect
    """
    _begun(options, name)
    let_go()


def _begun(options: Any, name: str) -> tuple[Process, Json]:
    """The process waits, behind all of its walls."""
    place = state.directory(name, options.root)
    for path in ("pid-file", "console-socket", "root"):
        options[path] = os.path.abspath(options[path]) if options[path] else ""
    os.chdir(options.bundle or ".")
    try:
        with open("config.json") as file:
            config = json.load(file)
    except ValueError as wrong:
        raise ContainerError(f"config.json: it is not JSON: {wrong}") from None
    path = (config.get("linux") or {}).get("cgroupsPath") or f"/{name}"
    known = {"ociVersion": oci.VERSION, "id": name, "status": "creating", "pid": 0, "started": 0, "bundle": os.getcwd()}
    known |= {"place": place, "cgroup": "/" + os.path.normpath("/" + path).lstrip("/"), "config": config}
    known["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.makedirs(options.root, exist_ok=True)
    try:
        os.mkdir(place, 0o711)
    except FileExistsError:
        raise ContainerError(f"container {name} exists already: container with given ID already exists") from None
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _short(place) as address:
            listener.bind(address)
        listener.listen(1)
        oci.save(known)
        walls = oci.isolators(known, pivot=not options.no_pivot)
        alone = options.get("detach", True) and bool(config["process"].get("terminal"))
        if alone != bool(options.console_socket):
            raise ContainerError("--console-socket: process.terminal needs one, and nothing else does")
        gate = oci.Gate(known, listener.fileno(), int(options.number("preserve-fds", int)))
        process = start(gate, *walls, gate, stdin=0, stdout=1, stderr=2, name=name)
        try:
            tell(options, process)
            known["status"] = "created"
            oci.save(known)
            return process, known
        except BaseException:
            process.kill()
            process.wait()
            raise
    except BaseException:
        remove(place)
        raise


def tell(options: Any, process: Process) -> None:
    """Who called us gets the terminal, and the number of the process."""
    if options.console_socket:
        _send(process.terminal, options.console_socket)
    if options.pid_file:
        state.replace(os.path.abspath(options.pid_file), str(process.pid).encode())


def _send(terminal: int, address: str) -> None:
    """Our end of the terminal, to whoever listens there."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(address)
    rights = terminal.to_bytes(4, sys.byteorder)
    client.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    client.close()


def start_(options: Any, name: str) -> None:
    """start NAME: execute the command of a created container"""
    known = wanted(options, name, "created")
    _open(known)


def _open(known: Json) -> None:
    """Open the gate: who is behind it says what went wrong, or nothing, when the command executes."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(known["place"]) as address:
            client.connect(address)
        os.unlink(f"{known['place']}/gate")
    except OSError:
        raise ContainerError(f"container {known['id']} does not wait to be started") from None
    told, _ = receive(client.fileno())
    if told is not None:
        raise ContainerError(told)
    known["status"] = "running"
    for hook in ("poststart",):
        try:
            oci.hooks(known, hook)
        except ContainerError as failed:
            warn(str(failed))


def state_(options: Any, name: str) -> None:
    """state NAME: print what is known of a container, as JSON"""
    known = known_of(options, name)
    own = {"rootfs": os.path.join(known["bundle"], known["config"]["root"]["path"]), "created": known["created"]}
    print(json.dumps(oci.public(known) | own, indent=2))


def kill_(options: Any, name: str, number: str = "TERM") -> None:
    """kill [OPTIONS] NAME [SIGNAL]: send a signal to its first process (SIGTERM)

    -a, --all   to all of its processes
    """
    known = known_of(options, name)
    sent = _signal(number)
    if known["status"] == "stopped" and not options.all:
        raise ContainerError(f"container {name} is stopped: container not running")
    for pid in pids_of(known) if options.all else [known["pid"]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
    if sent == signal.SIGKILL and (group := freezer(known)):
        with contextlib.suppress(ContainerError):
            freeze(group, False)  # what is frozen does not even die


def _signal(text: str) -> int:
    known = {name: int(getattr(signal, name)) for name in dir(signal) if name.startswith("SIG") and name[3] != "_"}
    number = int(text) if text.isdecimal() else known.get("SIG" + text.upper().removeprefix("SIG"), 0)
    if not 0 < number < signal.NSIG:
        raise ContainerError(f"kill: {text} is no signal: see kill -l")
    return number


def pids_of(known: Json) -> list[int]:
    """All of its processes."""
    group = freezer(known)
    found = [int(pid) for place, _, _ in os.walk(group) for pid in read(f"{place}/cgroup.procs").split()]
    return found or [known["pid"]] * bool(known["pid"])


def delete_(options: Any, name: str) -> None:
    """delete [OPTIONS] NAME: remove what is left of a stopped container

    -f, --force   kill it first; one that does not exist is no error
    """
    place = state.directory(name, options.root)
    if options.force and not os.path.exists(f"{place}/state.json"):
        if os.path.isdir(place):
            remove(place)
        return
    known = known_of(options, name)
    if known["status"] != "stopped" and not options.force:
        raise ContainerError(f"container {name} is {known['status']}: cannot delete container that is not stopped")
    _remove(known)


def _remove(known: Json) -> None:
    """With what still runs in it. Hooks that fail are told, and the rest goes on."""
    if known["pid"]:
        pidfd = os.pidfd_open(known["pid"])
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ContainerError):
            freeze(freezer(known), False)
        polled([pidfd], ANSWER)
    Groups(known["cgroup"], {}).remove()
    known["status"], known["pid"] = "stopped", 0
    try:
        oci.hooks(known, "poststop")
    except ContainerError as failed:
        warn(str(failed))
    remove(known["place"])


def run_(options: Any, name: str) -> int:
    """run [OPTIONS] NAME: create, start, wait for its end, and delete

    -b, --bundle DIRECTORY    where config.json is (here)
    -d, --detach              do not wait
    --keep                    do not delete
    --pid-file FILE           write the number of its process there
    --console-socket SOCKET   send the terminal there
    --preserve-fds N          descriptors that it inherits, from 3 on
    --no-pivot                change the root without pivot_root(2)
    --no-new-keyring          accepted, and without effect
    --no-subreaper            accepted, and without effect
    """
    process, known = _begun(options, name)
    forward(process)
    try:
        _open(known)
    except BaseException:
        _remove(known)
        raise
    if options.detach:
        let_go()
        return 0
    code = waited(process)
    if not options.keep:
        known["pid"] = 0
        _remove(known)
    return code


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

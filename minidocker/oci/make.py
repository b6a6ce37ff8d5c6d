"""Chapter 11: what a runtime starts: create, run; and one more process in a container, exec."""

from __future__ import annotations

import _json
import _socket as socket
import os
import sys
import time

from minidocker import child, oci, state
from minidocker.isolator import Isolator
from minidocker.namespaces import Join
from minidocker.oci import Json
from minidocker.oci.config import SETS, Gate, Limits, Rights, guard, isolators, terminal
from minidocker.oci.groups import Groups, check_free
from minidocker.outcome import ContainerError, failure
from minidocker.process import Process, start
from minidocker.syscalls import Any, receive, send, signal
from minidocker.trees import remove

BEGIN = """\
    --pid-file FILE           write the number of its process there
    --console-socket SOCKET   send the terminal there
    --preserve-fds N          descriptors that it inherits, from 3 on
"""
BUNDLE = """\
    -b, --bundle DIRECTORY    where config.json is (here)
    --no-pivot                change the root without pivot_root(2)
    --no-new-keyring          accepted, and without effect
    --no-subreaper            accepted, and without effect
"""


class _Json:
    """How to read it, as json.loads does."""

    strict, memo, parse_float, parse_int, parse_constant = True, dict[str, str](), float, int, float
    object_hook = object_pairs_hook = None


def parsed(path: str) -> Any:
    """A file of JSON, by the half of the module that is written in C: the other one imports re, and takes 3 ms."""
    with open(path, encoding="utf-8") as file:
        text = file.read().strip()
    try:
        value, end = _json.make_scanner(_Json)(text, 0)  # type: ignore[arg-type]
        if end == len(text) and isinstance(value, dict):
            return value
    except (ValueError, StopIteration, SystemError):
        pass
    raise ContainerError(f"{path}: it is not JSON")


def begun(options: Any, name: str) -> tuple[Process, Json]:
    """Its process exists when this returns, and waits behind all of its walls."""
    place = state.directory(name, options.root)
    os.chdir(options.bundle or ".")
    config = parsed("config.json")
    path = (config.get("linux") or {}).get("cgroupsPath") or name
    if ":" in path:
        raise ContainerError(f"config.json: linux.cgroupsPath: {path}: it is systemd's: use the driver cgroupfs")
    container: Json = {"ociVersion": oci.VERSION, "id": name, "status": "creating", "pid": 0, "started": 0}
    container |= {"bundle": os.getcwd(), "place": place, "cgroup": os.path.normpath(f"/{path.strip('/')}")}
    container |= {"config": config, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    os.makedirs(options.root, exist_ok=True)
    try:
        os.mkdir(place, 0o700)  # in config.json are secrets, mostly
    except FileExistsError:
        raise ContainerError(f"container {name} exists already: container with given ID already exists") from None
    try:
        check_free(container["cgroup"])  # before anybody could take them for ours
        oci.save(container)
        walls = isolators(container, pivot=not options.no_pivot)
        if bool(options.console_socket) != bool(options.get("detach", True) and config["process"].get("terminal")):
            raise ContainerError("--console-socket: process.terminal needs one, and nothing else does")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(oci.gate(container))
        listener.listen(1)
        gate = Gate(container, listener.fileno(), int(options.number("preserve-fds", int)))
        process = start(gate, *walls, gate, stdin=0, stdout=1, stderr=2, name=name)
        try:
            told(options, process)
            oci.save(container | {"status": "created"})
        except BaseException:
            process.kill()
            process.wait()
            raise
    except (LookupError, TypeError, AttributeError) as wrong:
        remove(place)
        raise ContainerError(f"config.json: something is missing in it, or of another kind: {wrong}") from None
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


def forward(process: Process) -> None:
    """Signals that we get are for it."""
    for number in {*signal.valid_signals()} - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, lambda sent, _: process.send_signal(sent))
        except OSError:
            pass  # of the threads of libc


def waited(process: Process) -> int:
    """Its exit code."""
    if process.terminal >= 0:
        from minidocker.terminal import interact

        return interact(process).exit_code
    return process.wait().exit_code


def create_(options: Any, name: str) -> None:
    """create [OPTIONS] NAME: make a container; its process waits until start"""
    begun(options, name)
    let_go()


def run_(options: Any, name: str) -> int:
    """run [OPTIONS] NAME: create, start, wait for its end, and delete

    -d, --detach              do not wait
    --keep                    do not delete
    """
    process, container = begun(options, name)
    forward(process)
    try:
        oci.begin(container)
    except BaseException:
        oci.end(container)
        raise
    if options.detach:
        let_go()
        return 0
    code = waited(process)
    if not options.keep:
        oci.end(container | {"pid": 0})
    return code


def exec_(options: Any, name: str, *words: str) -> int:
    """exec [OPTIONS] NAME [COMMAND...]: one more process in a container

    -p, --process FILE        what it is, as config.json has it
    -d, --detach              do not wait
    -t, --tty                 with a terminal
    --cwd DIRECTORY           its working directory
    -e, --env NAME=VALUE...   more of its environment
    -u, --user UID[:GID]      who it is
    -g, --additional-gids N...   its further groups
    -c, --cap NAME...         more rights
    --no-new-privs            it cannot get more rights
    --apparmor PROFILE        its profile
    --ignore-paused           wait in a paused container
    """
    container = oci.known(options.root, name, "created", "running", *["paused"] * options.ignore_paused)
    process = _process(options, container["config"]["process"], [*words])
    config = container["config"] | {"process": process}
    gate = Gate(container | {"config": config}, preserved=int(options.number("preserve-fds", int)))
    pid = container["pid"]
    walls: list[Isolator] = [Groups(container["cgroup"], {}, made=pid), Join(pid), Limits(process)]
    walls += [*terminal(process), Rights(config)]
    guard()
    new = start(gate, *walls, gate, stdin=0, stdout=1, stderr=2, name=name)
    problem, _ = receive(new.channel)  # its end is that of our code in there: the command executes
    if problem is not None:
        raise failure(*problem)
    told(options, new)
    if options.detach:
        let_go()
        return 0
    forward(new)
    return waited(new)


def _process(options: Any, own: Json, words: list[str]) -> Json:
    """From a file, or the container's own process with changes."""
    user = own.get("user") or {}
    if options.user:
        user = dict(zip(("uid", "gid"), map(int, options.user.split(":")), strict=False))
    if options.additional_gids:
        user = user | {"additionalGids": [int(number) for number in options.additional_gids]}
    found = own | {"args": words, "user": user, "terminal": options.tty, "cwd": options.cwd or own["cwd"]}
    found["env"] = [*own.get("env", ()), *options.env]
    if options.process:
        found = parsed(options.process)
    if not found.get("args"):
        raise ContainerError("exec: the command is missing")
    sets, more = found.get("capabilities") or {}, [*map(str.upper, options.cap)]
    if more:
        found["capabilities"] = sets | {name: [*sets.get(name, ()), *more] for name in SETS[:3]}
    found["noNewPrivileges"] = found.get("noNewPrivileges") or options.no_new_privs
    return found | ({"apparmorProfile": options.apparmor} if options.apparmor else {})


create_.__doc__ = f"{create_.__doc__}\n\n{BUNDLE}{BEGIN}"
run_.__doc__ = f"{(run_.__doc__ or '').rstrip()}\n{BUNDLE}{BEGIN}"
exec_.__doc__ = f"{(exec_.__doc__ or '').rstrip()}\n{BEGIN}"

"""Chapter 11: the standard, and more than one machine: an OCI runtime, as Docker, Podman and Kubernetes call one.

    known(ROOT, "web1")["status"]         # "creating", "created", "running", "paused" or "stopped"

Each verb is a program of its own, which ends. What they know of a container is in a file, ROOT/NAME/state, and
beside it is the gate: a socket, at which the process of a created container waits. To start it is to open the gate.
Sources: runtime.md and config.md of the OCI runtime specification; where these leave something open, what runc does.
"""

from __future__ import annotations

import _socket as socket
import marshal
import os

from minidocker import state, trees
from minidocker.cgroups.hierarchy import freeze, frozen, hierarchies, read, remove
from minidocker.outcome import ContainerError, warn
from minidocker.syscalls import Any, in_memory, polled, receive, signal

Json = dict[str, Any]
VERSION = "1.0.2"  # of the specification
PATIENCE = 10.0  # seconds for a killed process to be gone


def known(root: str, name: str, *statuses: str) -> Json:
    """What is known of a container, which has to be in one of these states, if any are given."""
    place = state.directory(name, root)
    try:
        with open(f"{place}/state", "rb") as file:
            found: Json = marshal.load(file)
    except FileNotFoundError:
        raise ContainerError(f"container {name} does not exist") from None
    if found["pid"] and started(found["pid"]) != found["started"]:
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


def gate(container: Json) -> str:
    """The address of its gate: that has at most 107 bytes, and a path may have more."""
    return f"/proc/self/fd/{os.open(container['place'], os.O_PATH)}/gate"


def begin(container: Json) -> None:
    """Open the gate: who is behind it says what went wrong, or nothing, when the command executes."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.connect(gate(container))
        os.unlink(gate(container))
    except OSError:
        raise ContainerError(f"container {container['id']} does not wait to be started") from None
    problem, _ = receive(client.fileno())
    if problem is not None:
        raise ContainerError(problem)
    hooks(container | {"status": "running"}, "poststart")


def end(container: Json) -> None:
    """Kill what still runs in it, and remove what is left."""
    if container["pid"]:
        kill(container, [container["pid"]], signal.SIGKILL)
        try:
            polled([os.pidfd_open(container["pid"])], PATIENCE)
        except ProcessLookupError:
            pass  # somebody has collected it already
    for one in hierarchies():
        remove(one.path + container["cgroup"])
    hooks(container | {"status": "stopped", "pid": 0}, "poststop")
    trees.remove(container["place"])


def kill(container: Json, whom: list[int], number: int) -> None:
    """Send a signal. What is frozen does not even die."""
    for pid in filter(None, whom):  # 0 would be ourselves
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    if number == signal.SIGKILL and frozen(freezer(container)):
        freeze(freezer(container), False)


def environment(process: Json) -> dict[str, str]:
    """Its env; the last of a name counts."""
    return dict(word.split("=", 1) for word in process.get("env") or () if "=" in word)


def hooks(known: Json, *moments: str) -> None:
    """Run programs of others, one by one, with the state on their standard input. The first that fails ends it all; if
    it is too late for that, its failure is told."""
    for moment in moments:
        for hook in (known["config"].get("hooks") or {}).get(moment) or ():
            import json  # nobody else needs it here

            if problem := _run(hook, json.dumps(public(known))):
                failure = f"hook {moment}: {hook['path']}: {problem}"
                if moment not in ("poststart", "poststop"):
                    raise ContainerError(failure)
                warn(failure)


def _run(hook: Json, text: str) -> str:
    """What went wrong, or nothing."""
    told, said = in_memory(text), in_memory("")
    moves = [(os.POSIX_SPAWN_DUP2, here, there) for here, there in ((told, 0), (said, 1), (said, 2))]
    env = environment(hook) if "env" in hook else os.environ
    try:
        pid = os.posix_spawn(hook["path"], hook.get("args") or [hook["path"]], env, file_actions=moves)
    except OSError as refused:
        return refused.strerror or ""
    pidfd = os.pidfd_open(pid)
    late = not polled([pidfd], hook.get("timeout"))
    if late:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    output = os.pread(said, 4096, 0).decode(errors="replace").strip()
    for descriptor in (told, said, pidfd):
        os.close(descriptor)
    why = f"killed after {hook['timeout']} s" if late else f"exit status {code}" if code else ""
    return f"{why}: {output}".removesuffix(": ") if why else ""


def started(pid: int) -> int:
    """When it started, in clock ticks since the boot: with its number, that is a process for ever. 0: it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def public(known: Json) -> Json:
    """The state as the specification has it, for hooks and for who asks."""
    found = {name: known[name] for name in ("ociVersion", "id", "status", "pid", "bundle")}
    return found | {"annotations": known["config"].get("annotations") or {}}


def save(known: Json) -> None:
    """For the commands that come after. Not as JSON, since to import that takes longer than all else of a start."""
    state.replace(f"{known['place']}/state", marshal.dumps(known))

"""Chapter 11: `minidocker runtime`, with runc's verbs and flags: for podman --runtime, dockerd --add-runtime, ctr.

    minidocker runtime create --bundle DIRECTORY NAME      # its process exists, and waits
    minidocker runtime start NAME                          # it executes the command
    minidocker runtime delete NAME

minidocker-runtime is the same as a program.
"""

from __future__ import annotations

import os
import sys
import time

from minidocker import cli, oci, state, trees
from minidocker.cgroups.hierarchy import freeze
from minidocker.cli import HelpWanted, Options, parse
from minidocker.oci import known
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, signal

VERBS = {  # -> the module in which it is a function; those in here need little, and begin fast
    **dict.fromkeys(("start", "kill", "delete", "pause", "resume"), "cli.runtime"),
    **dict.fromkeys(("create", "run", "exec"), "oci.make"),
    **dict.fromkeys(("state", "list", "ps", "update", "events", "features", "spec"), "oci.tell"),
}


def command() -> None:
    """The program: minidocker-runtime create is minidocker runtime create."""
    sys.argv.insert(1, "runtime")
    cli.command()


def runtime(options: Options, *words: str) -> int:
    """runtime [OPTIONS] [COMMAND...]: an OCI runtime: create, start, state, kill, delete, run, exec, list, ps, ...

    --root DIRECTORY      where the containers are known (/run/minidocker-runtime)
    --log FILE            write errors there, too
    --log-format FORMAT   text, or json
    --debug               accepted, and without effect
    --rootless MODE       accepted, and without effect
    --systemd-cgroup      refused: groups are directories here
    -v, --version         of this program, and of the specification
    """
    if options.version:
        print(f"minidocker-runtime version 0.1.0\nspec: {oci.VERSION}")
        return 0
    try:
        if options.systemd_cgroup:
            raise ContainerError("--systemd-cgroup: there is no systemd here: use the driver cgroupfs")
        if not words or words[0] not in VERBS:
            raise ContainerError(f"runtime: the verb is missing, or is none of {', '.join(VERBS)}")
        module = __import__(f"minidocker.{VERBS[words[0]]}", fromlist=["_"])
        function: Any = getattr(module, f"{words[0]}_")
        usage = f"runtime {function.__doc__}"
        try:
            chosen, others = parse(usage, [*words[1:]])
        except HelpWanted:
            print(f"usage: minidocker {usage.rstrip()}")
            return 0
        run = "/run" if os.access("/run", os.W_OK) else os.environ.get("XDG_RUNTIME_DIR") or "/run"
        chosen["root"] = options.root or f"{run}/minidocker-runtime"
        for path in chosen.keys() & {"root", "pid-file", "console-socket"}:
            chosen[path] = os.path.abspath(chosen[path]) if chosen[path] else ""
        return function(chosen, *others) or 0
    except (ContainerError, OSError) as failure:
        if options.log:
            _log(options, str(failure))
        raise


def _log(options: Options, text: str) -> None:
    """Who called us reads the last line of it."""
    import json

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"level": "error", "msg": text, "time": now})
    try:
        with open(options.log, "a") as file:
            print(line if options.log_format == "json" else f"{now} error {text}", file=file)
    except OSError:
        pass  # it is on standard error, too


def start_(options: Any, name: str) -> None:
    """start NAME: execute the command of a created container"""
    oci.begin(known(options.root, name, "created"))


def kill_(options: Any, name: str, number: str = "TERM") -> None:
    """kill [OPTIONS] NAME [SIGNAL]: send a signal to its first process (SIGTERM)

    -a, --all   to all of its processes
    """
    container, word = known(options.root, name), f"SIG{number.upper().removeprefix('SIG')}"
    sent = int(number) if number.isdecimal() else getattr(signal, word, 0)
    if not 0 < sent < signal.NSIG:
        raise ContainerError(f"kill: {number} is no signal: see kill -l")
    if container["status"] in ("creating", "stopped") and not options.all:
        raise ContainerError(f"container {name} is {container['status']}: container not running")
    oci.kill(container, oci.pids(container) if options.all else [container["pid"]], sent)


def delete_(options: Any, name: str) -> None:
    """delete [OPTIONS] NAME: remove what is left of a stopped container

    -f, --force   kill it first; one that does not exist is no error
    """
    place = state.directory(name, options.root)
    if os.path.exists(f"{place}/state") or not options.force:
        oci.end(known(options.root, name, *[] if options.force else ["stopped"]))
    elif os.path.isdir(place):
        trees.remove(place)


def pause_(options: Any, name: str) -> None:
    """pause NAME: stop all of its processes where they are"""
    if not freeze(oci.freezer(known(options.root, name, "running", "created")), True):
        raise ContainerError(f"pause: container {name}: a process of it has not stopped")


def resume_(options: Any, name: str) -> None:
    """resume NAME: let them go on"""
    freeze(oci.freezer(known(options.root, name, "paused")), False)

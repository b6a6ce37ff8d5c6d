"""Chapter 11: `minidocker runtime`, with runc's verbs and flags: for podman --runtime, dockerd --add-runtime, ctr.

    minidocker runtime create --bundle DIRECTORY NAME      # its process exists, and waits
    minidocker runtime start NAME                          # it executes the command
    minidocker runtime delete NAME

Each is a program that ends. What they know of a container is in a file: ROOT/NAME/state.json.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

from minidocker import cli
from minidocker.cli import Options, parse
from minidocker.outcome import ContainerError

SPECIFICATION = "1.0.2"
ROOT = "/run/minidocker-runtime"
VERBS = {
    **dict.fromkeys(("create", "start", "state", "kill", "delete", "run"), "verbs"),
    **dict.fromkeys(("exec", "list", "ps", "pause", "resume", "update", "events", "features", "spec"), "more"),
}


def command() -> None:
    """The program of this name: minidocker-runtime create is minidocker runtime create."""
    sys.argv.insert(1, "runtime")
    cli.command()


def runtime(options: Options, *words: str) -> int:
    """runtime [OPTIONS] [COMMAND...]: an OCI runtime: create, start, state, kill, delete, run, exec, list, ...

    --root DIRECTORY      where the containers are known (/run/minidocker-runtime)
    --log FILE            write errors there, too
    --log-format FORMAT   text, or json
    --debug               accepted, and without effect
    --systemd-cgroup      refused: groups are directories here
    --rootless MODE       accepted, and without effect
    -v, --version         of this program and of the specification
    """
    if options.version:
        print(f"minidocker-runtime version 0.1.0\nspec: {SPECIFICATION}")
        return 0
    try:
        if options.systemd_cgroup:
            raise ContainerError("--systemd-cgroup: there is no systemd here: use the driver cgroupfs")
        verb, *rest = words or ("",)
        if verb not in VERBS:
            raise ContainerError(f"runtime {verb}: there is none: {', '.join(VERBS)}")
        module = __import__(f"minidocker.oci.{VERBS[verb]}", fromlist=["_"])
        function = getattr(module, f"{verb}_")
        chosen, others = parse(function.__doc__, rest)
        chosen["root"] = options.root or ROOT
        return function(chosen, *others) or 0
    except (ContainerError, OSError) as failure:
        if options.log:
            _log(options, str(failure))
        raise


def _log(options: Options, text: str) -> None:
    """Who called us reads the last line of it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"level": "error", "msg": text, "time": now}
    with contextlib.suppress(OSError), open(options.log, "a") as file:
        print(json.dumps(line) if options.log_format == "json" else f"{now} error {text}", file=file)

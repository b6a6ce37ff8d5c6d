"""The part of `make bench` about one more process in a container, and a program of its own: python -m tools.bench.exec.

    exec    `minidocker exec` of `true` in a container that runs; against runc's

What is equal. Both containers have a root with busybox, the walls of Docker's default, limits, and a first process that
sleeps. Both commands are measured as a whole, from posix_spawn(3) to their end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.bench import measure, sandbox
from tools.bench.images import seconds
from tools.bench.peers import oci
from tools.bench.sandbox import checked, minidocker, own_home

SUBJECT = "minidocker"
SLEEP = ["sleep", "1000"]


def sleeper(scratch: Path) -> tuple[list[str], str]:
    """(how a command of runc's begins, the name of a container of it that runs)."""
    *client, _, _, bundle, name = oci(scratch, "runc", walls=True)
    config = Path(bundle, "config.json")
    settings = json.loads(config.read_text())
    settings["process"]["args"] = SLEEP
    config.write_text(json.dumps(settings))
    argv = [*client, "run", "--detach", "--bundle", bundle, name]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)  # which the container keeps
    subprocess.run(argv, env={"PATH": sandbox.PATH}, check=True, timeout=measure.PATIENCE, **streams)
    return client, name


def one_more(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Both, one after the other."""
    home, name, limits = own_home(scratch), "bench", ["-m", "64m", "--cpus", "1", "--pids-limit", "64"]
    checked(minidocker(["run", "-d", "--network=none", "--name", name, *limits, "busybox", *SLEEP], home))
    commands, theirs = (
        {SUBJECT: minidocker(["exec", name, "true"], home)},
        measure.attempt("runc", partial(sleeper, scratch)),
    )
    try:
        if theirs:
            commands["runc"] = [*theirs[0], "exec", theirs[1], "true"]
        timed = {who: partial(seconds, argv) for who, argv in commands.items()}
        return {"exec": measure.interleaved(timed, runs, progress=progress)}
    finally:
        checked(minidocker(["rm", "-f", name], home))
        if theirs:
            checked([*theirs[0], "delete", "--force", theirs[1]])


PARTS = {one_more: ("exec",)}

if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, PARTS))

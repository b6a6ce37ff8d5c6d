"""The part of `make bench` about our OCI runtime, and a program of its own: python -m tools.bench.standard.

    oci.create_start    `create` and then `start` of a container, two commands; against runc and crun

What is equal. The same bundle: a root with busybox, the walls of Docker's default, limits on memory, CPU and PIDs.
Both commands are measured as a whole, from posix_spawn(3) to their end; what removes the container is not.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.bench import measure, sandbox
from tools.bench.peers import oci
from tools.bench.sandbox import checked, minidocker, own_home

SUBJECT = "minidocker"
PAUSE = 0.05  # s, in which the namespaces of the one before end


def begun(client: list[str], bundle: str, name: str) -> float:
    """Seconds until it has been created and started; then it goes."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)  # which the container keeps
    begin = time.perf_counter()
    for words in (["create", "--bundle", bundle, name], ["start", name]):
        subprocess.run([*client, *words], env={"PATH": sandbox.PATH}, check=True, timeout=measure.PATIENCE, **streams)
    taken = time.perf_counter() - begin
    checked([*client, "delete", "--force", name])
    return taken


def create_start(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """One after the other, in any order."""
    timed = dict[str, Callable[[], float]]()
    for who in (SUBJECT, "runc", "crun"):
        *client, _, _, bundle, name = oci(scratch, who, walls=True)
        if who == SUBJECT:
            client = minidocker(["runtime", *client[1:]], own_home(scratch))
        timed[who] = partial(begun, client, bundle, name)
    return {"oci.create_start": measure.interleaved(timed, runs, pause=PAUSE, progress=progress)}


PARTS = {create_start: ("oci.create_start",)}

if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, PARTS))

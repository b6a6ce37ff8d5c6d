"""The part of `make bench` about many containers that stay, and a program of its own: python -m tools.bench.growth.

    growth.ps       `ps -a` with a thousand containers that have stopped; against podman's with as many
    growth.start    `run --rm` of busybox beside them; against the same where there are none

What is equal. Podman's containers were created and never started, which takes it two minutes; ours have a state besides
that says how they ended. Both have their store in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minidocker.engine import records, watch
from minidocker.images.container import ready
from tools.bench import measure, sandbox
from tools.bench.images import seconds
from tools.bench.network import podman_image
from tools.bench.sandbox import checked, minidocker, own_home

SUBJECT = "minidocker"
NUMBER, QUICK = 1000, 100


def full_home(scratch: Path, number: int) -> str:
    """A home with so many containers that have stopped: each like one that the command has made."""
    home = own_home(scratch)
    checked(minidocker(["create", "--network=none", "busybox", "true"], home))
    os.environ["MINIDOCKER_HOME"] = home
    [first] = records.records()
    config = {key: value for key, value in first.config.items() if key not in ("id", "name", "created")}
    layer, now = ready(config["image_id"])["layers"][0], watch.now()
    for _ in range(number - 1):
        records.create(config, layer).write(
            "state", records.BEFORE | {"status": "exited", "started": now, "finished": now}
        )
    return home


def growth(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Both: whole commands, from posix_spawn(3) to their end."""
    number, empty = NUMBER if runs > 11 else QUICK, scratch / "empty"
    empty.mkdir()
    home, words = full_home(scratch, number), ["run", "--rm", "--network=none", "busybox", "true"]
    starts = {SUBJECT: minidocker(words, home), "none before": minidocker(words, own_home(empty))}
    lists = {SUBJECT: minidocker(["ps", "-a"], home)}
    if client := measure.attempt("podman", partial(podman_image, scratch)):
        for _ in range(number):
            checked([*client, "create", "--network=none", "bench", "true"])
        lists["podman"] = [*client, "ps", "-a"]
    found = {}
    for name, commands in ("growth.ps", lists), ("growth.start", starts):
        timed = {who: partial(seconds, argv) for who, argv in commands.items()}
        found[name] = measure.interleaved(timed, runs, warm_up=2, progress=progress)
    return found


PARTS = {growth: ("growth.ps", "growth.start")}

if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, PARTS))

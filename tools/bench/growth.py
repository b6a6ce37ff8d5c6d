"""The part of `make bench` about many containers that stay, and a program of its own: python -m tools.bench.growth.

    growth.ps       `ps -a` with a thousand containers that have stopped; against podman's with as many
    growth.start    `run --rm` of busybox beside them; against the same where there are none
    start.detached  `run -d` of busybox, until its id is there; against podman's
    memory.monitor  what stays beside each of a hundred idle containers that run; against podman's conmon

What is equal. Podman's containers were created and never started, which takes it two minutes; ours have a state besides
that says how they ended. Both have their store in memory. A detached container is removed before the next begins. The
memory is the proportional set size of proc(5), in which n processes that share a page have an n-th of it each: of our
monitor and its watcher together, and of conmon, which no process watches.
"""

from __future__ import annotations

import contextlib
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
CROWD = 100  # containers that run


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


IDLE, GONE = ["run", "-d", "--network=none"], {SUBJECT: ["rm", "-f"]}
AT_ONCE = ["rm", "-f", "-t", "0"]  # without SIGTERM, as ours, which the first process of a container does not heed


def detached(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Whole commands, from posix_spawn(3) to their end."""
    clients = {SUBJECT: (minidocker([], own_home(scratch)), "busybox")}
    if podman := measure.attempt("podman", partial(podman_image, scratch)):
        clients["podman"] = (podman, "bench")

    def timed(who: str, client: list[str], image: str) -> float:
        taken = seconds([*client, *IDLE, "--name=idle", image, "sleep", "1000"])
        checked([*client, *GONE.get(who, AT_ONCE), "idle"])
        return taken

    subjects = {who: partial(timed, who, *client) for who, client in clients.items()}
    return {"start.detached": measure.interleaved(subjects, runs, warm_up=2, progress=progress)}


def monitors(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Bytes for each container."""
    number, home = CROWD if runs > 11 else CROWD // 10, own_home(scratch)
    clients = {SUBJECT: (minidocker([], home), "busybox", ("monitor", "watcher"), home)}
    if podman := measure.attempt("podman", partial(podman_image, scratch)):
        clients["conmon"] = (podman, "bench", ("conmon",), str(scratch / "podman"))
    subjects = {}
    try:
        for who, (client, image, names, place) in clients.items():
            for each in range(number):
                checked([*client, *IDLE, f"--name=idle{each}", image, "sleep", "1000"])
            subjects[who] = partial(memory, names, place, number)
        return {"memory.monitor": measure.interleaved(subjects, max(3, runs // 4), warm_up=0, progress=progress)}
    finally:
        for who, (client, *_) in clients.items():
            checked([*client, *GONE.get(who, AT_ONCE), *(f"idle{each}" for each in range(number))])


def memory(names: tuple[str, ...], place: str, number: int) -> float:
    """The proportional set size of the processes that have one of the names, and this place in what they were told."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if (process / "comm").read_text().strip() in names and place.encode() in told:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total / number


PARTS = {
    growth: ("growth.ps", "growth.start"),
    detached: ("start.detached",),
    monitors: ("memory.monitor",),
}

if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, PARTS))

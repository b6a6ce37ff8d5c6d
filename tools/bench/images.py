"""The part of `make bench` about chapter 5, and a program of its own: python -m tools.bench.images [RUNS=41].

    unpack.gzip     the Debian layer of set-up, unpacked with all checks; against tar -xzf and umoci raw unpack
    build.cached    a Dockerfile of eight steps, all of them cached; against podman build of the same file

What is equal. All unpack the same blob, with owners, modes, times and attributes, into directories in memory, and the
result is removed outside of the measured time. umoci reads it out of the store in place. Podman has its images in a
store of its own, in memory as well, and has built the same file before. Ours are two processes for an unpack, tar is
two (gzip is one), umoci one with threads.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minidocker.images.image import find
from minidocker.images.layer.unpack import unpack
from minidocker.images.store import Store
from tools.bench import measure, sandbox
from tools.bench.engines import podman_client
from tools.bench.sandbox import PATH, checked, minidocker, own_home

SUBJECT = "minidocker"
DOCKERFILE = """FROM busybox
ENV A=1 B=2
WORKDIR /srv
COPY file .
RUN echo one >one
RUN echo two >two
EXPOSE 80
CMD ["cat", "one"]
"""


def unpacking(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Id unpack.gzip."""
    store = Store()
    image = find(store, "debian")
    [layer], [diff_id] = image.manifest["layers"], image.diff_ids
    blob = store.blob(layer["digest"])
    named = f"--image={store.layout}:debian:latest"
    subjects: dict[str, Callable[[str], object]] = {
        SUBJECT: lambda place: unpack(blob, place, diff_id),
        "tar": lambda place: checked(["tar", "-xzf", blob, "--numeric-owner", "-C", place]),
        "umoci": lambda place: checked(["umoci", "raw", "unpack", named, f"{place}/x"]),
    }
    timed = {name: partial(into, scratch, call) for name, call in subjects.items()}
    return {"unpack.gzip": measure.interleaved(timed, runs, warm_up=1, progress=progress)}


def into(scratch: Path, call: Callable[[str], object]) -> float:
    """Seconds that an unpack into a new directory takes."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        place = f"{folder}/tree"
        os.mkdir(place)
        begin = time.perf_counter()
        call(place)
        return time.perf_counter() - begin


def building(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Id build.cached: whole commands, from posix_spawn(3) to their end."""
    context = scratch / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("a file\n")
    home, theirs = own_home(scratch), podman_client(scratch, scratch / "podman")
    loaded = [*theirs, "load", "-q", "-i", str(scratch / "image.tar")]
    commands = {SUBJECT: minidocker(["build", "-q", "--network=none", "-t", "bench", str(context)], home)}
    if shutil.which("podman", path=PATH) and measure.attempt("podman", partial(checked, loaded)):
        commands["podman"] = [*theirs, "build", "-q", "--layers", "--network=none", "-t", "bench", str(context)]
    timed = {name: partial(seconds, argv) for name, argv in commands.items()}
    return {"build.cached": measure.interleaved(timed, runs, warm_up=2, progress=progress)}


def seconds(argv: list[str]) -> float:
    """Those of a whole command."""
    begin = time.perf_counter()
    checked(argv)
    return time.perf_counter() - begin


PARTS = {unpacking: ("unpack.gzip",), building: ("build.cached",)}

if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, PARTS))

"""The part of `make bench` about chapter 5, and a program of its own: python -m tools.bench.images [RUNS=41].

    unpack.gzip     the Debian layer of set-up, unpacked with all checks; against tar -xzf and umoci raw unpack
    unpack.shared   the same with sharing by content, into a new pool
    unpack.found    and into a pool that has all of it; both against the same without
    build.cached    a Dockerfile of eight steps, all of them cached; against podman build of the same file

What is equal. All unpack the same blob, with owners, modes, times and attributes, into directories in memory, and the
result is removed outside of the measured time. umoci reads it out of the store in place. Podman has its images in a
store of its own, in memory as well, and has built the same file before. Ours are two processes for an unpack, tar is
two (gzip is one), umoci one with threads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minidocker import state
from minidocker.images.image import find
from minidocker.images.store import Store
from minidocker.images.unpack import unpack
from tools import REPO
from tools.bench import measure, sandbox

SUBJECT = "minidocker"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
DOCKERFILE = """FROM busybox
ENV A=1 B=2
WORKDIR /srv
COPY file .
RUN echo one >one
RUN echo two >two
EXPOSE 80
CMD ["cat", "one"]
"""
CONTAINERS_CONF = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'


def unpacking(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """Ids unpack.gzip and unpack.shared."""
    store = Store()
    image = find(store, "debian")
    [layer], [diff_id] = image.manifest["layers"], image.diff_ids
    blob = store.blob(layer["digest"])
    full = str(scratch / "full")  # a pool that has everything
    into(scratch, lambda place: unpack(blob, place, diff_id, shared=full))
    kept = scratch / "kept"  # its files stay: those that only a pool has are not found
    kept.mkdir()
    unpack(blob, str(kept), diff_id, shared=full)
    named = f"--image={store.layout}:debian:latest"
    commands = {
        "tar": lambda place: checked(["tar", "-xzf", blob, "--numeric-owner", "-C", place]),
        "umoci": lambda place: checked(["umoci", "raw", "unpack", named, f"{place}/x"]),
    }
    subjects: dict[str, Callable[[str], object]] = {
        SUBJECT: lambda place: unpack(blob, place, diff_id),
        "first": lambda place: unpack(blob, place, diff_id, shared=f"{place}.pool"),
        "again": lambda place: unpack(blob, place, diff_id, shared=full),
        **{name: call for name, call in commands.items() if shutil.which(name)},
    }
    timed = {name: lambda call=call: into(scratch, call) for name, call in subjects.items()}  # type: ignore[misc]
    samples = measure.interleaved(timed, runs, warm_up=1, progress=progress)
    shared = {SUBJECT: samples["first"], "without": samples[SUBJECT]}
    found = {SUBJECT: samples["again"], "without": samples[SUBJECT]}
    plain = {name: values for name, values in samples.items() if name in (SUBJECT, *commands)}
    return {"unpack.gzip": plain, "unpack.shared": shared, "unpack.found": found}


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
    home = scratch / "home"
    with podman(scratch) as theirs:
        subprocess.run(ours(["save", "-o", str(scratch / "busybox.tar"), "busybox"], state.home()), check=True)
        subprocess.run(ours(["load", "-q", "-i", str(scratch / "busybox.tar")], str(home)), check=True)
        subjects = {SUBJECT: ours(["build", "-q", "-t", "bench", str(context)], str(home))}
        if theirs:
            checked([*theirs, "load", "-q", "-i", str(scratch / "busybox.tar")])
            subjects["podman"] = [*theirs, "build", "-q", "--layers", "--network=none", "-t", "bench", str(context)]
        timed = {name: lambda argv=argv: command(argv) for name, argv in subjects.items()}  # type: ignore[misc]
        return {"build.cached": measure.interleaved(timed, runs, warm_up=2, progress=progress)}


def ours(words: list[str], home: str) -> list[str]:
    """The command, as it is installed, with this home."""
    import sysconfig

    places = [str(REPO), sysconfig.get_paths()["purelib"]]
    code = f"import sys; sys.path += {places!r}\nfrom minidocker.cli import command; command()"
    return ["/usr/bin/env", f"MINIDOCKER_HOME={home}", sys.executable, "-I", "-S", "-c", code, *words]


@contextmanager
def podman(scratch: Path) -> Iterator[list[str]]:
    """Podman with a store of its own in memory; an empty list where it is not installed."""
    if not shutil.which("podman", path=PATH):
        yield []
        return
    (scratch / "containers.conf").write_text(CONTAINERS_CONF)
    os.environ["CONTAINERS_CONF"] = str(scratch / "containers.conf")
    names = ("root", "runroot", "tmpdir")
    options = [f"--{name}={scratch}/podman-{name}" for name in names]
    yield ["podman", *options, "--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"]


def command(argv: list[str]) -> float:
    """Seconds of a whole command."""
    begin = time.perf_counter()
    checked(argv)
    return time.perf_counter() - begin


def checked(argv: list[str]) -> None:
    """Run it, quietly; a failure ends the bench with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(argv)[:200]}: exit status {done.returncode}: {done.stderr[-300:]}")


def measured(runs: int, scratch: Path) -> dict[str, measure.Samples]:
    """Everything, one after the other."""
    return unpacking(runs, scratch) | building(runs, scratch)


if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, measured))

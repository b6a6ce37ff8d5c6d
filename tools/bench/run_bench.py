"""`make bench`: containers beside virtual machines and other runtimes. Writes build/bench.json, .csv and pictures.

    make bench                    all ids, in less than a quarter of an hour
    make bench QUICK=1            a first look in about two minutes, with wide intervals
    make bench ONLY=start         the ids that begin so
    make bench RUNS=101           more rounds of starts, a narrower interval
    make bench RECORD=1           also into recorded.json and .csv, the chapters' pictures and the texts' figures
    make bench-check              compare a quick run with what is recorded; fails if something has become slower

    start.library        `run` as a cell of a notebook calls it: in a Jupyter kernel with numpy and matplotlib
    start.image          `minidocker run` of the image busybox as a whole command, from the start of Python to its end
    start.stage          the same by chapter 3's list, without an image: chapters/03_cgroups/stage.py
    vm.minimal vm.debian a container with a Debian root, to its first line, against the smallest VM's; and a usual one's
    storage.ten_servers  disk for ten servers that have run, against ten machines' disks and others
    density.memory       memory of one idle web server, against the same in the smallest machine
    demand.latency       a request that is served by a container made for it, against one that stands, and a machine
    demand.time          the time of one request when two clients ask all the time
    start.parallel       a hundred containers at once by the library, the time for each
    unpack.gzip          a Debian layer unpacked with all checks; this and build.cached: see tools/bench/images.py
    network.add          what a network adds to a start; this, start.networked, port.latency and port.throughput: see
                         tools/bench/network.py
    growth.ps            `ps -a` with a thousand containers; this, growth.start, start.detached and memory.monitor: see
                         tools/bench/growth.py
    exec                 one more process in a container that runs: see tools/bench/exec.py
    oci.create_start     a container by two commands of an OCI runtime: see tools/bench/standard.py
    sharing.work         the time of a round of work of two bursty tenants, with shares against with hard halves

What is equal. For `start`, everybody runs the `echo` of the same busybox root, in new mount, PID, UTS, IPC, network and
cgroup namespaces, with the root pivoted to, /proc mounted, and (crun, runc, LXC, Podman, Docker, minidocker) limits on
memory, CPU and PIDs. The bundle of crun and runc asks for no more than that: no seccomp filter, no capabilities, no
masked path, no other mount, no terminal. For `start.image` it asks for what `minidocker run` has: Docker's mounts, its
fourteen capabilities, its filter of system calls, its masked and read-only paths, and no device but its own. Podman and
Docker run with `--network none`. Time runs from the call to the moment when the caller knows the exit status. What is
not equal is done by their own choice: runc makes the device nodes and links it always makes, crun and runc join every
cgroup hierarchy there is, Podman and Docker set seccomp filters and keep a record of the container, and mount its
layers; unshare, bubblewrap and nspawn set no limits, and unshare does not pivot. A plain process has no walls at all:
it is the floor.

Each start stands alone: between two runs are 50 ms, in which the network namespace of the one before ends. Without the
pause, who starts just after somebody else who wrote to cgroup.procs does not have to wait for a grace period of RCU, as
one does on a machine at rest; then crun and runc are two to three times as fast in half of their runs.

The virtual machines boot the distribution's kernel, not compressed, with nothing in them that is not needed: see
chapters/08_versus_vms/bench/machine.py. Where a machine can only be emulated, their figures say so. Where there are
none, the pictures show recorded figures in grey, with the machine that they are from.

Whoever crashes, or hangs, is a line below the table; three times in one comparison, and it is left alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from tools import REPO
from tools.bench import experiments, measure, regression, sandbox
from tools.book import figures

PAGE = REPO / "chapters/08_versus_vms/README.md"  # which has the table
RECORDED, VALUES = REPO / "tools/bench/recorded.json", REPO / "tools/bench/recorded.csv"


def measured(ids: list[str], options: dict[str, str]) -> experiments.Outcome:
    """Run every experiment that measures one of the ids."""
    runs = int(options.get("RUNS") or (11 if options.get("QUICK") else 41))
    size = experiments.Size.quick(runs) if options.get("QUICK") or runs < 11 else experiments.Size(runs)
    records: list[dict[str, Any]] = []
    raw: dict[str, measure.Samples] = {}
    with sandbox.lab() as scratch:
        bench = experiments.Bench(size, ids, scratch, measure.machine(**experiments.emulation(ids)))
        for experiment, names in experiments.EXPERIMENTS.items():
            if set(names) & set(ids):
                begin = time.monotonic()
                more, values = measure.attempt(experiment.__name__, partial(experiment, bench), 0) or ([], {})
                records, raw = records + more, raw | values
                print(f"\r\x1b[K{experiment.__name__}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return records, raw


def recorded(text: str, records: list[dict[str, Any]]) -> str:
    """A text with the records between its markers, in place of what stood there."""
    head, begin, rest = text.partition("<!-- recorded -->\n")
    _, end, tail = rest.partition("\n<!-- /recorded -->")
    if not end:
        raise SystemExit(
            "bench: the page has no markers <!-- recorded --> and <!-- /recorded --> on lines of their own"
        )
    return f"{head}{begin}{measure.table(records)}\n\nMeasured on: {measure.summary(records[0]['machine'])}.{end}{tail}"


def keep(build: Path, records: list[dict[str, Any]], raw: dict[str, measure.Samples]) -> None:
    """RECORD=1: what the repository shows from now on. What this run has not measured stays as it was recorded."""
    new = {entry["id"] for entry in records}
    stay = [entry for entry in json.loads(RECORDED.read_text()) if entry["id"] not in new]
    records = sorted([*records, *stay], key=lambda entry: experiments.IDS.index(entry["id"]))
    with tempfile.TemporaryDirectory(dir=build) as place:
        measure.write(Path(place), records, {**measure.read(VALUES), **raw})
        shutil.copy(f"{place}/bench.json", RECORDED)
        shutil.copy(f"{place}/bench.csv", VALUES)
    PAGE.write_text(recorded(PAGE.read_text(), records))
    figures.main([])
    for picture in build.glob("*.png"):
        shutil.copy(picture, REPO / "chapters/08_versus_vms" / picture.name)


def note(records: list[dict[str, Any]], old: list[dict[str, Any]]) -> str:
    """What stands below the picture of starts: the machine, and whether its guests are emulated."""
    about = records[0]["machine"] if records else {}
    theirs = old[0]["machine"] if old and "guests" not in about else {}
    return described(about) + (f"; recorded ones: {described(theirs)}" if theirs else "")


def described(machine: dict[str, Any]) -> str:
    """A machine in a few words."""
    words = f"{machine.get('cpu', '?')}, {machine.get('cpus', '?')} CPUs, kernel {machine.get('kernel', '?')}"
    return words + (f"; VMs {machine['guests']}" if "guests" in machine else "")


def main(words: list[str]) -> int:
    """Words such as ONLY=start, from the command line or else from the environment, as make passes them."""
    options = {**os.environ, **dict(word.split("=", 1) for word in words)}
    ids = [name for name in experiments.IDS if name.startswith(options.get("ONLY", ""))]
    if not ids:
        print(f"bench: no id begins with {options['ONLY']}: there are {' '.join(experiments.IDS)}", file=sys.stderr)
        return 2
    records, raw = measured(ids, options)
    build = Path(options.get("BUILD", REPO / "build"))
    measure.write(build, records, raw)
    from tools.bench import pictures  # matplotlib takes a second, and has threads: not before the measuring

    pictures.draw(build, raw, measure.read(VALUES), note(records, json.loads(RECORDED.read_text())))
    print(measure.table(records), *measure.lost, sep="\n")
    if options.get("CHECK"):
        return regression.main(records, json.loads(RECORDED.read_text()), measure.read(VALUES))
    if options.get("RECORD"):
        keep(build, records, raw)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

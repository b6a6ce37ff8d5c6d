"""The experiments of `make bench`: each returns records and every single value. They use chapter 8's package.

How large they are is said by a `Size`: the default takes less than a quarter of an hour, QUICK about two minutes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import demand, laps, machine, memory, sharing, storage
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Process, start
from minidocker.rootfs import PivotRoot
from minidocker.union import Union
from tools import REPO
from tools.bench import engines, measure, peers, sandbox, subjects

SUBJECT = "minidocker"
CROWD = 100  # containers at once
PAUSE = 0.05  # seconds: see "What is equal" in run_bench.py
ROUNDS_OF_RARE = {"uml": 2, "minimal": 2, "usual": 4}  # what takes seconds runs in every k-th round only
Outcome = tuple[list[dict[str, Any]], dict[str, measure.Samples]]


@dataclass
class Size:
    """How much is measured."""

    runs: int = 41  # rounds of starts
    fleet: Sequence[int] = (1, 10, 100, 300, 1000)  # containers at the same time
    machines: Sequence[int] = (1, 2, 4)  # virtual machines at the same time
    servers: Sequence[int] = (1, 2, 5, 10, 20, 50)  # of which the disk is counted
    disks: int = 10  # virtual machines that really run for that
    requests: int = 100
    loads: int = 9  # rounds of two tenants on a small host

    @classmethod
    def quick(cls, runs: int) -> Size:
        """A first look."""
        return cls(runs, (1, 10, 50), (1,), (1, 2, 5, 10), 2, 25, 3)


@dataclass
class Bench:
    """What all experiments need: the size, the wanted ids, a scratch directory in memory, the machine's description."""

    size: Size
    ids: list[str]
    scratch: Path
    about: dict[str, Any] = field(default_factory=dict)

    def records(self, name: str, samples: measure.Samples, unit: str = "s") -> list[dict[str, Any]]:
        """The records of an id against all the others, if it is wanted."""
        return measure.records(name, SUBJECT, samples, unit, self.about) if name in self.ids else []

    def progress(self, what: str, total: int) -> Callable[[int], None]:
        """One line on a terminal, rewritten; nothing where nobody watches."""

        def show(number: int) -> None:
            if sys.stderr.isatty():
                bar = "#" * (24 * max(number, 0) // total)
                print(f"\r\x1b[K[{bar:24}] {what}", end="", file=sys.stderr, flush=True)

        show(0)
        return show


def emulation(ids: Sequence[str]) -> dict[str, str]:
    """How the virtual machines of this run get their processor: it stands beside each of their figures."""
    if machine.missing() or not any(name.startswith(("vm.", "storage", "density", "demand")) for name in ids):
        return {}
    if machine.accelerator() != "tcg":
        return {"guests": machine.accelerator()}
    return {"guests": f"emulated ({machine.slowdown():.0f} times slower in a shell)"}


def start_up(bench: Bench) -> Outcome:
    """Ids start.* (to the end) and vm.* (to the first line): everything in the same rounds."""
    rare = dict(ROUNDS_OF_RARE)
    if bench.size.runs < 20:
        rare = {name: 2 * every for name, every in rare.items()}
    with peers.peers(bench.scratch) as commands, subjects.kernel(bench.scratch) as kernel:
        bench.about |= peers.versions(commands)
        timed = {name: subjects.command(argv) for name, argv in commands.items()}
        timed["library"] = lambda: kernel(f"measured({str(sandbox.ROOT)!r})")
        timed["library debian"] = lambda: kernel(f"measured({str(subjects.DEBIAN)!r})")
        timed["stage"] = subjects.stage()
        if made := measure.attempt("minidocker run", subjects.run_command):
            timed["image"] = made
        if any(name.startswith("vm.") for name in bench.ids):
            timed |= slow(bench.scratch)
        show = bench.progress("starting", bench.size.runs)
        samples = measure.interleaved(timed, bench.size.runs, pause=PAUSE, rare=rare, progress=show)
    first, end = ({name: part(values, n) for name, values in samples.items()} for n in (0, 1))
    raw = {"start.first_line": first, "start.end": end}
    records = []
    for ours in ("library", "stage", "image"):
        theirs = {peer: end.get(peer, []) for peer in [*commands, "uml"] if not peer.endswith(peers.WALLS)}
        if ours == "image":  # it has all of Docker's walls, so they get them, too
            theirs |= {
                peer.removesuffix(peers.WALLS): end.get(peer, []) for peer in commands if peer.endswith(peers.WALLS)
            }
        records += bench.records(f"start.{ours}", {SUBJECT: end.get(ours, []), **theirs})
    for name, vm in (("vm.minimal", "minimal"), ("vm.debian", "usual")):
        records += bench.records(name, {SUBJECT: first["library debian"], "vm": first.get(vm, [])})
    return records, raw


def crowd(bench: Bench) -> Outcome:
    """Id start.parallel: the time of each of a hundred containers that are started at once, until all have ended."""
    rounds, place = max(3, bench.size.runs // 4), bench.scratch / "crowd"
    place.mkdir()
    with subjects.kernel(bench.scratch) as kernel:
        timed = {SUBJECT: lambda: kernel(f"crowd({str(sandbox.ROOT)!r}, {CROWD})")}
        for name in filter(shutil.which, ("crun", "runc")):
            timed[name] = subjects.at_once([peers.oci(place, name, number) for number in range(1, CROWD + 1)])
        show = bench.progress("starting a hundred at once", rounds)
        samples = measure.interleaved(timed, rounds, warm_up=1, pause=1, progress=show)
    return bench.records("start.parallel", samples), {"start.parallel": samples}


def slow(scratch: Path) -> dict[str, subjects.Timed]:
    """The virtual machines, and User-Mode Linux, as far as they are here."""
    found = {}
    if uml := subjects.user_mode_linux(scratch):
        found["uml"] = uml
    if problem := machine.missing():
        measure.lose("virtual machines", problem)
    else:
        found |= {"minimal": subjects.guest("minimal"), "usual": subjects.guest("usual")}
    return found


def part(values: Sequence[Any], number: int) -> list[Any]:
    """The first or the second of each pair."""
    return [value and value[number] for value in values]


def steps(bench: Bench) -> Outcome:
    """Where the time of a start goes: no ratio, but the values for the picture. One thread, so a fork, no launcher."""
    samples: measure.Samples = {}
    for _ in range(bench.size.runs):
        walls = {
            "Namespaces": Namespaces("pid mount uts ipc net"),
            "Cgroup": Cgroup(memory=sandbox.MEMORY, cpus=sandbox.CPUS, pids=sandbox.PIDS),
            "cgroup namespace": Namespaces("cgroup"),
            "PivotRoot": PivotRoot(sandbox.ROOT),
        }
        for label, seconds in laps.laps(["true"], walls):
            samples.setdefault(label, []).append(seconds)
    return [], {"laps": samples}


def disks(bench: Bench) -> Outcome:
    """Id storage.ten_servers: bytes on disk. Counted, not timed, so once. Beyond what has run it is computed.

    The servers are web and mail servers in turn, from the images that set-up makes. Machines, and the other stores, run
    with the base alone; what an application takes is added to them: to each machine's disk, and elsewhere once.
    """
    servers, web_and_mail = bench.size.servers, real_servers()
    each = [storage.usage(*layers[:-1]) for layers, _ in web_and_mail]
    added = {"disks": lambda count: sum((each * count)[:count]), "layers": lambda _: 0, "copies": lambda _: 0}
    measured: measure.Samples = {}
    computed: measure.Samples = {}
    with (
        storage.Ground(web_and_mail) as ground,
        engines.stores(bench.scratch, Path(ground.path), storage.SERVE) as stores,
    ):
        ways = {"layers": ground.layers, "copies": ground.copies, **stores}
        if not machine.missing():
            ways |= {"disks": ground.disks, "clones": ground.clones}
        show = bench.progress("running servers", len(ways))
        for number, (way, disk) in enumerate(ways.items()):
            most = max(servers) if way == "layers" else bench.size.disks
            plain = [measure.attempt(way, partial(disk, count), 1200) if count <= most else None for count in servers]
            if not any(plain):
                continue
            more = [added.get(way, lambda count: sum(each[:count]))(count) for count in servers]
            measured[way] = [size and size + extra for size, extra in zip(plain, more, strict=True)]
            computed[way] = [
                measure.at(count, servers, plain) + extra for count, extra in zip(servers, more, strict=True)
            ]
            show(number + 1)
        for way, sizes in apart(ground, servers, measured["layers"]).items():
            measured[way] = computed[way] = sizes
    names = {"layers": SUBJECT, "disks": "vm_disks", "clones": "vm_linked_clones"}
    ten = {names.get(way, way): [sizes[list(servers).index(10)]] for way, sizes in computed.items()}
    records = bench.records("storage.ten_servers", ten, "B")
    raw = {"storage.servers": {"servers": list(servers)}, "storage": measured, "storage.computed": computed}
    return records, raw


def apart(ground: storage.Ground, servers: Sequence[int], sizes: Sequence[float]) -> dict[str, list[float]]:
    """The same servers from images that have no layer in common, and these with their content shared.

    One server needs one image, which is as large in one layer as in several.
    """
    try:
        alone, shared = storage.squashed(ground.path, "web", "mail")
    except ContainerError:
        return {}
    common = storage.usage(*{layer for layers, _ in ground.servers for layer in layers})
    pairs = list(zip(servers, sizes, strict=True))
    ways = {"layers_apart": alone, "layers_content": shared}
    return {way: [size + (whole - common if n > 1 else 0) for n, size in pairs] for way, whole in ways.items()}


def real_servers() -> list[Any]:
    """A web server and a mail server; where set-up has made no images, the Debian root writes a log."""
    try:
        return [storage.in_image("web"), storage.in_image("mail")]
    except ContainerError as absent:
        measure.lose("real servers", absent)
        return [storage.in_root(str(subjects.DEBIAN))]


def contained(fence: Cgroup) -> Process:
    """A web server that nobody asks anything, in a container with a file system of its own."""
    union = Union([str(sandbox.ROOT)])
    walls = [Namespaces("pid mount uts ipc net"), fence, Namespaces("cgroup"), union, PivotRoot(union.root)]
    return start([*demand.SERVER, "-f"], *walls)


def booted(guest: str) -> Callable[[Cgroup], Process]:
    """The same server in a virtual machine."""

    def make(fence: Cgroup) -> Process:
        process = machine.boot(guest, f"echo up; exec {' '.join(demand.SERVER)} -f", fence)
        if any(line.strip() == "up" for line in process.lines()):
            return process
        raise measure.Missing(f"no line came; {process.wait()}")

    return make


def density(bench: Bench) -> Outcome:
    """Id density.memory: bytes of one idle instance, and the machine's own account of all of them."""
    raw: dict[str, measure.Samples] = {}
    kinds: dict[str, Any] = {SUBJECT: (contained, bench.size.fleet)}
    if not machine.missing():
        kinds |= {"minimal": (booted("minimal"), bench.size.machines), "usual": (booted("usual"), (1,))}
    for kind, (make, numbers) in kinds.items():
        show = bench.progress(f"filling memory with {kind}", len(numbers))
        if found := measure.attempt(kind, partial(filled, make, numbers, show), 600):
            raw[f"density.{kind}"] = found
    theirs = raw.get("density.minimal", {}).get("each", [])
    ours = raw.get(f"density.{SUBJECT}", {}).get("each", [])[: len(theirs)]
    return bench.records("density.memory", {SUBJECT: ours, "vm": theirs[: len(ours)]}, "B"), raw


def filled(make: Callable[[Cgroup], Process], numbers: Sequence[int], show: Callable[[int], None]) -> measure.Samples:
    """Bytes of one instance, by their own account and by the machine's, when there are so many; and what it idles."""
    counted, used, before = [], [], memory.used()
    with memory.Fleet(make) as fleet:
        for done, number in enumerate(numbers):
            fleet.grow(number)
            each = fleet.memory()
            counted.append(sum(each) / number)
            used.append((memory.used() - before) / number)
            show(done + 1)
        idle = fleet.cpu(2.0) / numbers[-1]
    return {"number": list(numbers), "memory": counted, "used": used, "each": each, "cpu": [idle]}


def on_demand(bench: Bench) -> Outcome:
    """Ids demand.latency and demand.time: a server for each request against one that stands, and against a machine."""
    number = bench.size.requests
    with (
        demand.Front(demand.in_container) as front,
        demand.standing() as port,
        demand.Front(demand.in_machine, 1) as third,
    ):
        asked = {SUBJECT: lambda: demand.latency(front.port), "standing": lambda: demand.latency(port)}
        if not machine.missing():
            asked["vm"] = lambda: demand.latency(third.port)
        show = bench.progress("serving requests", number)
        latencies = measure.interleaved(asked, number, rare={"vm": max(1, number // 5)}, progress=show)
        rates = {SUBJECT: lambda: 1 / demand.rate(front.port, 1), "standing": lambda: 1 / demand.rate(port, 1)}
        times = measure.interleaved(rates, 5, warm_up=1)
    records = bench.records("demand.latency", latencies) + bench.records("demand.time", times)
    return records, {"demand.latency": latencies, "demand.time": times}


def loads(bench: Bench) -> Outcome:
    """Id sharing.work: the time of a round of work, with a share for each tenant against a hard half for each."""
    seconds = 1.6

    def each(fence: str, apart: bool = True) -> float:
        return seconds / sum(work for work, _ in sharing.together(fence, seconds, apart))

    kinds = {
        SUBJECT: lambda: each("shares"),
        "halves": lambda: each("halves"),
        "shares at once": lambda: each("shares", apart=False),
        "halves at once": lambda: each("halves", apart=False),
    }
    show = bench.progress("sharing a CPU", bench.size.loads)
    samples = measure.interleaved(kinds, bench.size.loads, warm_up=0, progress=show)
    pair = {name: samples[name] for name in (SUBJECT, "halves")}
    return bench.records("sharing.work", pair), {"sharing.work": samples}


def program(name: str, rounds: int) -> Callable[[Bench], Outcome]:
    """The experiments of tools.bench.NAME, a program with a lab of its own; one round for so many rounds of starts."""

    def measured(bench: Bench) -> Outcome:
        out = bench.scratch / f"{name}.json"
        argv = [sys.executable, "-m", f"tools.bench.{name}"]
        bench.progress(name, 1)
        words = [f"RUNS={max(3, bench.size.runs // rounds)}", f"OUT={out}", f"IDS={','.join(bench.ids)}"]
        subprocess.run([*argv, *words], cwd=REPO, check=True, timeout=1200)
        found = json.loads(out.read_text())
        raw = found["samples"]
        measure.lost.extend(found["lost"])
        entries = [bench.records(name, samples, measure.unit(name)) for name, samples in raw.items()]
        return [entry for some in entries for entry in some], raw

    measured.__name__ = name
    return measured


# Which experiment measures which ids
EXPERIMENTS: dict[Callable[[Bench], Outcome], tuple[str, ...]] = {
    start_up: ("start.library", "start.stage", "start.image", "vm.minimal", "vm.debian"),
    crowd: ("start.parallel",),
    steps: ("laps",),
    disks: ("storage.ten_servers",),
    density: ("density.memory",),
    on_demand: ("demand.latency", "demand.time"),
    loads: ("sharing.work",),
    program("images", 4): ("unpack.gzip", "build.cached"),
    program("network", 1): ("network.add", "start.networked", "port.latency", "port.throughput"),
    program("growth", 1): ("growth.ps", "growth.start", "start.detached", "memory.monitor"),
    program("exec", 1): ("exec",),
    program("standard", 1): ("oci.create_start",),
}
IDS = [name for names in EXPERIMENTS.values() for name in names]

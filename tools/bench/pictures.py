"""The pictures of chapter 8. `make bench` draws them into build/, the notebook from its own values, by these functions.

Each takes values and returns a figure. What is not measured in this run is grey and says so: figures that were recorded
(on the machine that tools/bench/recorded.json names), and what is computed from a line through measured points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from notebooks import lab
from tools.bench import measure

OURS, OTHERS, GUESTS, NOT_NOW = lab.COLORS[6], lab.COLORS[5], lab.COLORS[3], "#999999"
LABELS = {
    "process": "a plain process",
    "library": "minidocker, library",
    "library debian": "minidocker, library, Debian root",
    "stage": "minidocker, stage 3",
    "image": "minidocker run",
    "crun walls": "crun, all walls",
    "runc walls": "runc, all walls",
    "bwrap": "bubblewrap",
    "lxc": "LXC",
    "nspawn": "systemd-nspawn",
    "podman": "Podman",
    "docker": "Docker",
    "uml": "User-Mode Linux",
    "minimal": "smallest VM",
    "usual": "usual VM (Debian)",
    "disks": "VM disks",
    "clones": "VM disks, linked clones",
    "copies": "full copies",
    "layers": "layers",
    "layers_apart": "no layer in common",
    "layers_content": "no layer in common, content shared",
    "overlay2": "Docker's overlay2",
    "podman_store": "Podman's store",
}
MACHINES = ("uml", "minimal", "usual", "disks", "clones", "vm")


def color(name: str) -> str:
    """Ours, a machine's, or another's."""
    if name.startswith(("library", "stage", "image", "layers", "minidocker")):
        return OURS
    return GUESTS if name in MACHINES else OTHERS


def start_up(samples: measure.Samples, recorded: measure.Samples | None = None, note: str = "") -> Figure:
    """The time to the first line, on a log scale: each value small and pale, over them the median and its interval.

    Machines whose processor is emulated, as the `note` below says then, are hollow, and their labels say so.
    """
    old = {name: values for name, values in (recorded or {}).items() if name not in samples}
    everything = {**samples, **old}
    order = sorted(everything, key=lambda name: -measure.middle(everything[name])[0])
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.42 * len(order)))
    for row, name in enumerate(order):
        tint = NOT_NOW if name in old else color(name)
        values = [value for value in everything[name] if value is not None]
        median, low, high = measure.middle(values)
        hollow = {"markerfacecolor": "none"} if emulated(name, note) else {"alpha": 0.25}
        axes.plot(values, [row] * len(values), "o", color=tint, markersize=5, **hollow)
        axes.errorbar(median, row, xerr=[[median - low], [high - median]], color="black", capsize=7, linewidth=1.5)
        axes.annotate(time(median), (max(values), row), xytext=(10, -5), textcoords="offset points", fontsize=12)
    said = {name: ", emulated" if emulated(name, note) else "" for name in order}
    rows = [LABELS.get(name, name) + said[name] + (" (recorded)" if name in old else "") for name in order]
    axes.set_yticks(range(len(order)), rows)
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 3)
    axes.set_xlabel("seconds from the command to the first line (log scale)")
    figure.supxlabel(note, fontsize=10, x=0.99, ha="right")
    return figure


def emulated(name: str, note: str) -> bool:
    """Whether this is a machine whose processor is emulated: see tools.bench.experiments."""
    return name in ("minimal", "usual") and ("emulated" in note or "tcg" in note)


def time(seconds: float) -> str:
    """With two digits that count."""
    return f"{seconds * 1000:.2g} ms" if seconds < 0.0995 else f"{seconds:.2g} s"


def laps(samples: measure.Samples) -> Figure:
    """One bar: the medians of the steps, in the order of time. Steps of less than a fiftieth are drawn together."""
    medians = {label: measure.middle(values)[0] * 1000 for label, values in samples.items()}
    whole = sum(medians.values())
    large = {label: value for label, value in medians.items() if value > whole / 50}
    large["all others"] = whole - sum(large.values())
    figure, axes = plt.subplots(figsize=(10, 0.6 + 0.5 * len(large)))
    left = 0.0
    for row, value in enumerate(large.values()):
        axes.barh(row, value, left=left, color=lab.COLORS[(5, 6, 3, 1, 7, 2)[row % 6]])
        side = {"ha": "left", "xytext": (6, 0)} if left < whole / 2 else {"ha": "right", "xytext": (-6, 0)}
        place = left + value if left < whole / 2 else left
        axes.annotate(f"{value:.2f} ms", (place, row), textcoords="offset points", va="center", fontsize=12, **side)
        left += value
    axes.set_yticks(range(len(large)), list(large))
    axes.invert_yaxis()
    axes.set_xlabel("ms since the call of run (medians)")
    return figure


def storage(
    servers: Sequence[int],
    values: Mapping[str, Sequence[Any]],
    computed: Mapping[str, Sequence[float]] | None = None,
    recorded: Sequence[str] = (),
) -> Figure:
    """Bytes on disk for up to ten servers: dots are measured; dashed lines are `computed`, or go through these."""
    figure, axes = plt.subplots(figsize=(10, 5))
    counts, ends = range(1, 11), {}
    for name, sizes in values.items():
        tint = NOT_NOW if name in recorded else color(name)
        line = [measure.at(count, servers, (computed or values)[name]) / 1e9 for count in counts]
        known = [(count, size / 1e9) for count, size in zip(servers, sizes, strict=False) if size and count <= 10]
        axes.plot(counts, line, "--", color=tint, linewidth=1.5)
        axes.plot(*zip(*known, strict=True), "o", color=tint, markersize=8)
        ends[name] = line[-1]
    floor = -max(ends.values())
    together: dict[tuple[str, bool], list[str]] = {}  # lines with the same end have one label
    for name in sorted(ends, key=lambda name: (ends[name], not name.startswith("layers"))):
        together.setdefault((f"{ends[name]:.2g}", name in recorded), []).append(name)
    for (end, old), names in together.items():
        text = f"{', '.join(LABELS.get(name, name) for name in names)}: {end} GB" + (" (recorded)" if old else "")
        floor = max(ends[names[0]], floor + 0.07 * max(ends.values()))  # so that no label lies on another
        axes.annotate(text, (counts[-1], floor), xytext=(8, -4), textcoords="offset points", fontsize=12)
    axes.set_xlim(0, counts[-1] * 2.1)
    axes.set_xticks(range(0, 11, 2))
    axes.set_ylim(0)
    axes.set_xlabel("servers that have run (dots: measured, dashes: computed)")
    axes.set_ylabel("GB on disk")
    axes.set_title("on the blackboard, with parts of 1 GB: 20 GB as machines, 3 GB as layers", fontsize=12)
    return figure


def density(each: Mapping[str, float], used: Mapping[str, float], recorded: Sequence[str] = ()) -> Figure:
    """Left: memory of one idle server; `used` is the machine's own account. Right: how many fit into 8 GB, computed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8), sharey=True)
    names = list(each)
    tints = [NOT_NOW if name in recorded else color(name) for name in names]
    for row, name in enumerate(names):
        most = max(each[name], used.get(name, 0))
        text = measure.amount(each[name], "B")
        left.barh(row, each[name] / 1e6, color=tints[row])
        if used.get(name, 0) > 0:
            left.plot(used[name] / 1e6, row, "D", color="black", markersize=8)
            text += f"; diamond {measure.amount(used[name], 'B')}"
        left.annotate(text, (most / 1e6, row), xytext=(12, -4), textcoords="offset points")
        right.barh(row, 8e9 / most, color=tints[row])
        right.annotate(f"{8e9 / most:,.0f}", (8e9 / most, row), xytext=(8, -4), textcoords="offset points")
    rows = [LABELS.get(name, name) + (" (recorded)" if name in recorded else "") for name in names]
    left.set_yticks(range(len(names)), rows)
    for axes, text in (
        (left, "MB for one idle server, by its own account\n(log scale; diamond: what the machine has lost)"),
        (right, "idle servers in 8 GB\n(log scale; computed from the larger one)"),
    ):
        axes.set_xscale("log")
        axes.set_xlim(right=axes.get_xlim()[1] * (300 if axes is left else 20))
        axes.set_xlabel(text)
    return figure


def requests(latencies: measure.Samples, recorded: Sequence[str] = ()) -> Figure:
    """Which part of the requests was answered within a time: a step for each request."""
    texts = {"minidocker": "a container for each", "standing": "a server that stands", "vm": "a smallest VM for each"}
    figure, axes = plt.subplots(figsize=(10, 4.6))
    for name, values in latencies.items():
        ordered = sorted(value * 1000 for value in values if value is not None)
        tint = NOT_NOW if name in recorded else lab.COLORS[0] if name == "standing" else color(name)
        text = texts.get(name, name) + (" (recorded)" if name in recorded else "")
        axes.ecdf(ordered, color=tint, label=f"{text}: median {time(measure.middle(ordered)[0] / 1000)}")
    axes.set_xscale("log")
    axes.set_xlabel("ms from the request to the end of the answer (log scale)")
    axes.set_ylabel("part of the requests")
    figure.legend(loc="outside upper left", fontsize=12, frameon=False)
    return figure


def shares(samples: measure.Samples) -> Figure:
    """Work that two tenants of a small host got done in the same time."""
    texts = {
        "halves": "hard halves,\nbursts apart",
        "minidocker": "shares,\nbursts apart",
        "halves at once": "hard halves,\nbursts at once",
        "shares at once": "shares,\nbursts at once",
    }
    base = measure.middle([1 / value for value in samples["halves"]])[0]
    figure, axes = plt.subplots(figsize=(9, 4))
    for row, name in enumerate(texts):
        median, low, high = measure.middle([1 / value / base for value in samples[name]])
        tint = GUESTS if name.startswith("halves") else OURS
        axes.bar(row, median, color=tint, yerr=[[median - low], [high - median]], capsize=6)
    axes.set_xticks(range(len(texts)), list(texts.values()))
    axes.set_ylabel("work done (1: hard\nhalves, bursts apart)")
    return figure


def draw(build: Path, raw: Mapping[str, Any], old: Mapping[str, Any], note: str) -> None:
    """Every picture that this run has values for, as a PNG in the directory. `old` holds the recorded values.

    Where this machine has no virtual machines, those stand in for them; `note` says which machine was measured.
    """
    matplotlib.use("Agg")
    plt.rcParams.update(lab.STYLE)
    figures = {}
    if "start.first_line" in raw:
        figures["start"] = start_up(raw["start.first_line"], machines(old.get("start.first_line", {})), note)
    if "laps" in raw:
        figures["laps"] = laps(raw["laps"])
    if "storage" in raw:
        figures["storage"] = disks(raw, old)
    if "density.minidocker" in raw:
        figures["density"] = densities(raw, old)
    if "demand.latency" in raw:
        grey = machines(old.get("demand.latency", {}))
        figures["demand"] = requests({**grey, **raw["demand.latency"]}, [*grey.keys() - raw["demand.latency"].keys()])
    if "sharing.work" in raw:
        figures["sharing"] = shares(raw["sharing.work"])
    for name, figure in figures.items():
        figure.savefig(build / f"{name}.png", metadata={"Software": None})
        plt.close(figure)


def machines(samples: Mapping[str, Any]) -> dict[str, Any]:
    """The series of virtual machines among these."""
    return {name: values for name, values in samples.items() if name in MACHINES}


def disks(raw: Mapping[str, Any], old: Mapping[str, Any]) -> Figure:
    """With the recorded disks of machines, in the columns of this run, where it has none."""
    servers = [int(count) for count in raw["storage.servers"]["servers"]]
    values, computed = dict(raw["storage"]), dict(raw["storage.computed"])
    grey = [name for name in machines(old.get("storage.computed", {})) if name not in values]
    for name in grey:
        theirs, sizes = old["storage.servers"]["servers"], old["storage.computed"][name]
        values[name] = computed[name] = [dict(zip(theirs, sizes, strict=True)).get(count) for count in servers]
    return storage(servers, values, computed, grey)


def densities(raw: Mapping[str, Any], old: Mapping[str, Any]) -> Figure:
    """The last of each kind's series, which is that of the most instances; recorded ones of kinds that are not here."""
    kinds = {
        kind: raw.get(f"density.{kind}") or old.get(f"density.{kind}") for kind in ("minidocker", "minimal", "usual")
    }
    there = {kind: values for kind, values in kinds.items() if values}
    grey = [kind for kind in there if f"density.{kind}" not in raw]
    each, used = ({kind: values[key][-1] for kind, values in there.items()} for key in ("memory", "used"))
    return density(each, used, grey)

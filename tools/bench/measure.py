"""Measuring by the book: interleaved runs, paired ratios, intervals; and the records that `make bench` writes.

    samples = interleaved({"minidocker": run_ours, "crun": run_crun}, runs=41)      # each returns its seconds
    record("start.library", "minidocker", "crun", samples, unit="s", machine=machine())

A machine's speed changes from minute to minute, with its clock, its caches and its other users. So every round runs
every subject once, and a ratio is taken within a round: what slows a round down slows both of its runs down. The ratio
of a record is the median of the rounds' ratios. Below 1 means: less time (memory, disk) than the other.

A subject that takes long may be run in some of the rounds only: elsewhere its value is None, and a ratio is taken in
the rounds that have both.

The interval is that of the order statistics: of n ratios in order, the j-th and the (n+1-j)-th, with the largest j for
which the true median lies between them with a probability of at least 95 %. Every ratio is below the true median with
probability 1/2, so that probability is a sum of binomial terms: exact, and without an assumption about the noise.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Samples = dict[str, list[Any]]  # subject -> its value in each round: a number, or None if it did not run in that one
FIELDS = ("id", "subject", "against", "ratio", "low", "high", "runs", "unit", "median", "machine")


def interleaved(
    subjects: Mapping[str, Callable[[], Any]],
    runs: int,
    *,
    warm_up: int = 3,
    pause: float = 0.0,
    rare: Mapping[str, int] | None = None,
    progress: Callable[[int], object] = str,
) -> Samples:
    """Run every subject once per round, in another order each time, so that none always has the same one before it.

    The first `warm_up` rounds fill caches and start what is started once; they are not counted. Before each run
    are `pause` seconds, in which what the one before left behind can end. `rare` says of a subject that it runs only in
    every k-th round, and in the last one of the warm-up. `progress` is told each round that is over.
    """
    order, dice = list(subjects), random.Random(0)
    samples: Samples = {name: [] for name in subjects}
    for number in range(-warm_up, runs):
        dice.shuffle(order)
        for name in order:
            every = (rare or {}).get(name, 1)
            value = None
            if number % every == 0 if number >= 0 else every == 1 or number == -1:
                time.sleep(pause)
                value = subjects[name]()
            if number >= 0:
                samples[name].append(value)
        progress(number + 1)
    return samples


def rank(count: int, confidence: float = 0.95) -> int:
    """The j of the interval [j-th, (n+1-j)-th] of n ordered values around the median; 1, the extremes, for few."""
    outside, j = 0.0, 0
    while j < count // 2:
        outside += 2 * math.comb(count, j) / 2**count
        if outside > 1 - confidence:
            break
        j += 1
    return max(j, 1)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The median of the paired ratios, and the interval that holds the true one with 95 %: (ratio, low, high)."""
    return middle([mine / other for mine, other in pairs(ours, theirs)])


def pairs(ours: Sequence[Any], theirs: Sequence[Any]) -> list[tuple[float, float]]:
    """Their values in the rounds in which both ran."""
    return [pair for pair in zip(ours, theirs, strict=True) if None not in pair]


def middle(values: Sequence[Any]) -> tuple[float, float, float]:
    """The median of the values that are there, and the interval that holds the true one with 95 %."""
    ordered = sorted(value for value in values if value is not None)
    j = rank(len(ordered))
    return statistics.median(ordered), ordered[j - 1], ordered[-j]


def record(
    name: str, subject: str, against: str, samples: Samples, *, unit: str, machine: dict[str, Any]
) -> dict[str, Any]:
    """One line of bench.json. `median` is the subject's own, in `unit`; `runs` are the rounds that both ran in."""
    together = pairs(samples[subject], samples[against])
    low_high = ratio(*zip(*together, strict=True))
    median = float(f"{statistics.median(mine for mine, _ in together):.4g}")
    values = (
        name,
        subject,
        against,
        *(float(f"{value:.4g}") for value in low_high),
        len(together),
        unit,
        median,
        machine,
    )
    return dict(zip(FIELDS, values, strict=True))


def machine(**versions: str) -> dict[str, Any]:
    """What a figure was measured on. No name and no address: it stands in public beside the figure."""
    cpuinfo, meminfo = (Path("/proc", name).read_text() for name in ("cpuinfo", "meminfo"))
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(meminfo.split()[1]) / 1e6),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        **versions,
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a Markdown table: on a terminal, and in the README."""
    lines = [
        "| id | subject | against | ratio | 95 % interval | runs | median |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for entry in records:
        ratio, low, high = (f"{entry[key]:.3g}" for key in ("ratio", "low", "high"))
        cells = [entry["id"], entry["subject"], entry["against"], ratio, f"{low} to {high}", entry["runs"]]
        lines.append("| " + " | ".join([*map(str, cells), amount(entry["median"], entry["unit"])]) + " |")
    return "\n".join(lines)


def amount(value: float, unit: str) -> str:
    """A time in ms, bytes in kB, MB or GB (powers of ten), anything else as it is."""
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit == "B":
        power = min(max(int(math.log10(max(value, 1))) // 3, 0), 3)
        return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
    return f"{value:.4g} {unit}"


def summary(machine: Mapping[str, Any]) -> str:
    """One line that says what the figures were measured on."""
    what = {**machine, "cpus": f"{machine['cpus']} CPUs", "memory_gb": f"{machine['memory_gb']} GB of memory"}
    return ", ".join(
        [str(what.pop(key)) for key in ("cpu", "cpus", "memory_gb", "system")] + [f"{k} {v}" for k, v in what.items()]
    )


def write(folder: Path, records: Sequence[Mapping[str, Any]], samples: Mapping[str, Samples]) -> None:
    """bench.json, the records, and bench.csv, every single value: id, subject, round, value."""
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text("[\n" + ",\n".join(json.dumps(entry) for entry in records) + "\n]\n")
    with (folder / "bench.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", "subject", "round", "value"])
        for name, subjects in samples.items():
            for subject, values in subjects.items():
                there = [(number, value) for number, value in enumerate(values, 1) if value is not None]
                rows.writerows([name, subject, number, f"{value:.6g}"] for number, value in there)


def read(path: Path) -> dict[str, Samples]:
    """What `write` has put into bench.csv: by id and subject, the value of each round, None where there was none."""
    values: dict[str, Samples] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                series = values.setdefault(row["id"], {}).setdefault(row["subject"], [])
                series += [None] * (int(row["round"]) - 1 - len(series)) + [float(row["value"])]
    return values


def report(raw: Mapping[str, Samples], subject: str, path: str | None) -> None:
    """What a program of its own has measured: into a file, for make bench, or as a table."""
    if path:
        Path(path).write_text(json.dumps(raw))
        return
    about = machine()
    pairs = [(name, peer, samples) for name, samples in raw.items() for peer in samples if peer != subject]
    print(table([record(name, subject, peer, values, unit="s", machine=about) for name, peer, values in pairs]))

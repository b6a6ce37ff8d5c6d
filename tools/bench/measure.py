"""Measuring by the book: interleaved runs, paired ratios, intervals; and the records that `make bench` writes.

    samples = interleaved({"minidocker": run_ours, "crun": run_crun}, runs=41)      # each returns its seconds
    record("start.library", "minidocker", "crun", samples, unit="s", machine=machine())

A machine's speed changes from minute to minute, with its clock, its caches and its other users. So every round runs
every subject once, and a ratio is taken within a round: what slows a round down slows both of its runs down. The ratio
of a record is the median of the rounds' ratios. Below 1 means: less time (memory, disk) than the other.

A subject that takes long may be run in some of the rounds only: elsewhere its value is None, and a ratio is taken in
the rounds that have both. One that fails, or hangs, has None as well: that is a line of the report, and no end of it.

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
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Samples = dict[str, list[Any]]  # subject -> its value in each round: a number, or None if it did not run in that one
PATIENCE = 120  # seconds for one call of a subject
FAILURES = 3  # after so many a subject is left alone
FIELDS = ("id", "subject", "against", "ratio", "low", "high", "runs", "unit", "median", "machine")

lost: list[str] = []  # what is not measured, and why: the last lines of the report


class Missing(Exception):
    """What cannot be measured here, and why."""


def lose(what: str, why: object) -> None:
    """Say at once, and keep for the end, that there is no figure against this one."""
    words = f"{why}".strip() or type(why).__name__
    line = f"bench: no figure against {what}: {words.splitlines()[-1]}"
    print(line, flush=True)
    if line not in lost:
        lost.append(line)


def attempt(what: str, call: Callable[[], Any], seconds: int | None = None) -> Any:
    """What the call returns; or None, and a line of the report, if it fails in any way, or takes longer than that."""
    try:
        with patience(PATIENCE if seconds is None else seconds):
            return call()
    except Exception as error:
        lose(what, error)
        return None


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in here after so many seconds; 0 is for ever. In the main thread: setitimer(2), SIGALRM."""

    def end(*_: object) -> None:
        raise TimeoutError(f"it was not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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
    order, dice, failures = list(subjects), random.Random(0), Counter[str]()
    samples: Samples = {name: [] for name in subjects}
    for number in range(-warm_up, runs):
        dice.shuffle(order)
        for name in order:
            every = (rare or {}).get(name, 1)
            value = None
            if number % every == 0 if number >= 0 else every == 1 or number == -1:
                time.sleep(pause)
                if failures[name] < FAILURES:
                    value = attempt(name, subjects[name])
                    failures[name] += value is None
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


def at(count: int, servers: Sequence[int], sizes: Sequence[Any]) -> float:
    """The size for so many servers: measured, or on the straight line between its neighbours, or through the ends."""
    known = {number: size for number, size in zip(servers, sizes, strict=True) if size is not None}
    if count in known:
        return float(known[count])
    low = max((number for number in known if number < count), default=min(known))
    high = min((number for number in known if number > count), default=0)
    if not high:
        low, high = min(known), max(known)
    if low == high:
        return float(known[low]) * count / low
    return float(known[low] + (known[high] - known[low]) / (high - low) * (count - low))


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


def records(name: str, subject: str, samples: Samples, unit: str, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of an id against everybody who has run in a round in which the subject has."""
    mine = samples.get(subject, [])
    peers = [peer for peer, theirs in samples.items() if peer != subject and mine and theirs and pairs(mine, theirs)]
    return [record(name, subject, peer, samples, unit=unit, machine=machine) for peer in peers]


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
        Path(path).write_text(json.dumps({"samples": raw, "lost": lost}))
        return
    found = [records(name, subject, samples, unit(name), machine()) for name, samples in raw.items()]
    print(table([entry for entries in found for entry in entries]))


def unit(name: str) -> str:
    """What the values of an id of such a program are in: seconds, or bytes."""
    return "B" if name.startswith("memory.") else "s"

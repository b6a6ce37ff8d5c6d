"""`make bench-check`: has something become slower than recorded? A quick run is compared with recorded.json.

A ratio that has grown fails if its whole interval lies above the recorded interval by more than MARGIN. The margin must
be wider than the noise, and how large the noise is, is computed each time: quick runs are drawn at random from the
recorded values (bootstrap), and their ratios compared with that of all of them; what 99 of 100 stay within is the noise
of one session. If that is more than the margin, the id is said to be too noisy to judge, and does not pass for good.
Two sessions may differ more than that: `python -m tools.bench.regression A.json B.json...` prints by how much, for the
records of several runs of unchanged code that were kept.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench import measure

MARGIN = 1.5
DRAWS = 500

# An id's subject and its peers in the raw values: (key of the values, ours, theirs)
SERIES = {
    "start.library": ("start.end", "library", None),
    "start.stage": ("start.end", "stage", None),
    "start.image": ("start.end", "image", None),
    "vm.minimal": ("start.first_line", "library debian", "minimal"),
    "vm.debian": ("start.first_line", "library debian", "usual"),
}


def noise(ours: Sequence[float], theirs: Sequence[float], rounds: int) -> float:
    """By which factor the ratio of so many rounds, drawn from these, differs from that of all; 1 is not at all."""
    ratios = [mine / other for mine, other in measure.pairs(ours, theirs)]
    whole, dice = statistics.median(ratios), random.Random(0)
    drawn = (statistics.median(dice.choices(ratios, k=rounds)) / whole for _ in range(DRAWS))
    factors = sorted(max(factor, 1 / factor) for factor in drawn)
    return factors[int(0.99 * DRAWS)]


def values(name: str, against: str, recorded: Mapping[str, measure.Samples]) -> tuple[list[float], list[float]]:
    """The recorded values of an id, in pairs; none for an id that is counted and not timed."""
    key, ours, theirs = SERIES.get(name, (name, "minidocker", None))
    table = recorded.get(key, {})
    equal = f"{against} walls" if name == "start.image" else against
    mine, other = table.get(ours, []), table.get(theirs or equal, table.get(against, []))
    rounds = min(len(mine), len(other))
    return mine[:rounds], other[:rounds]


def verdict(new: Mapping[str, Any], old: Mapping[str, Any], recorded: Mapping[str, measure.Samples]) -> tuple[str, str]:
    """("ok", "slower" or "noisy", and a line that says why)."""
    grown = new["low"] / old["high"]
    pairs = values(new["id"], new["against"], recorded)
    own = noise(*pairs, new["runs"]) if all(pairs) else 1.0
    what = "slower" if grown > MARGIN else "noisy" if own > MARGIN else "ok"
    line = f"{what:7} {new['id']:20} against {new['against']:16} {new['ratio']:.3g}, recorded {old['ratio']:.3g}"
    return what, f"{line}; noise of {new['runs']} rounds: {own - 1:.0%}, margin {MARGIN - 1:.0%}"


def main(new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> int:
    """Print a line for each ratio; 1 if one is slower. One that is not recorded yet is said to be new."""
    known = {(entry["id"], entry["against"]): entry for entry in old}
    failed = 0
    for entry in new:
        key = entry["id"], entry["against"]
        if key not in known:
            print(f"new     {key[0]} against {key[1]}: not recorded: make bench RECORD=1")
            continue
        what, line = verdict(entry, known[key], values)
        failed += what == "slower"
        print(line)
    return bool(failed)


def spread(files: Sequence[str]) -> None:
    """By which factor the ratios of several sessions differ, the largest over the smallest."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for file in files:
        for entry in json.loads(Path(file).read_text()):
            ratios.setdefault((entry["id"], entry["against"]), []).append(entry["ratio"])
    for (name, against), found in ratios.items():
        print(f"{name} against {against}: {min(found):.3g} to {max(found):.3g}, {max(found) / min(found):.2f} times")


if __name__ == "__main__":
    spread(sys.argv[1:])

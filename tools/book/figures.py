"""Put the recorded figures into the text of README.md and the chapters, and find numbers that no command has made.

    python -m tools.book.figures           rewrite what stands between the markers
    python -m tools.book.figures --check   change nothing; list what differs, and numbers outside of markers

    <!-- figure start.library crun -->0.28<!-- /figure -->             the ratio of a record (recorded.json)
    <!-- figure start.library crun median -->5.6 ms<!-- /figure -->    a field of it: median low high runs; or
                                                                       times: 1/ratio; theirs: median/ratio; percent
    <!-- value storage layers B 4 -->204 MB<!-- /value -->             of the recorded values (recorded.csv), in a
                                                                       unit: that of a round, or the median of all
    <!-- given -->10 GB<!-- /given -->                                 not measured: of a question, or a standard

A number with a unit of measurement that stands outside of these, of code and of the recorded table, is a problem. That
is looked for in README.md and in all chapters; a size in a standard, or a time for reading, is given, too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools import REPO
from tools.bench import measure

MARKER = re.compile(r"(<!-- (figure|value) ([^\n]*?) -->)(.*?)(<!-- /\2 -->)", re.S)
HIDDEN = re.compile(  # what the search for stray numbers leaves out
    r"<!-- recorded -->.*?<!-- /recorded -->|<!-- (figure|value|given|minutes)\b.*?<!-- /\1 -->|```.*?```|`[^`\n]*`"
    r"|^    .*?$|<!-- source .*?<!-- /source -->|<details>.*?</details>",
    re.S | re.M,
)
NUMBER = re.compile(r"\b\d[\d.,]*\s?(?:ms|µs|s|seconds|minutes|kB|MB|GB|KiB|MiB|GiB|times|per cent|CPUs)\b|\d\s?%")


def record(words: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """The text of a figure: words are id, against and perhaps a field."""
    name, against, what = (*words, "ratio")[:3]
    entry = next(entry for entry in records if (entry["id"], entry["against"]) == (name, against))
    derived = {
        "times": lambda: short(1 / entry["ratio"]),
        "percent": lambda: f"{short(100 * entry['ratio'])} %",
        "theirs": lambda: measure.amount(float(f"{entry['median'] / entry['ratio']:.2g}"), entry["unit"]),
        "median": lambda: measure.amount(float(f"{entry['median']:.2g}"), entry["unit"]),
        "runs": lambda: str(entry["runs"]),
    }
    return derived[what]() if what in derived else short(entry[what])


def value(words: Sequence[str], values: Mapping[str, measure.Samples]) -> str:
    """The text of a value: words are id, subject, unit and perhaps a round."""
    name, subject, unit, *number = words
    series = values[name][subject]
    found = series[int(number[0]) - 1] if number else measure.middle(series)[0]
    return measure.amount(float(f"{found:.3g}"), unit)


def short(number: float) -> str:
    """Two digits that count, and no exponent."""
    return f"{float(f'{number:.2g}'):,.10g}" if number >= 0.001 else f"{number:.1g}"


def filled(text: str, records: Sequence[Mapping[str, Any]], values: Mapping[str, measure.Samples]) -> str:
    """The text with the recorded figures between its markers. One that is not recorded is an error."""

    def fill(match: re.Match[str]) -> str:
        start, kind, words, _, end = match.groups()
        try:
            new = record(words.split(), records) if kind == "figure" else value(words.split(), values)
        except (KeyError, IndexError, StopIteration, ValueError, TypeError):
            raise SystemExit(f"figures: {start} is not recorded: make bench RECORD=1") from None
        return start + new + end

    return MARKER.sub(fill, text)


def strays(text: str) -> Iterator[str]:
    """Numbers with a unit of measurement that stand outside of every marker."""
    yield from (match[0] for match in NUMBER.finditer(HIDDEN.sub(lambda match: "\n" * match[0].count("\n"), text)))


def main(words: Sequence[str]) -> int:
    """Fill, or check."""
    records = json.loads((REPO / "tools/bench/recorded.json").read_text())
    values = measure.read(REPO / "tools/bench/recorded.csv")
    wrong = []
    for path in [REPO / "README.md", *sorted(REPO.glob("chapters/*/*.md"))]:
        old, where = path.read_text(), str(path.relative_to(REPO))
        new = filled(old, records, values)
        wrong += [f"{where}: {stray!r} is between no markers: which command has measured it?" for stray in strays(new)]
        if new != old and "--check" in words:
            wrong.append(f"{where}: shows other figures than recorded.json; run python -m tools.book.figures")
        elif new != old:
            path.write_text(new)
    print("\n".join(wrong) or "each figure is a recorded one")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

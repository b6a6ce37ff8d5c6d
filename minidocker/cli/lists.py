"""What verbs print of several things: a list, by -q, --format and --filter; sizes and ages."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from minidocker.cli import Options, nearest
from minidocker.cli.template import parsed, render, spelled
from minidocker.outcome import ContainerError

UNITS = {"year": 31536000, "month": 2592000, "week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1}
Thing = TypeVar("Thing")


def show(
    options: Options, rows: Sequence[Mapping[str, str]], titles: Mapping[str, str], columns: str, key: str
) -> None:
    """A list: the `columns`; the `key` with -q; or what --format says. A row has all fields that have titles."""
    form = options.format
    if form in ("", "table"):
        names = [f"{{{{.{name}}}}}" for name in ([key] if options.get("quiet") else columns.split())]
        form = "" if options.get("quiet") else "table "
        form += "\t".join(names)
    parts = parsed("{{json .}}" if form == "json" else form.removeprefix("table "))
    lines = [render(parts, {".": row, "$": row}) for row in rows]
    if form.startswith("table "):
        lines.insert(0, render(parts, {".": titles, "$": titles, "titles": True}))
        cells = [line.split("\t") for line in lines]
        widths = [max(map(len, column)) for column in itertools.zip_longest(*cells, fillvalue="")]
        lines = ["   ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    print(end="".join(f"{line}\n" for line in lines))


def filtered(
    things: Iterable[Thing], words: Sequence[str], predicates: Mapping[str, Callable[[Thing, str], object]]
) -> list[Thing]:
    """Those for which each KEY=VALUE of --filter holds; of one key several times, one of them, but all labels."""
    wanted = dict[str, list[str]]()
    for word in words:
        key, equals, value = word.partition("=")
        if key not in predicates or not equals:
            hint = nearest(key, {*predicates} - {key}) or f": it takes {', '.join(predicates)}, each with =VALUE"
            raise ContainerError(f"--filter {word}{hint}")
        wanted.setdefault(key, []).append(value)
    found = [*things]
    for key, values in wanted.items():
        holds, joined = predicates[key], all if key == "label" else any
        found = [thing for thing in found if joined(holds(thing, value) for value in values)]
    return found


def labelled(labels: Mapping[str, str] | None, text: str) -> bool:
    """Whether there is this KEY, or KEY=VALUE."""
    key, equals, value = text.partition("=")
    return key in (labels or {}) and (not equals or (labels or {})[key] == value)


def human(size: float) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them."""
    power = next((power for power in range(4) if size < 1000 ** (power + 1)), 4)
    return f"{size / 1000**power:.3g}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def ago(created: str | None) -> str:
    """How long ago a time of RFC 3339 is. Images that are made reproducibly have none."""
    try:
        then = datetime.datetime.fromisoformat(created or "")
        seconds = (datetime.datetime.now(datetime.UTC) - then).total_seconds()
    except (ValueError, TypeError):
        return "N/A"
    return next(
        (f"{seconds // length:.0f} {unit}s ago" for unit, length in UNITS.items() if seconds >= 2 * length), "Just now"
    )


def tell(options: Options, known: Mapping[str, object]) -> None:
    """One description: as --format says, or a line for each part of it."""
    if options.format:
        print(render(parsed("{{json .}}" if options.format == "json" else options.format), {".": known, "$": known}))
    for key, value in [] if options.format else known.items():
        inner = value.items() if isinstance(value, dict) else []
        print(f"{key}:{'' if inner else f' {spelled(value)}'}", *(f"\n {name}: {one}" for name, one in inner), sep="")

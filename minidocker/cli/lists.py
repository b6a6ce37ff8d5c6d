"""What verbs print of several things: a list, by -q, --format and --filter; sizes and ages."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from minidocker.cli import Options, nearest
from minidocker.cli.template import parsed, render, spelled
from minidocker.outcome import ContainerError

# Unit -> its seconds, and up to how many seconds it is used
UNITS = {"second": (1, 60), "minute": (60, 3600), "hour": (3600, 172800), "day": (86400, 1209600)}
UNITS |= {"week": (604800, 5184000), "month": (2592000, 63072000), "year": (31536000, 1 << 40)}
ONE = {"second": "1 second", "minute": "About a minute", "hour": "About an hour"}
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
        widths = [max(7, *map(len, column)) for column in itertools.zip_longest(*cells, fillvalue="")]
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


def human(size: float, base: int = 1000) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them; memory in four, and in units of 1024."""
    power = next((power for power in range(4) if size < base ** (power + 1)), 4)
    digits, units = (3, "B kB MB GB TB") if base == 1000 else (4, "B KiB MiB GiB TiB")
    return f"{size / base**power:.{digits}g}{units.split()[power]}"


def ago(created: str | None) -> str:
    """How long ago a time of RFC 3339 is. Images that are made reproducibly have none."""
    return f"{duration(created)} ago" if created else "N/A"


def duration(since: str) -> str:
    """The same in Docker's words. From an hour on it is rounded."""
    seconds = time.time() - datetime.datetime.fromisoformat(since).timestamp()
    if seconds < 1:
        return "Less than a second"
    seconds += 1800 * (seconds >= 3600)
    unit, length = next((unit, length) for unit, (length, end) in UNITS.items() if seconds < end)
    number = int(seconds / length)
    return ONE[unit] if number == 1 else f"{number} {unit}s"


def tell(options: Options, known: Mapping[str, object]) -> None:
    """One description: as --format says, or a line for each part of it."""
    if options.format:
        print(render(parsed("{{json .}}" if options.format == "json" else options.format), {".": known, "$": known}))
    for key, value in [] if options.format else known.items():
        inner = value.items() if isinstance(value, dict) else []
        print(f"{key}:{'' if inner else f' {spelled(value)}'}", *(f"\n {name}: {one}" for name, one in inner), sep="")

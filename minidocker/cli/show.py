"""What verbs print: tables, sizes, and what became of each of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from minidocker.cli import complain
from minidocker.files import NotRemoved
from minidocker.outcome import ContainerError


def table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, with three blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def human(size: float) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them."""
    power = next((power for power in range(4) if size < 1000 ** (power + 1)), 4)
    return f"{size / 1000**power:.3g}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def each(words: Iterable[str], remove: Callable[[str], object]) -> int:
    """Remove each, and say so; one that cannot be removed is a line, and the exit status."""
    status = 0
    for word in words:
        try:
            print(remove(word) or word)
        except ContainerError as failure:
            status = complain(failure, 1)
    return status


def pruned(*prunes: Callable[[], Iterable[object]], say: str = "removed ") -> None:
    """Call all of them, and say what is gone. What resists is told at the end, and keeps nobody from the rest."""
    failures = list[Exception]()
    for prune in prunes:
        try:
            gone = prune()
        except NotRemoved as left:
            gone = left.removed
            failures += left.failures
        for what in gone:
            print(f"{say}{what}")
    if failures:
        raise NotRemoved(failures)

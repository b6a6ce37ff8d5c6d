"""Chapter 5: how far it is: a bar for each layer on a terminal, and a line for each in a file or a pipe.

    with Progress() as progress:
        task = progress.task("4f4fb700ef54", total=2_200_000)
        task.advance(65536)
        task.end("Pull complete")

Everything goes to standard error, so that standard output holds results only. Several threads may report at once.
"""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Progress:
    """`quiet`: say nothing. `stopped`: once it is set, the next `advance` of each thread ends that thread's work."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.stopped = quiet, threading.Event()
        self._bars: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
            from rich.progress import Progress as Bars

            text = TextColumn("{task.description}"), TextColumn("{task.fields[state]}")
            bytes_ = BarColumn(), DownloadColumn(), TransferSpeedColumn()
            self._bars = Bars(*text, *bytes_, console=Console(stderr=True))

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def task(self, label: str, total: int) -> Task:
        """A new bar; `total` in bytes."""
        number = self._bars.add_task(label, total=total, state="") if self._bars else 0
        return Task(self, label, number)

    def line(self, text: str) -> None:
        """A line of its own."""
        if self._bars:
            self._bars.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            sys.stderr.write(f"{text}\n")  # print would write the end of the line separately: lines of two threads mix


class Stopped(Exception):
    """Another thread has failed, and says why."""


class Task:
    """One bar, or nothing until its last line."""

    def __init__(self, progress: Progress, label: str, number: int) -> None:
        self._progress, self._label, self._number = progress, label, number

    def advance(self, count: int) -> None:
        """So many bytes more; less, if some must come again."""
        if self._progress.stopped.is_set():
            raise Stopped
        if self._progress._bars:
            self._progress._bars.advance(self._number, count)

    def end(self, state: str) -> None:
        """What became of it."""
        bars = self._progress._bars
        if bars:
            total = next(task.total for task in bars.tasks if task.id == self._number)
            bars.update(self._number, completed=total, state=state)
        else:
            self._progress.line(f"{self._label}: {state}")

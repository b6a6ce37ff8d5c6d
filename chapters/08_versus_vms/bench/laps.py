"""Chapter 8: where the time of a start goes. The list of isolators is the way to find out: a clock is one more of them.

    for label, seconds in laps(["true"], {"Cgroup": Cgroup(), "PivotRoot": PivotRoot(root)}):

A `Lap` between two isolators notes the time at each of the four moments. What lies between two notes of one moment is
what the isolator between them took.
"""

import os
import time
from collections.abc import Sequence
from typing import Self

from minidocker.process import Isolator, run


class Lap(Isolator):
    """Notes the time in the file `clock`, a descriptor, at each moment. It puts up no wall.

    CLOCK_MONOTONIC is the same clock on the host side and inside, but for a container with a time namespace.
    """

    def __init__(self, clock: int) -> None:
        self.clock, self.descriptors = clock, (clock,)

    def note(self) -> None:
        """One line. The offset of the file is shared with every copy of the descriptor: lines follow one another."""
        os.write(self.clock, b"%d\n" % time.monotonic_ns())

    def __enter__(self) -> Self:
        self.note()
        return self

    def attach(self, pid: int) -> None:
        """On the host side: the process exists."""
        self.note()

    def inside(self) -> None:
        """In the new process."""
        self.note()

    def __exit__(self, *_: object) -> None:
        self.note()


def laps(argv: Sequence[str], isolators: dict[str, Isolator]) -> list[tuple[str, float]]:
    """Run `argv` behind the isolators, and return what each step took: (label, seconds), in the order of time.

    Their sum is the time from the call of `run` to its result. Needs the rights that the isolators need.
    """
    clock = os.memfd_create("laps")
    try:
        order: list[Isolator] = [Lap(clock)]
        for isolator in isolators.values():
            order += [isolator, Lap(clock)]
        begin = time.monotonic_ns()
        result = run(argv, *order)
        end = time.monotonic_ns()
        assert result.exit_code == 0, result
        notes = [begin, *map(int, os.pread(clock, 1 << 16, 0).split()), end]
    finally:
        os.close(clock)
    labels = ["call"]  # then four walks along the list, the last of them backwards
    for moment, after in (("prepare", "birth"), ("attach", "gate"), ("inside", "exec, run, end")):
        labels += [*(f"{name}: {moment}" for name in isolators), after]
    labels += [*(f"{name}: clean up" for name in reversed(isolators)), "return"]
    return [(label, (end - begin) / 1e9) for label, begin, end in zip(labels, notes[:-1], notes[1:], strict=True)]

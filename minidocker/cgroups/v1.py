"""Chapter 3: version 1 of control groups, where it is still in use: what version 2 does in another way.

It has a hierarchy for each controller, or a few. A process is not born in its groups: it writes itself into the file
`tasks` of each. To stop processes is a controller of its own, the freezer; there is no file that kills them.
"""

from __future__ import annotations

import os

from minidocker.syscalls import call, signal

FREEZER = ("freezer.state", ("THAWED", "FROZEN"), "freezer.state", ("THAWED", "FROZEN"))  # see hierarchy


def doors(paths: list[str]) -> tuple[int, ...]:
    """Descriptors through which the process gets into these groups. Host side."""
    return tuple(os.open(f"{path}/tasks", os.O_WRONLY) for path in paths)


def enter(descriptors: tuple[int, ...]) -> None:
    """Join the groups. "0" means the process that writes it; any other number makes the kernel wait for all CPUs."""
    for descriptor in descriptors:
        call("write", descriptor, b"0", 1, path="tasks")


def kill(pids: str) -> None:
    """SIGKILL to each. They are frozen before, where that is possible: a signal to each would lose a race with fork."""
    for pid in pids.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass


def in_order(settings: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(file, text): the limit of memory may never be above that of memory and swap: if it grows, it comes last."""
    limits = [(file, text) for file, text in settings if file.endswith("/memory.limit_in_bytes")]
    grows = [(file, text) for file, text in limits if int(open(file).read()) < int(text)]
    return [setting for setting in settings if setting not in grows] + grows

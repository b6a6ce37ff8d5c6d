"""Chapter 10: to watch containers from outside: what they use, and what happens to them: `docker stats`, `events`.

use = Use(record, record.state())          # use.cpu, use.memory, ...: until now
for event in told(): ...                   # of all containers, and for ever
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace

from minidocker.cgroups import Statistics, hierarchies
from minidocker.cgroups.hierarchy import read
from minidocker.engine.log import moment
from minidocker.engine.records import ALIVE, Record
from minidocker.state import home
from minidocker.syscalls import Any

PAUSE = 0.1  # s, from one look for new events to the next


def groups(record: Record) -> dict[str, Any]:
    """The control groups of a container, by their controllers: its monitor holds them, and others may read."""
    found = dict[str, Any]()
    for one in reversed(hierarchies()):  # the first one that has a controller is in use
        group = SimpleNamespace(version=one.version, path=f"{one.parent}/{record.short}")
        found |= dict.fromkeys(one.controllers, group)
    return found


class Use:
    """What a container has used: seconds of `cpu`, `pids`, bytes of `memory` (of its `limit`), `disk` and `net`."""

    def __init__(self, record: Record, state: dict[str, Any], own_net: bool = True) -> None:
        self.time, own = time.monotonic(), groups(record)
        figures = Statistics(own)
        self.cpu, self.pids = figures.cpu_seconds or 0, figures.pids or 0
        self.disk = [figures.read_bytes or 0, figures.written_bytes or 0]
        place = own["memory"].path if "memory" in own else ""
        known = dict(line.split() for line in read(f"{place}/memory.stat").splitlines())
        spare = int(known.get("total_inactive_file") or known.get("inactive_file") or 0)  # of version 1, or 2
        self.memory = max((figures.memory_bytes or 0) - spare, 0)  # without files that it may not need again
        limit = (read(f"{place}/memory.max") or read(f"{place}/memory.limit_in_bytes")).strip()
        everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if state["status"] in ALIVE else 0
        self.limit = min(int(limit), everything) if limit.isdecimal() else everything
        lines = read(f"/proc/{state['pid']}/net/dev").splitlines()[2:] if own_net else []  # proc(5): 16 figures each
        cards = [line.partition(":")[2].split() for line in lines if line.split(":")[0].strip() != "lo"]
        self.net = [sum(int(card[column]) for card in cards) for column in (0, 8)]


def told(until: str = "") -> Iterator[dict[str, Any]]:
    """All events that are known, and those to come, until this time: the lines that `records.tell` has written."""
    with open(os.open(f"{home()}/events", os.O_RDONLY | os.O_CREAT, 0o600), "rb") as file:
        while True:
            over = until and moment("0s") > until
            for line in file:
                with contextlib.suppress(ValueError):  # a power cut may leave half a line
                    event = json.loads(line)
                    if until and event["time"] > until:
                        return
                    yield event
            if over:
                return
            time.sleep(PAUSE)

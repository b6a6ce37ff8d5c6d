"""Chapter 10: to watch containers from outside: what they use, and what happens to them: `docker stats`, `events`.

use = Use(record, record.state())      # use.cpu, use.memory, ...: until now
for event in told(): ...               # of all containers, and for ever
"""

from __future__ import annotations

import os
import time
from _collections_abc import Iterator
from _json import encode_basestring_ascii as quoted
from _json import make_encoder

from minidocker.cgroups import Hierarchy, Statistics, hierarchies
from minidocker.cgroups.hierarchy import read
from minidocker.state import hold, home
from minidocker.syscalls import Any

EVENTS = 1 << 20  # bytes of events after which another file begins; the one before is kept
PAUSE = 0.1  # s, from one look for new events to the next


class suppress:
    """contextlib.suppress, without the import of that module: a tenth of a start."""

    def __init__(self, *kinds: type[Exception]) -> None:
        self.kinds = kinds

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self.kinds)


def text(value: Any, between: str = ",\n ") -> bytes:
    """JSON, by what json.dumps has behind it: to import all of the module takes longer than a fork."""
    encode = make_encoder(None, str, quoted, None, ": ", between, False, False, True)
    return "".join((*encode(value, 0), "\n")).encode()


def now(nanoseconds: int = 0) -> str:
    """The time, or another one, as RFC 3339 has it, as in all documents of images and containers."""
    seconds, rest = divmod(nanoseconds or time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09}Z"


def tell(action: str, config: dict[str, Any], **more: str) -> None:
    """A line for `minidocker events`, in one piece. What has become long takes the place of what was kept before."""
    labels = dict(text.partition("=")[::2] for text in config.get("options", {}).get("label", ()))
    attributes = {**labels, "name": config.get("name", ""), "image": config.get("image", ""), **more}
    line = {"time": now(), "type": "container", "action": action, "id": config.get("id", ""), "attributes": attributes}
    path = f"{home()}/events"
    with suppress(OSError), open(path, "ab", 0) as events:
        events.write(text(line, ", "))
        if events.tell() > EVENTS and (lock := hold(path)) is not None:
            if os.fstat(lock).st_size > EVENTS:  # nobody else has just done it
                os.rename(path, f"{path}.old")
            os.close(lock)


def groups(record: Any) -> dict[str, Any]:
    """The control groups of a container, by their controllers: its monitor holds them, and others may read."""
    found = dict[str, Any]()
    for one in reversed(hierarchies()):  # the first one that has a controller is in use
        group = Hierarchy(one.version, f"{one.parent}/{record.short}", one.controllers)
        found |= dict.fromkeys(one.controllers, group)
    return found


class Use:
    """What a container has used: seconds of `cpu`, `pids`, bytes of `memory` (of its `limit`), `disk` and `net`."""

    def __init__(self, record: Any, state: dict[str, Any], own_net: bool = True) -> None:
        self.time, own = time.monotonic(), groups(record)
        figures = Statistics(own)
        self.cpu, self.pids = figures.cpu_seconds or 0, figures.pids or 0
        self.disk = [figures.read_bytes or 0, figures.written_bytes or 0]
        place = own["memory"].path if "memory" in own else ""
        known = dict(line.split() for line in read(f"{place}/memory.stat").splitlines())
        spare = int(known.get("total_inactive_file") or known.get("inactive_file") or 0)  # of version 1, or 2
        self.memory = max((figures.memory_bytes or 0) - spare, 0)  # without files that it may not need again
        limit = (read(f"{place}/memory.max") or read(f"{place}/memory.limit_in_bytes")).strip()
        everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if state["pid"] else 0
        self.limit = min(int(limit), everything) if limit.isdecimal() else everything
        lines = read(f"/proc/{state['pid']}/net/dev").splitlines()[2:] if own_net else []  # proc(5): 16 figures each
        cards = [line.partition(":")[2].split() for line in lines if line.split(":")[0].strip() != "lo"]
        self.net = [sum(int(card[column]) for card in cards) for column in (0, 8)]


def told(until: str = "") -> Iterator[dict[str, Any]]:
    """All events that are kept, and those to come, until this time."""
    import json

    from minidocker.engine.log import moment

    path = f"{home()}/events"
    file = open(f"{path}.old" if os.path.exists(f"{path}.old") else os.devnull, "rb")
    while True:
        over = until and moment("0s") > until
        latest = open(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600), "rb")
        for line in file:
            with suppress(ValueError):  # a power cut may leave half a line
                event = json.loads(line)
                if until and event["time"] > until:
                    return
                yield event
        if not os.path.sameopenfile(file.fileno(), latest.fileno()):
            file = latest
        elif over:
            return
        else:
            time.sleep(PAUSE)

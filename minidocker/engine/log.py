"""Chapter 10: what a container has written: `minidocker logs`. A line of JSON each, as Docker's driver json-file."""

from __future__ import annotations

import os
import time
from _collections_abc import Iterator
from _json import encode_basestring_ascii as quoted  # json.dumps takes six times as long

from minidocker.engine.records import ALIVE, Record
from minidocker.engine.watch import now, suppress
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any

LINE = 1 << 14  # bytes of a line that are kept in one piece
UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
PAUSE = 0.05  # s, from one look for new lines to the next


class Log:
    """What a monitor appends to."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.rest = {1: b"", 2: b""}

    def write(self, stream: int, data: bytes, last: bool = False) -> None:
        """Whole lines, of stdout or stderr; the rest of one waits for its end."""
        *lines, rest = (self.rest[stream] + data).split(b"\n")
        lines = [line + b"\n" for line in lines]
        while len(rest) >= LINE or (last and rest):
            lines.append(rest[:LINE])
            rest = rest[LINE:]
        self.rest[stream] = rest
        end = f', "stream": "{("stdout", "stderr")[stream - 1]}", "time": "{now()}"}}\n'
        text = "".join(f'{{"log": {quoted(line.decode(errors="replace"))}{end}' for line in lines)
        with suppress(OSError):  # a full disk must not end the container
            os.write(self.file, text.encode())


def lines(record: Record, tail: str = "", follow: bool = False) -> Iterator[dict[str, Any]]:
    """The lines, or the last `tail` of them; with `follow` also those to come, until the container has ended."""
    if tail not in ("", "all") and not tail.isdecimal():
        raise ContainerError(f"--tail {tail}: a number of lines is expected, or all")
    try:
        file = open(f"{record.path}/log", "rb")
    except FileNotFoundError:
        return  # it was never started
    with file:
        last = file if tail in ("", "all") else __import__("collections").deque(file, int(tail))
        yield from filter(None, map(_line, last))
        rest = b""
        while follow:
            alive = record.state()["status"] in ALIVE
            for part in file:
                rest += part
                if rest.endswith(b"\n"):
                    yield from filter(None, [_line(rest)])
                    rest = b""
            if not alive:
                return
            time.sleep(PAUSE)


def _line(text: bytes) -> dict[str, Any] | None:
    """One of them; None where a power cut, or a full disk, has left half of it."""
    try:
        found = __import__("json").loads(text)
        return found if {"log", "stream", "time"} <= found.keys() else None
    except (ValueError, AttributeError):
        return None


def moment(text: str) -> str:
    """A time as users write it, as the log has it: RFC 3339, seconds since 1970, or how long ago ("1h30m")."""
    if not text:
        return ""
    import datetime  # a monitor, which imports this module, needs neither
    import re

    zone = datetime.UTC
    try:
        if re.fullmatch(r"(\d+(h|m|s|ms))+", text):
            ago = sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|h|m|s)", text))
            when = datetime.datetime.now(zone) - datetime.timedelta(seconds=ago)
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            when = datetime.datetime.fromtimestamp(float(text), zone)
        else:
            when = datetime.datetime.fromisoformat(text)
            when = when.replace(tzinfo=when.tzinfo or zone).astimezone(zone)
    except (ValueError, OverflowError):
        raise ContainerError(f"{text}: no time: write 2025-01-31T10:00:00Z, seconds since 1970, or 10m") from None
    return when.isoformat(timespec="microseconds").replace("+00:00", "")

"""Chapter 10, and a picture for the labs from chapter 1 on: a running container, as /proc shows it.

    with start(["sleep", "9"], Namespaces("pid mount uts"), Cgroup(memory="64m"), PivotRoot(root)) as process:
        print(look(process.pid))              # as text
        look(process.pid).svg(look(os.getpid()))   # as a drawing, beside another one

    sudo python3 -m minidocker.look PID...

All of it is read from /proc, proc(5), and from the files of control groups, by somebody who may: root, on the host.
Nothing in the container takes part. What cannot be read, because the process ended meanwhile, is left out.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from dataclasses import dataclass
from html import escape

from minidocker.cgroups.hierarchy import hierarchies, read
from minidocker.outcome import ContainerError

KINDS = {"mnt": "mount", "uts": "host name", "ipc": "ipc", "pid": "pid", "net": "net", "user": "user"}
KINDS |= {"cgroup": "cgroup", "time": "time"}
# What is drawn as a bar: its name, then the files of version 2 and of version 1 that say how much is used and allowed
BARS = (
    ("memory", "memory", ("memory.current", "memory.max"), ("memory.usage_in_bytes", "memory.limit_in_bytes")),
    ("pids", "processes", ("pids.current", "pids.max"), ("pids.current", "pids.max")),
)
BOUNDLESS = 1 << 60  # version 1 has no word for "no limit", but the largest number of pages
STEP = 380  # from one column of the drawing to the next, in pixels
SHOWN = 8  # lines of a list; the rest is counted


@dataclass
class Look:
    """One process and its walls: `own` has a line (kind, number of the namespace, whether it is not the viewer's) for
    each namespace; `bars` (name, used, allowed or None) in bytes, processes or CPUs; the rest are lists of lines.
    """

    title: str
    own: list[tuple[str, str, bool]]
    bars: list[tuple[str, float | None, float | None]]
    processes: list[str]
    mounts: list[str]
    addresses: list[str]

    def __str__(self) -> str:
        """For a terminal."""
        lines = [self.title, "", "  namespaces"]
        lines += [f"    {kind:10} {number:>12}  {'its own' if own else 'as here'}" for kind, number, own in self.own]
        lines += ["", "  control group"]
        for name, used, allowed in self.bars:
            full = 0 if used is None or not allowed else round(20 * min(1, used / allowed))
            lines.append(f"    {name:10} [{'#' * full}{'.' * (20 - full)}] {amount(name, used, allowed)}")
        for name, listed in self._lists():
            lines += ["", f"  {name}", *(f"    {line}" for line in listed)]
        return "\n".join(lines) + "\n"

    def _lists(self) -> list[tuple[str, list[str]]]:
        lists = {"processes": self.processes, "mounts": self.mounts, "addresses": self.addresses}
        return [(name, _shortened(lines)) for name, lines in lists.items()]

    def svg(self, *others: Look) -> str:
        """The drawing as the text of an SVG file: this one, and others beside it. A namespace of its own is filled."""
        columns = [look._column() for look in (self, *others)]
        width, height = STEP * len(columns) + 20, max(height for _, height in columns) + 20
        moved = ((f"translate({20 + STEP * n} 10)", text) for n, (text, _) in enumerate(columns))
        drawn = "".join(f'<g transform="{move}">{text}</g>' for move, text in moved)
        titles = escape(", ".join(look.title for look in (self, *others)))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="look" viewBox="0 0 {width} {height}" width="{width}" '
            f'role="img" font-family="sans-serif" font-size="13"><title>{titles}</title>'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>{drawn}</svg>'
        )

    def _column(self) -> tuple[str, int]:
        """One process from the top down, and how high it became."""
        drawn, y = [_text(0, 18, self.title[:46], bold=True)], 34
        for place, (kind, number, own) in enumerate(self.own):  # boxes in two rows of four
            x, top = 88 * (place % 4), y + 44 * (place // 4)
            color = "#56b4e9" if own else "#ffffff"
            drawn.append(f'<rect x="{x}" y="{top}" width="82" height="38" fill="{color}" stroke="#000000"/>')
            drawn += [_text(x + 6, top + 16, kind), _text(x + 6, top + 31, number if own else "as here", small=True)]
        y += 44 * -(-len(self.own) // 4) + 8
        for name, used, allowed in self.bars:
            full = 0 if used is None or not allowed else 120 * min(1, used / allowed)
            drawn.append(_text(0, y + 13, name))
            drawn.append(f'<rect x="82" y="{y}" width="120" height="16" fill="#ffffff" stroke="#000000"/>')
            drawn.append(f'<rect x="82" y="{y}" width="{full:.0f}" height="16" fill="#e69f00"/>')
            drawn.append(_text(210, y + 13, amount(name, used, allowed), small=True))
            y += 24
        for name, lines in self._lists():
            drawn.append(_text(0, y + 18, name, bold=True))
            drawn += [_text(0, y + 36 + 16 * n, line[:54], small=True) for n, line in enumerate(lines)]
            y += 28 + 16 * len(lines)
        return "".join(drawn), y + 8


def _shortened(lines: list[str]) -> list[str]:
    return lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])


def _text(x: float, y: float, text: str, bold: bool = False, small: bool = False) -> str:
    style = ' font-weight="bold"' * bold + ' font-size="11"' * small
    return f'<text x="{x}" y="{y}"{style} xml:space="preserve">{escape(text)}</text>'


def amount(name: str, used: float | None, allowed: float | None) -> str:
    """Both figures in words: "12 of 64 MiB", "3, no limit"."""
    unit = {"memory": 1 << 20}.get(name, 1)
    now = "" if used is None else f"{used / unit:.0f}"
    word = {"memory": " MiB", "cpu": " CPUs"}.get(name, "")
    if allowed is None:
        return f"{now}{word if now else ''}, no limit".removeprefix(", ")
    return f"{now} of {allowed / unit:g}{word}" if now else f"{allowed / unit:g}{word}"


def look(pid: int) -> Look:
    """What /proc says of the process `pid` now. As root: others may not read whose namespaces these are.

    A process that is gone is a `ContainerError`.
    """
    try:
        own = [(name, *_namespace(pid, kind)) for kind, name in KINDS.items()]
        processes = _processes(pid)
        title = f"process {pid} here: {_command(pid)}"
        with open(f"/proc/{pid}/mountinfo") as file:
            mounts = [_mount(line) for line in file]
        return Look(title, own, _bars(pid), processes, mounts, _addresses(pid))
    except FileNotFoundError:
        raise ContainerError(f"look: process {pid}: there is none: minidocker needs one that still runs") from None


def _namespace(pid: int, kind: str) -> tuple[str, bool]:
    """The number of a namespace, and whether it is another than the viewer's: namespaces(7)."""
    link = os.readlink(f"/proc/{pid}/ns/{kind}")
    return link.partition("[")[2].rstrip("]"), link != os.readlink(f"/proc/self/ns/{kind}")


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return " ".join(words.split()) or _status(pid)["Name"]


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def _processes(pid: int) -> list[str]:
    """Who shares the PID namespace of `pid`, if it is not the viewer's; else `pid` alone: numbers inside and here."""
    space, own = _namespace(pid, "pid")
    found = []
    for number in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()) if own else [pid]:
        try:
            if _namespace(number, "pid")[0] == space:
                status = _status(number)
                inside = status["NSpid"].split()[-1]
                found.append(f"{inside:>4} ({number} here), user {status['Uid'].split()[0]}: {_command(number)}")
        except OSError:
            pass  # it ended while we looked, or is the host's and guarded
    return found


def _mount(line: str) -> str:
    """A line of /proc/PID/mountinfo: where it is mounted, and what; the fields after " - " are type and source."""
    fields, kind = line.split(), line.partition(" - ")[2].split()[0]
    readonly = ", read-only" if "ro" in fields[5].split(",") else ""
    return f"{fields[4]}  {kind}{readonly}"


def _bars(pid: int) -> list[tuple[str, float | None, float | None]]:
    """Use and limit of each controller, in the control group of `pid`: cgroups(7), /proc/PID/cgroup."""
    with open(f"/proc/{pid}/cgroup") as file:
        paths = {tuple(line.split(":")[1].split(",")): line.rstrip("\n").split(":", 2)[2] for line in file}
    groups = dict[str, tuple[int, str]]()
    for hierarchy in hierarchies():
        for names, path in paths.items():
            if {*names} & hierarchy.controllers or (names == ("",) and hierarchy.version == 2):
                groups |= dict.fromkeys(hierarchy.controllers, (hierarchy.version, f"{hierarchy.path}{path}"))
    bars = []
    for controller, name, new, old in BARS:
        if controller in groups:
            version, path = groups[controller]
            used, allowed = (_number(read(f"{path}/{file}")) for file in (new if version == 2 else old))
            bars.append((name, used, allowed))
    if "cpu" in groups:
        version, path = groups["cpu"]
        files = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = [*" ".join(read(f"{path}/{file}") for file in files).split(), "max", "1"][:2]
        bars.append(("cpu", None, int(quota) / int(period) if quota.isdecimal() else None))
    return bars


def _number(text: str) -> float | None:
    return int(text) if text.strip().isdecimal() and int(text) < BOUNDLESS else None


def _addresses(pid: int) -> list[str]:
    """The addresses of its network: IPv4 has them in the routing table only, IPv6 in a file of their own."""
    trie = read(f"/proc/{pid}/net/fib_trie").partition("Local:")[2]
    found = [*dict.fromkeys(re.findall(r"-- ([0-9.]+)\n +/32 host LOCAL", trie))]
    lines = [line.split() for line in read(f"/proc/{pid}/net/if_inet6").splitlines()]
    return found + [f"{ipaddress.IPv6Address(int(line[0], 16))} on {line[5]}" for line in lines]


if __name__ == "__main__":
    print(*(look(int(word)) for word in sys.argv[1:] or [str(os.getpid())]), sep="\n", end="")

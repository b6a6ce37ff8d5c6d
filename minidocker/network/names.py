"""Chapter 7: names. How containers find each other: what they see as /etc/hosts and /etc/resolv.conf.

There is no name server. All containers of a network see the same file as their /etc/hosts, mounted there read-only; the
host side of each writes its line when it starts and blanks it at the end. It is the file itself that is mounted, not a
copy, so everybody sees the change at once. It is read without a lock while we write; so no line ever moves: all have
the same length, and one that is free again is a comment until somebody needs it.
"""

from __future__ import annotations

import os

from minidocker.network.netlink import parse_address
from minidocker.outcome import ContainerError
from minidocker.volumes import Bind

LENGTH = 128  # bytes of a line
FREE = "#"
LOCALHOST = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
RESOLV_CONF = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"  # systemd's own, where the first names its stub


def checked(names: list[str]) -> list[str]:
    """The names, if each can stand in a hosts file, hosts(5)."""
    for name in names:
        if not name.isascii() or not name or not all(letter.isalnum() or letter in "-_." for letter in name):
            raise ContainerError(f"Network: {name!r} cannot be the name of a host: use letters, digits, - and .")
    if sum(len(name) + 1 for name in names) > LENGTH - 41:
        raise ContainerError(f"Network: too many names, or too long: {' '.join(names)}")
    return names


def extra_host(text: str) -> str:
    """A line of the hosts file from NAME:ADDRESS, as after docker run --add-host."""
    name, _, address = text.partition(":")
    try:
        parse_address(address.strip("[]"))
    except OSError:
        raise ContainerError(f"Network: {text!r}: write NAME:ADDRESS, such as db:192.0.2.7") from None
    return f"{address.strip('[]')} {checked([name])[0]}"


def _padded(line: str) -> bytes:
    return f"{line:<{LENGTH - 1}}\n".encode()


def make_hosts(path: str) -> None:
    """A hosts file with nothing but the machine itself."""
    with open(path, "wb") as file:
        file.writelines(map(_padded, LOCALHOST))
        os.fchmod(file.fileno(), 0o644)


def copy_hosts(path: str, copy: str, extra: list[str]) -> None:
    """A container that has lines of its own sees a file of its own, which changes together with the others'."""
    with open(path, "rb") as source, open(copy, "wb") as file:
        file.write(source.read())
        file.writelines(map(_padded, extra))
        os.fchmod(file.fileno(), 0o644)


def add_lines(path: str, lines: list[str]) -> None:
    """Put each into a free line, or at the end. Host side; two must not do it at the same time."""
    with open(path, "r+b", buffering=0) as file:
        found = _lines(file.read())
        free = [number for number, line in enumerate(found) if line == FREE]
        for number, line in zip([*free, *range(len(found), len(found) + len(lines))], lines, strict=False):
            os.pwrite(file.fileno(), _padded(line), number * LENGTH)


def remove_lines(path: str, addresses: set[str]) -> None:
    """Make the lines of these addresses free."""
    with open(path, "r+b", buffering=0) as file:
        for number, line in enumerate(_lines(file.read())):
            if line.partition(" ")[0] in addresses:
                os.pwrite(file.fileno(), _padded(FREE), number * LENGTH)


def _lines(data: bytes) -> list[str]:
    """The lines of a file whose lines have all the same length."""
    return [data[place : place + LENGTH].decode().strip() for place in range(0, len(data), LENGTH)]


def resolv_conf(servers: list[str]) -> str:
    """What a container asks for names of the world: these servers, or the host's, resolv.conf(5).

    A server on the host's loopback interface is of no use to a container, which has another one.
    """
    for server in servers:
        try:
            parse_address(server)
        except OSError:
            raise ContainerError(f"Network: name server {server!r} is no address") from None
    if servers:
        return "".join(f"nameserver {server}\n" for server in servers)
    lines = [line for path in RESOLV_CONF if os.path.exists(path) for line in _useful(path)]
    return "".join(lines) or "# the host's name servers listen on its loopback interface only: name one with dns\n"


def _useful(path: str) -> list[str]:
    """The lines of the host's file that mean something in a container; none of them without a name server."""
    with open(path) as file:
        lines = [line for line in file if not line.startswith(("nameserver 127.", "nameserver ::1", "#"))]
    return lines if any(line.startswith("nameserver") for line in lines) else []


def show(root: str, source: str, target: str) -> None:
    """Let the container see the host's file `source` as its `target`, read-only. Run inside, before the root changes.

    The image may have a link there, perhaps a hostile one: chapter 6 follows it below the root, and never out of it.
    Some have one that leads to nothing, into the /run of a running system: then what it leads to is made.
    """
    try:
        Bind(source, target, root, readonly=True).inside()
    except FileNotFoundError:
        leads_to = os.path.join(os.path.dirname(target), os.readlink(root + target))
        Bind(source, leads_to, root, readonly=True).inside()

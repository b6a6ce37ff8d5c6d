"""Chapter 7: published ports. How they are written, and how a port of the host is kept for a container.

    parse_port("8080:80")                               # any address of the host, TCP
    parse_port("127.0.0.1:8080-8081:80-81/udp")         # this host only, two ports, UDP
    parse_port("80")                                    # whichever port of the host is free: an ephemeral one

The firewall will send what comes for the port to the container, before it could reach a program of the host. So the
host side opens the port itself, too: nobody else gets it meanwhile, and one that somebody has is refused at once.
"""

from __future__ import annotations

import _socket as socket
import errno
import os

from minidocker.network.netlink import parse_address
from minidocker.outcome import ContainerError

PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
ATTEMPTS = 100  # to find an ephemeral port that is free in IPv4 and IPv6


class Port:
    """One published port: on `address` of the host ("": on all), any free one of `choices`, to `container`.

    `number` is the one that it got, 0 before. The choice range(1), that is 0, leaves it to the kernel.
    """

    def __init__(self, address: str, choices: range, container: int, protocol: str) -> None:
        self.address, self.choices, self.container, self.protocol = address, choices, container, protocol
        self.number = 0

    def __repr__(self) -> str:
        where = f"[{self.address}]" if ":" in self.address else self.address or "*"
        first, last = self.choices[0], self.choices[-1]
        asked = "?" if not first else f"{first}" if first == last else f"{first}-{last}"
        return f"{where}:{self.number or asked} -> {self.container}/{self.protocol}"

    def local(self) -> bool:
        """Whether it is published to this host only."""
        return self.address.startswith("127.")

    def addresses(self) -> list[str]:
        """Where it is opened: on the address, or on every one of each family that this machine has."""
        if self.address:
            return [self.address]
        return ["0.0.0.0", "::"] if has_ipv6() else ["0.0.0.0"]


def has_ipv6() -> bool:
    """Whether IPv6 is in this kernel, and switched on in this network namespace."""
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as file:
            return file.read().strip() == "0"
    except FileNotFoundError:
        return False


def parse_port(text: str) -> list[Port]:
    """The ports of a text [ADDRESS:][HOST:]CONTAINER[/PROTOCOL], as after docker run -p.

    HOST and CONTAINER are numbers or ranges of the same length; a range for one port means any that is free. For a text
    that is none: `ContainerError`.
    """
    rest, _, protocol = text.partition("/")
    if protocol not in ("", *PROTOCOLS) or text.endswith("/"):
        raise _bad(text, f"the protocol is tcp or udp, not {protocol!r}")
    rest, _, last = rest.rpartition(":")
    address, colon, first = rest.rpartition(":")
    if colon:
        address = _host_address(text, address)
    inner = _range(text, last)
    outer = _range(text, first) if first else None
    if outer is not None and len(outer) != len(inner) and len(inner) > 1:
        raise _bad(text, f"{len(outer)} ports of the host for {len(inner)} of the container")
    if outer is not None and len(inner) == 1:
        return [Port(address, outer, inner[0], protocol or "tcp")]
    return [
        Port(address, range(outer[place], outer[place] + 1) if outer else range(1), number, protocol or "tcp")
        for place, number in enumerate(inner)
    ]


def _bad(text: str, why: str) -> ContainerError:
    return ContainerError(f"Network: port {text!r}: {why}; write [ADDRESS:][HOST:]CONTAINER[/udp]")


def _host_address(text: str, address: str) -> str:
    """An address without the brackets that IPv6 wants; "" for those that mean all of the host."""
    plain = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        if ":" in plain and plain == address:
            raise OSError
        parse_address(plain)
    except OSError:
        raise _bad(text, f"{address!r} is no address of the form 192.0.2.1 or [2001:db8::1]") from None
    if plain == "::1":
        raise _bad(text, "the kernel lets nothing that begins at ::1 leave the machine; use 127.0.0.1")
    return plain


def _range(text: str, part: str) -> range:
    """The ports in "80" or "8000-8010"."""
    low, dash, high = part.partition("-")
    high = high if dash else low
    if not (low.isascii() and low.isdecimal() and high.isascii() and high.isdecimal()):
        raise _bad(text, f"{part!r} is no port")
    if not 1 <= int(low) <= 65535 or not 1 <= int(high) <= 65535:
        raise _bad(text, f"{part} is not from 1 to 65535")
    if int(high) < int(low):
        raise _bad(text, f"the range {part} ends before it begins")
    return range(int(low), int(high) + 1)


def reserve(port: Port) -> list[int]:
    """Open one of the port's choices, note it as its number, and return the descriptors that hold it.

    Host side; ports below 1024 want CAP_NET_BIND_SERVICE. The descriptors die with their owner, and so does the claim.
    """
    choices = port.choices if port.choices.start else [0] * ATTEMPTS
    for number in choices:
        try:
            return _open_all(port, number)
        except OSError as refused:
            if refused.errno != errno.EADDRINUSE:
                raise _refused(port, refused.errno, str(refused.strerror).lower()) from None
    raise _refused(port, errno.EADDRINUSE, "taken, by a program (ss -lnp tells) or by another container")


def _refused(port: Port, code: int | None, why: str) -> ContainerError:
    return ContainerError(f"Network: port {port}: {why}", isolator="Network", syscall="bind", errno=code)


def _open_all(port: Port, number: int) -> list[int]:
    """The same number on each address of the port, or on none of them."""
    held: list[int] = []
    try:
        for address in port.addresses():
            descriptor, number = _open(address, number, PROTOCOLS[port.protocol])
            held.append(descriptor)
    except OSError:
        for descriptor in held:
            os.close(descriptor)
        raise
    port.number = number
    return held


def _open(address: str, number: int, kind: int) -> tuple[int, int]:
    """A socket that holds that port, and the number of the port, which the kernel chooses if it is 0.

    A server that ended a moment ago leaves connections in TIME_WAIT; SO_REUSEADDR ignores them, but lets others in
    beside us, too, until we listen. Then we stop to listen, and nobody who comes past the firewall is kept waiting.
    """
    family, _ = parse_address(address)
    holder = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        stream = kind == socket.SOCK_STREAM
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(stream))
        holder.bind((address, number))
        if stream:
            holder.listen(1)
            holder.shutdown(socket.SHUT_RDWR)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        number = holder.getsockname()[1]
        return holder.detach(), number
    finally:
        holder.close()

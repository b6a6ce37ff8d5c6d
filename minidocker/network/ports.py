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

from minidocker.cgroups.hierarchy import read
from minidocker.network.links import family_of, tool
from minidocker.outcome import ContainerError

PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
ANY = range(1)  # the choice 0, which leaves it to the kernel
IP_FORWARD, FORWARDING = "ipv4/ip_forward", "ipv4/conf/{}/forwarding"


class Port:
    """One published port: on `address` of the host ("": on all), any free one of `choices`, to `container`; `number` is
    the one that it got, 0 before.
    """

    def __init__(self, address: str, choices: range, container: int, protocol: str) -> None:
        self.address, self.choices, self.container, self.protocol = address, choices, container, protocol
        self.number = 0

    def __repr__(self) -> str:
        where = f"[{self.address}]" if ":" in self.address else self.address or "*"
        ends = sorted({self.choices[0], self.choices[-1]})
        asked = "?" if self.choices == ANY else "-".join(map(str, ends))
        return f"{where}:{self.number or asked} -> {self.container}/{self.protocol}"

    def addresses(self) -> list[str]:
        """Where it is opened: on the address, or on every one of each family that this machine has."""
        return [self.address] if self.address else ["0.0.0.0", "::"] if has_ipv6() else ["0.0.0.0"]


def has_ipv6() -> bool:
    """Whether IPv6 is in this kernel, and switched on in this network namespace."""
    return sysctl("ipv6/conf/all/disable_ipv6") == "0"


def sysctl(name: str, value: str = "") -> str:
    """A switch of this network namespace, ip-sysctl.rst, "" if there is none; with a `value`, make it so."""
    path = f"/proc/sys/net/{name}"
    found = read(path).strip()
    if value and found not in ("", value):
        with open(path, "w") as file:
            file.write(value)
    return found


def parse_port(text: str) -> list[Port]:
    """The ports of a text [ADDRESS:][HOST:]CONTAINER[/PROTOCOL], as after docker run -p.
    HOST and CONTAINER are numbers or ranges of the same length; a range for one port means any that is free, and 0 any
    at all.
    """
    try:
        rest, slash, protocol = text.partition("/")
        if slash and protocol not in PROTOCOLS:
            raise ValueError(f"the protocol is tcp or udp, not {protocol!r}")
        rest, _, last = rest.rpartition(":")
        address, colon, first = rest.rpartition(":")
        address = _host_address(address) if colon else ""
        inner, outer = _range(last), _range(first, least=0) if first else ANY
        pairs = [(outer, number) for number in inner]
        if len(inner) > 1 and outer != ANY:
            if len(outer) != len(inner):
                raise ValueError(f"{len(outer)} ports of the host for {len(inner)} of the container")
            pairs = [(range(one, one + 1), number) for one, number in zip(outer, inner, strict=True)]
    except ValueError as why:
        usage = "write [ADDRESS:][HOST:]CONTAINER[/udp]"
        raise ContainerError(f"Network: port {text!r}: {why}; {usage}") from None
    return [Port(address, choices, number, protocol or "tcp") for choices, number in pairs]


def _host_address(address: str) -> str:
    plain = address.removeprefix("[").removesuffix("]")
    try:
        if (":" in plain) != (address == f"[{plain}]"):
            raise OSError
        family_of(plain)
    except OSError:
        raise ValueError(f"{address!r} is no address of the form 192.0.2.1 or [2001:db8::1]") from None
    return plain


def _range(part: str, least: int = 1) -> range:
    low, dash, high = part.partition("-")
    if not all(word.isascii() and word.isdecimal() for word in (low, high if dash else low)):
        raise ValueError(f"{part!r} is no port")
    first, last = int(low), int(high or low)
    if not (1 if dash else least) <= first <= 65535 or last > 65535:
        raise ValueError(f"{part} is not from 1 to 65535")
    if last < first:
        raise ValueError(f"the range {part} ends before it begins")
    return range(first, last + 1)


def reserve(port: Port) -> int:
    """Open one of the port's choices, note it as its number, and return the descriptor that holds it, until that or its
    owner ends. Ports below 1024 want CAP_NET_BIND_SERVICE. IPv6 has one switch for all interfaces, and a host that
    forwards does not hear its own router any more: that is for its owner.
    """
    if ":" in port.address and port.address != "::1" and sysctl("ipv6/conf/all/forwarding") == "0":
        remedy = "sysctl -w net.ipv6.conf.all.forwarding=1, or publish it on [::1]"
        raise ContainerError(f"Network: port {port}: nobody reaches it, as this host does not forward IPv6: {remedy}")
    port.number = 0
    for number in port.choices:
        try:
            return _open(port, number)
        except OSError as refused:
            code, why = refused.errno, str(refused.strerror).lower()
            if code != errno.EADDRINUSE:
                break
            why = "taken, by a program (ss -lnp tells) or by another container"
    raise ContainerError(f"Network: port {port}: {why}", isolator="Network", syscall="bind", errno=code)


def _open(port: Port, number: int) -> int:
    """A socket that holds it at this number; for 0 the kernel chooses one that nobody has.

    A server that ended a moment ago leaves connections in TIME_WAIT; SO_REUSEADDR ignores them, but lets others in
    beside us, too, until we listen. Then we stop to listen, and nobody who comes past the firewall is kept waiting.
    """
    address, listens = port.addresses()[-1], port.protocol == "tcp" and number > 0
    family = family_of(address)
    holder = socket.socket(family, PROTOCOLS[port.protocol] | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:  # all of its addresses are those of IPv4, too, unless it was asked for
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(port.address))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, listens)
        holder.bind((address, number))
        if listens:
            holder.listen(1)
            holder.shutdown(socket.SHUT_RDWR)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        port.number = holder.getsockname()[1]
        return holder.detach()
    finally:
        holder.close()


def forward(bridge: str, uplinks: set[str]) -> list[str]:
    """Let packets pass between these, and answers for 127.0.0.1 come back; what else that allows, the firewall forbids.
    Returns warnings."""
    try:
        sysctl(f"ipv4/conf/{bridge}/route_localnet", "1")
        for name in (bridge, *uplinks):
            sysctl(FORWARDING.format(name), "1")
    except OSError as refused:
        why = f"{refused.filename}: {str(refused.strerror).lower()}; sysctl -w net.ipv4.ip_forward=1"
        return [f"containers reach nobody outside, as this host does not forward, {why}"]
    return [f"{name} forwards what is for containers, until the last network is gone" for name in sorted(uplinks)]


def forget_udp(ports: list[Port]) -> list[str]:
    """Let connection tracking forget who sent to these ports by UDP; return a warning where conntrack(8) is missing.
    The kernel asks the rules about the first packet of a connection only. UDP has none: a client that goes on sending
    from the same port is one, to the kernel, and would be led to a container that is gone, for ever.
    """
    for number in {port.number for port in ports if port.protocol == "udp"}:
        for family in ("ipv4", "ipv6"):
            try:
                tool("conntrack", "-D", "-f", family, "-p", "udp", "--orig-port-dst", f"{number}")
            except ContainerError as refused:
                if refused.syscall != "conntrack":  # it is not there; else it only says that there was nothing
                    return [f"{refused}: clients that go on sending by UDP may not find this container"]
    return []

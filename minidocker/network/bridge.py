"""Chapter 7: one network: a bridge with addresses, a file of names, and a part in the firewall.

    web = Bridge("web")
    web.exists() or web.make()          # the files, the bridge, the rules; or nothing, and an error

A network is a directory, with its settings and its leases, and what the kernel has of it. After a reboot there is only
the directory: then the rest is made again. All of this is the host side, as root, and wants the `Lock`.
"""

from __future__ import annotations

import os
import sys

from minidocker import state
from minidocker.network import firewall, forwarding, names
from minidocker.network.netlink import Netlink, address, bridge, exists, thread_file, up
from minidocker.network.pool import Lease, Lock, Pool, Subnet, address6_of, dotted, interface_of, mac_of
from minidocker.network.ports import has_ipv6
from minidocker.outcome import ContainerError

CANDIDATES = [f"10.77.{third}.0/22" for third in range(0, 256, 4)]  # a bridge has at most 1024 ports, and so has a /22
VIEWS = "/etc/hosts", "/etc/resolv.conf"
NAME_LENGTH = 12  # an interface's name has 15 letters, and ours begins with md-


class Bridge:
    """A network: its `name`, the `interface` that is its bridge, `subnet`, `prefix6` ("" without IPv6), `kept`."""

    def __init__(self, name: str) -> None:
        if name in ("none", "host") or not 1 <= len(names.checked([name])[0]) <= NAME_LENGTH or name[0] in ".-":
            raise ContainerError(f"Network: a network cannot be called {name!r}: 1 to {NAME_LENGTH} letters and digits")
        self.name, self.interface, self.directory = name, f"md-{name}", os.path.join(Lock.place, name)
        self.kept, self.prefix6 = False, ""
        if os.path.exists(self.settings):
            with open(self.settings) as file:
                text, self.prefix6, kept = file.read().split("\n")
            self.subnet, self.kept = Subnet(text), bool(kept)
            self.pool = Pool(self.directory, self.subnet)

    @property
    def settings(self) -> str:
        """The file that says that the network exists."""
        return os.path.join(self.directory, "settings")

    @property
    def hosts(self) -> str:
        """The file that the containers see as their /etc/hosts."""
        return os.path.join(self.directory, "hosts")

    def exists(self) -> bool:
        """Whether it is there: with its settings on the disk, and with its bridge in the kernel."""
        return os.path.exists(self.settings) and exists(self.interface)

    def make(self, subnet: Subnet | None = None, kept: bool = False) -> None:
        """Make what is missing of it. If that fails half-way, what was made is removed."""
        if not os.path.exists(self.settings):
            self.subnet = subnet or _free_subnet()
            self.prefix6 = _random_prefix6() if has_ipv6() else ""
            self.kept = kept
            self.pool = Pool(self.directory, self.subnet)
        firewall.program()
        if exists(self.interface):
            raise ContainerError(f"Network: there is an interface {self.interface} that is not ours: ip link del it")
        try:
            self._make_files()
            self._make_bridge()
            self.write_rules()
        except BaseException:
            self.remove()
            raise

    def _make_files(self) -> None:
        """The settings come last: with them the network exists."""
        os.makedirs(self.pool.directory, mode=0o700, exist_ok=True)
        names.make_hosts(self.hosts)
        with open(self.settings + ".new", "w") as file:
            file.write(f"{self.subnet}\n{self.prefix6}\n{'kept' if self.kept else ''}")
        os.rename(self.settings + ".new", self.settings)

    def _make_bridge(self) -> None:
        """The bridge, with the first address of each family for this host itself.

        Two sysctls, of this interface only: route_localnet lets an answer for 127.0.0.1 come back through it (what a
        container could do with that, the firewall forbids); without accept_dad its own IPv6 addresses work at once,
        since nobody else can have them.
        """
        with Netlink() as kernel:
            kernel.do(bridge(self.interface, mac_of(self.subnet.begin + 1)))
            _switch(f"ipv4/conf/{self.interface}/route_localnet", "1")
            if self.prefix6:
                _switch(f"ipv6/conf/{self.interface}/accept_dad", "0")
            addresses = zip(self.gateways(), self.prefixes(), strict=True)
            kernel.do(up(self.interface), *(address(self.interface, text, prefix) for text, prefix in addresses))

    def write_rules(self) -> None:
        """Its part in the firewall. Where others drop what they do not know, let our bridges pass, and note it."""
        firewall.install()
        firewall.add(firewall.network_items(self.interface, self.subnet, self.prefix6))
        doors = forwarding.open_doors()
        if doors:
            with open(os.path.join(Lock.place, "doors"), "w") as file:
                file.write("\n".join(doors))

    def remove(self) -> None:
        """The bridge, its part in the firewall, its directory; with the last network everything that is ours."""
        with Netlink() as kernel:
            kernel.remove(self.interface)
        state.remove_tree(self.directory)
        others = [name for name in network_names() if name != self.name]
        if others:
            firewall.remove(firewall.network_items(self.interface, self.subnet, self.prefix6))
        else:
            if os.path.exists(os.path.join(Lock.place, "doors")):
                forwarding.close_doors()
                os.unlink(os.path.join(Lock.place, "doors"))
            firewall.uninstall()

    def addresses(self, number: int) -> list[str]:
        """Those of a container: IPv4, and IPv6 where there is any. The same order in the two methods below."""
        return [dotted(number)] + ([address6_of(self.prefix6, number)] if self.prefix6 else [])

    def traces(self, number: int) -> list[str]:
        """What the firewall knows a container by."""
        return [*self.addresses(number), interface_of(number)]

    def prefixes(self) -> list[int]:
        """How many bits of an address are the network's."""
        return [self.subnet.prefix, 64][: 2 if self.prefix6 else 1]

    def gateways(self) -> list[str]:
        """The bridge's own addresses."""
        return self.addresses(self.subnet.begin + 1)

    def introduce(self, address: str, lines: list[str], extra: list[str], dns: list[str]) -> dict[str, str]:
        """Tell everybody a new container's names; return what it shall see: {its path: the host's file}."""
        own = os.path.join(self.directory, f"resolv-{address}")
        with open(own, "w") as file:
            file.write(names.resolv_conf(dns))
            os.fchmod(file.fileno(), 0o644)
        if extra:
            names.copy_hosts(self.hosts, os.path.join(self.directory, f"hosts-{address}"), extra)
        for path in self._hosts_files():
            names.add_lines(path, lines)
        return self.views(address)

    def views(self, address: str) -> dict[str, str]:
        """The files that a container sees; it has a hosts file of its own if it asked for lines of its own."""
        own = os.path.join(self.directory, f"hosts-{address}")
        hosts = own if os.path.exists(own) else self.hosts
        return dict(zip(VIEWS, (hosts, os.path.join(self.directory, f"resolv-{address}")), strict=True))

    def _hosts_files(self) -> list[str]:
        return [os.path.join(self.directory, name) for name in os.listdir(self.directory) if name.startswith("hosts")]

    def release(self, lease: Lease | None) -> None:
        """A container has ended: its names and its address are free, and with the last one the network goes."""
        if lease:
            for own in ("hosts", "resolv"):
                _unlink(os.path.join(self.directory, f"{own}-{lease.address}"))
            for path in self._hosts_files():
                names.remove_lines(path, {*self.addresses(lease.number)})
            lease.give_back()
        if not self.kept and not self.pool.living():
            self.remove()


def _switch(name: str, value: str) -> None:
    """Set a sysctl of the network: a file of /proc, which shows each thread its own network namespace."""
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _random_prefix6() -> str:
    """48 bits that nobody else has, most likely: RFC 4193, for networks that are not of the Internet."""
    number = int.from_bytes(os.urandom(5), "big")
    return f"fd{number >> 32:02x}:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF | 1:x}"  # 0 would be written as nothing


def _free_subnet() -> Subnet:
    """The first of our candidates in which this host has no route and no other network is."""
    for subnet in map(Subnet, CANDIDATES):
        if not any(subnet.overlaps(*other) for other in taken()):
            return subnet
    raise ContainerError("Network: no subnet is free; give one: network create --subnet")


def taken() -> list[tuple[int, int]]:
    """The first and the last number of each network that we have, and of each that this host has a route to.

    /proc/net/route has them in hexadecimal, in the machine's byte order.
    """
    found = [(subnet.begin, subnet.end) for subnet in (Bridge(name).subnet for name in network_names())]
    with open(thread_file("net/route")) as file:
        for line in [*file][1:]:
            _, target, _, _, _, _, _, mask, *_ = line.split()
            begin, bits = (int.from_bytes(int(word, 16).to_bytes(4, sys.byteorder), "big") for word in (target, mask))
            if bits:
                found.append((begin, begin | ~bits & 0xFFFFFFFF))
    return found


def network_names() -> list[str]:
    """The networks of this host."""
    return [
        name for name in sorted(os.listdir(Lock.place)) if os.path.exists(os.path.join(Lock.place, name, "settings"))
    ]

"""Chapter 7: a network for a container, and a way in from outside. The isolator `Network`.

    web = Network(ports=["8080:80"], root=root)
    run(["httpd", "-f"], Namespaces("pid mount uts ipc"), web, PivotRoot(root))       # http://localhost:8080/

A container in a network namespace of its own reaches nobody. `Network` lays a cable (a pair of interfaces, veth) from
there to a switch (a bridge) of the host, gives both ends addresses, and tells the firewall which ports to lead in.
"""

from __future__ import annotations

import os

from minidocker.namespaces import Join
from minidocker.network import firewall, links, names, networks, ports
from minidocker.network.leases import Lease, Lock
from minidocker.network.networks import DEFAULT, Bridge, create, inspect, listed, prune, remove
from minidocker.network.ports import Port, parse_port
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.syscalls import CLONE_NEWNET, CLONE_NEWNS

__all__ = ["Bridge", "Network", "Port", "create", "inspect", "listed", "parse_port", "prune", "remove"]

VIEWS = "/etc/hosts", "/etc/resolv.conf"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Network(Isolator):
    """Put the container into a `network`: the name of one ("bridge", the default one, is made when it is needed), or
    "none", "host" (the host's own), "container:NAME_OR_PID" (that of another container).

    `ports`: published ports, as after docker run -p; then `published` has them with their numbers. `root`: the
    directory that will be the root, so that /etc/hosts and /etc/resolv.conf there can be covered with ours. `address`:
    a wish. `aliases`: more names in the network, besides the container's. `dns`: name servers instead of the host's.
    `hosts`: lines NAME:ADDRESS for this container only. `egress`, `ingress`: bits per second that it may send and
    receive, such as "10M". Host side as root; what does not work here is a `ContainerError`, before the command starts.
    `warnings` says what works less well on this host. In the list before `PivotRoot`, and after the mounts of the root.
    """

    def __init__(
        self,
        network: str = DEFAULT,
        *,
        ports: Sequence[str] = (),
        root: str | os.PathLike[str] | None = None,
        address: str | None = None,
        aliases: Sequence[str] = (),
        dns: Sequence[str] = (),
        hosts: Sequence[str] = (),
        egress: str | int | None = None,
        ingress: str | int | None = None,
    ) -> None:
        self.network, self.wanted = network, address
        self.root = os.path.abspath(root) if root is not None else None
        self.published = [port for text in ports for port in parse_port(text)]
        self.aliases, self.dns = names.checked([*aliases]), [*dns]
        self.extra = [names.extra_host(text) for text in hosts]
        self.egress = links.parse_rate(egress) if egress is not None else 0
        self.ingress = links.parse_rate(ingress) if ingress is not None else 0
        self.warnings: list[str] = []
        self.bridge: Bridge | None = None
        self.lease: Lease | None = None
        self.join: Join | None = None
        self._held: list[int] = []  # descriptors of the host's ports
        self._nft: firewall.Pending | None = None  # while it runs
        self.addresses: list[str] = []  # the container's: IPv4, and IPv6 where there is any
        self.files: dict[str, str] = {}  # what it sees -> the host's file
        self.clone_flags = (CLONE_NEWNS if root is not None else 0) | (0 if self._shared() else CLONE_NEWNET)
        if self._plain() and (self.published or self.egress or self.ingress or address or aliases):
            raise ContainerError(f"Network: {network}: ports, addresses, names and limits need a network of our own")

    def _shared(self) -> bool:
        """Whether the network namespace is somebody else's."""
        return self.network == "host" or self.network.startswith("container:")

    def _plain(self) -> bool:
        """Whether there is no bridge."""
        return self._shared() or self.network == "none"

    def __enter__(self) -> Isolator:
        """Everything that can be refused comes first: ports, then an address, names, and the firewall."""
        if self.bridge or self.join:
            raise ContainerError("Network: it serves a container already: make one for each")
        try:
            if self.network.startswith("container:"):
                pid, self.files = networks.find(self.network.partition(":")[2])
                self.join = Join(pid, "net")
                self.join.__enter__()
                self.descriptors = self.join.descriptors
            elif self.network == "host" and self.root:
                self.files = {path: path for path in VIEWS if os.path.exists(path)}
            elif not self._plain():
                self._plug_in()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _plug_in(self) -> None:
        """Take what the container gets: ports of the host, an address, lines in the hosts file, elements."""
        links.program("nft")
        called, servers = names.checked([self.container, *self.aliases]), names.resolv_conf(self.dns)
        self.warnings = ports.checked(self.published)
        for port in self.published:
            self._held += ports.reserve(port)
        with Lock() as lock:
            found = networks.survey()
            self.bridge = networks.opened(self.network, found)
            self.lease = lease = self.bridge.take(self.wanted)
            self.addresses, gateway = self.bridge.addresses(lease.number), self.bridge.gateways()[0]
            lease.names, lease.extra = called, [text.replace("host-gateway", gateway, 1) for text in self.extra]
            lease.items = self._items(lease.number)
            lease.note((lease.names, lease.extra, lease.items))
            self.files = self.bridge.views(lease)
            names.write(self.files[VIEWS[1]], servers)
            self.bridge.introduce(lease)
            items = [item for network in found for item in network.subnets()] + self.bridge.known(lease)
            self._nft = firewall.begin(items, networks.rules(), lock.descriptor)

    def _items(self, number: int) -> list[str]:
        """What the firewall is to know of this container besides: its published ports and its limit."""
        return [
            firewall.published(host, port.protocol, port.number, guest, port.container)
            for port in self.published
            for host in port.addresses()
            for guest in self.addresses
            if (":" in host) == (":" in guest)
        ] + (firewall.policed(links.interface_of(number), self.egress) if self.egress else [])

    def attach(self, pid: int) -> None:
        """Lay the cable, while nft runs; the container's end is switched on when the firewall is as it should be."""
        if self.network == "none":
            links.tool("ip", "link", "set", "lo", "up", pid=pid)
        if not self.lease or not self.bridge or not self._nft:
            return
        name = links.interface_of(self.lease.number)
        if links.exists(name):  # of a namespace that is about to end: it is nobody's
            try:
                links.tool("ip", "link", "del", name)
            except ContainerError:
                pass  # and now it has ended
        links.tool("ip", "-batch", "-", text=links.cable(self.lease.number, self.bridge.interface, pid))
        pending, self._nft = self._nft, None
        self.warnings += networks.settled(pending) + ports.forget_udp(self.published)
        card = links.card(self.bridge.addresses(self.lease.number, prefix=True), self.bridge.gateways())
        links.tool("ip", "-batch", "-", text=card, pid=pid)
        if self.ingress:
            links.tool("tc", *links.limit(name, self.ingress))
        if self.egress:
            links.tool("tc", *links.limit(links.CARD, self.egress), pid=pid)
        self.lease.note(pid)

    def inside(self) -> None:
        """Enter another's network, and cover the two files."""
        if self.join:
            self.join.inside()
        if self.files and self.root:
            for target, source in self.files.items():
                names.show(self.root, source, target)

    def __exit__(self, *_: object) -> None:
        """Let go of everything. The cable went with the container's namespace, and the lease is now a dead owner's."""
        try:
            if self.join:
                self.join.__exit__()
            if self._nft:
                firewall.settle(self._nft)
            if self.lease:
                self.lease.let_go()
            if not self._plain():
                with Lock():
                    networks.survey()
        finally:
            for descriptor in self._held:
                os.close(descriptor)
            self._held, self._nft, self.bridge, self.lease, self.join = [], None, None, None, None

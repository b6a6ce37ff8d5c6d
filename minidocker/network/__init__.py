"""Chapter 7: a network for a container, and a way in from outside. The isolator `Network`.

    web = Network(ports=["8080:80"], root=root)
    run(["httpd", "-f"], Namespaces("pid mount uts ipc"), web, PivotRoot(root))       # http://localhost:8080/

A container in a network namespace of its own reaches nobody. `Network` lays a cable (a pair of interfaces, veth) from
there to a switch (a bridge) of the host, gives both ends addresses, and tells the firewall which ports to lead in.
"""

from __future__ import annotations

import os

from minidocker.namespaces import Join
from minidocker.network import bandwidth, firewall, forwarding, names
from minidocker.network.bridge import VIEWS, Bridge
from minidocker.network.netlink import Netlink, address, default_route, hairpin, up, veth
from minidocker.network.networks import (
    DEFAULT,
    clean,
    create,
    find,
    inspect,
    listed,
    opened,
    prune,
    remove,
    restore,
)
from minidocker.network.pool import Lease, Lock, interface_of, mac_of
from minidocker.network.ports import Port, parse_port, reserve
from minidocker.network.tracking import forget_udp
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.syscalls import CLONE_NEWNET, CLONE_NEWNS

__all__ = ["Bridge", "Network", "Port", "clean", "create", "inspect", "listed", "parse_port", "prune", "remove"]

CARD = "eth0"  # the container's end

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
    receive, such as "10M". Host side as root; what does not work here is a `ContainerError`, before anything is made.
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
        self.egress = bandwidth.parse_rate(egress) if egress is not None else 0
        self.ingress = bandwidth.parse_rate(ingress) if ingress is not None else 0
        self.warnings: list[str] = []
        self.bridge: Bridge | None = None
        self.lease: Lease | None = None
        self.join: Join | None = None
        self._held: list[int] = []  # descriptors of the host's ports
        self._items: list[str] = []  # of the firewall
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
                self._find()
            elif self.network == "host" and self.root:
                self.files = {path: path for path in VIEWS if os.path.exists(path)}
            elif not self._plain():
                self._plug_in()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _find(self) -> None:
        """The container whose network namespace this one is to share, by its name or the pid of its first process."""
        pid, self.files = find(self.network.partition(":")[2])
        join = Join(pid, "net")
        join.__enter__()
        self.join, self.descriptors = join, join.descriptors

    def _plug_in(self) -> None:
        """Take what the container gets: ports of the host, an address, lines in the hosts file, elements."""
        firewall.program()
        self.warnings = forwarding.checked(self.published)
        for port in self.published:
            self._held += reserve(port)
        with Lock():
            self.bridge = opened(self.network)
            self.lease = lease = self.bridge.pool.take(self.container, self.wanted)
            self.addresses = self.bridge.addresses(lease.number)
            lines = [" ".join([text, *names.checked([self.container, *self.aliases])]) for text in self.addresses]
            self.files = self.bridge.introduce(lease.address, lines, self.extra, self.dns)
            self._publish(lease)

    def _publish(self, lease: Lease) -> None:
        """Tell the firewall of the ports. If somebody has flushed it since the network was made, it is written anew."""
        self._items = [
            firewall.published(host, port.protocol, port.number, guest, port.container)
            for port in self.published
            for host in port.addresses()
            for guest in self.addresses
            if (":" in host) == (":" in guest)
        ]
        if self.egress:
            self._items += firewall.policed(interface_of(lease.number), self.egress)
        try:
            firewall.add(self._items)
        except ContainerError as refused:
            if "No such file" not in str(refused):
                raise
            restore()
            firewall.add(self._items)
        udp = {port.number for port in self.published if port.protocol == "udp"}
        if udp:
            forget_udp(udp)

    def attach(self, pid: int) -> None:
        """Lay the cable. The interface may still be there from a namespace that is about to end: it is nobody's."""
        if not self.lease or not self.bridge:
            return
        name = interface_of(self.lease.number)
        cable = veth(name, self.bridge.interface, CARD, mac_of(self.lease.number), pid), hairpin(name)
        with Netlink() as kernel:
            try:
                kernel.do(*cable)
            except FileExistsError:
                kernel.remove(name)
                kernel.do(*cable)
            if self.ingress:
                kernel.do(bandwidth.limit(name, self.ingress))
        self.lease.write(self.container, pid)

    def inside(self) -> None:
        """Switch the interfaces on, with addresses and a way out, and cover the two files."""
        if self.join:
            self.join.inside()
        if not self._shared():
            with Netlink() as kernel:
                kernel.do(up("lo"))
                if self.bridge:
                    self._configure(kernel, self.bridge)
        if self.files and self.root:
            for target, source in self.files.items():
                names.show(self.root, source, target)

    def _configure(self, kernel: Netlink, bridge: Bridge) -> None:
        """The container's end of the cable: for each family an address, and the bridge as the way to everybody else."""
        own = zip(self.addresses, bridge.prefixes(), strict=True)
        routes = [default_route(gateway, CARD) for gateway in bridge.gateways()]
        limits = [bandwidth.limit(CARD, self.egress)] if self.egress else []
        kernel.do(*(address(CARD, text, prefix) for text, prefix in own), up(CARD), *routes, *limits)

    def __exit__(self, *_: object) -> None:
        """Give everything back. The cable went with the container's namespace."""
        try:
            if self.join:
                self.join.__exit__()
            if self.bridge:
                with Lock():
                    try:
                        firewall.remove(self._items)
                    finally:
                        self.bridge.release(self.lease)
        finally:
            for descriptor in self._held:
                os.close(descriptor)
            self._held, self._items, self.bridge, self.lease, self.join = [], [], None, None, None

"""Chapter 7: a network for a container, and a way in from outside. The isolator `Network`.

    web = Network(ports=["8080:80"], root=root)
    run(["httpd", "-f"], Namespaces("pid mount uts ipc"), web, PivotRoot(root))       # http://localhost:8080/

A container in a network namespace of its own reaches nobody. `Network` lays a cable (a pair of interfaces, veth) from
there to a switch (a bridge) of the host, gives both ends addresses, and tells the firewall which ports to lead in.
"""

from __future__ import annotations

import os
from _collections_abc import Sequence

from minidocker.cgroups.hierarchy import read
from minidocker.namespaces import Join
from minidocker.network import links, networks, ports
from minidocker.network.firewall import element
from minidocker.network.networks import DEFAULT, Bridge, create, inspect, listed, prune, remove
from minidocker.network.ports import Port, parse_port
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.syscalls import CLONE_NEWNET, CLONE_NEWNS
from minidocker.volumes import Bind

__all__ = ["Bridge", "Network", "Port", "create", "inspect", "listed", "parse_port", "prune", "remove"]

VIEWS = "/etc/hosts", "/etc/resolv.conf"
RESOLV_CONF = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"  # systemd's own, where the first names its stub


class Network(Isolator):
    """Put the container into a `network`: the name of one ("bridge", the default one, is made when it is needed), or
    "none", "host" (the host's own), "container:NAME_OR_PID" (that of another container).

    `ports`: published ports, as after docker run -p; then `published` has them with their numbers. `root`: the
    directory that will be the root, so that /etc/hosts and /etc/resolv.conf there can be covered with ours. `names`,
    `aliases`: more names in the network, before and behind the container's. `dns`: name servers instead of the host's.
    `hosts`: lines NAME:ADDRESS for this container only. `egress`, `ingress`: bits per second that it may send and
    receive, such as "10M". Host side as root; what does not work here is a `ContainerError`, before the command starts.
    `warnings`: what works less well here. In the list before `PivotRoot`, and after the mounts of the root.
    """

    def __init__(
        self,
        network: str = DEFAULT,
        *,
        ports: Sequence[str] = (),
        root: str | os.PathLike[str] | None = None,
        names: Sequence[str] = (),
        aliases: Sequence[str] = (),
        dns: Sequence[str] = (),
        hosts: Sequence[str] = (),
        egress: str | int | None = None,
        ingress: str | int | None = None,
    ) -> None:
        self.network, self.root = network, os.path.abspath(root) if root is not None else ""
        self.published = [port for text in ports for port in parse_port(text)]
        self.names, self.aliases, self.dns = [*names], networks.checked([*aliases]), [*dns]
        self.extra = "".join(extra_host(text) for text in hosts)
        self.egress, self.ingress = (links.parse_rate(rate) if rate is not None else 0 for rate in (egress, ingress))
        self.warnings, self.addresses = list[str](), list[str]()
        self.files: dict[str, str] = {}  # what it sees -> the host's file
        self.bridge: Bridge | None = None
        self.join: Join | None = None
        self.number, self.interface, self.lease = 0, "", ""  # its IPv4 address, its port of the bridge, its directory
        self._held: list[int] = []  # descriptors: of its lease, and of the host's ports
        shared = network == "host" or network.startswith("container:")
        self.clone_flags = (CLONE_NEWNS if self.root else 0) | (0 if shared else CLONE_NEWNET)
        self._bridged = not shared and network != "none"
        if not self._bridged and (self.published or self.egress or self.ingress or aliases):
            raise ContainerError(f"Network: {network}: ports, names and limits need a network of our own")

    def __enter__(self) -> Isolator:
        """Everything that can be refused comes first: ports, then an address, names, and the firewall."""
        if self.bridge or self.join:
            raise ContainerError("Network: it serves a container already: make one for each")
        try:
            if self.network.startswith("container:"):
                pid, self.lease = networks.find(self.network.partition(":")[2])
                self.join = Join(pid, "net")
                self.join.__enter__()
                self.descriptors = self.join.descriptors
            elif self.network == "host":
                self.files = {path: path for path in VIEWS if os.path.exists(path)}
            elif self._bridged:
                self._plug_in()
            if self.lease:
                self.files = {path: f"{self.lease}/{os.path.basename(path)}" for path in VIEWS}
        except BaseException:
            self.__exit__()
            raise
        return self

    def _called(self) -> list[str]:
        return networks.checked([*dict.fromkeys([*self.names, self.container, *self.aliases])])

    def _plug_in(self) -> None:
        """Take what the container gets: ports of the host, an address, lines in hosts files, elements."""
        links.program("nft")
        called, servers = self._called(), resolv_conf(self.dns)
        for port in self.published:
            self._held.append(ports.reserve(port))
        with networks.Host() as host:
            if self.network == DEFAULT and DEFAULT not in host.networks:
                Bridge(host, DEFAULT).make()
            self.bridge = bridge = host.pick(self.network)
            bridge.connect()
            self.number, self.lease, lock = bridge.take()
            self._held.append(lock)
            self.interface, self.addresses = links.interface_of(self.number), bridge.addresses(self.number)
            gateways = bridge.gateways()
            elements, extra = self._elements(gateways), self.extra.replace("host-gateway\t", f"{gateways[0]}\t")
            lines = "".join(f"{address}\t{' '.join(called)}\n" for address in self.addresses)
            for name, text in ("names", lines), ("extra", extra), ("resolv.conf", servers), ("elements", elements):
                networks.write(f"{self.lease}/{name}", text)
            bridge.introduce()
            uplinks = host.uplinks()
            self.warnings = [*host.tell(elements), *ports.forward(bridge.interface, uplinks)]

    def _elements(self, gateways: list[str]) -> str:
        """What the firewall is to know of this container besides: what a packet to a published port is for, and what it
        will be for ("all addresses" is a net of all addresses); and that no more than its limit and a tenth may come.
        """
        lines = list[str]()
        for port in self.published:
            for host, guest in zip(port.addresses(), self.addresses[1 if ":" in port.address else 0 :], strict=False):
                family, net = "6" if ":" in host else "4", {"0.0.0.0": "0.0.0.0/0", "::": "::/0"}.get(host, host)
                key = f"{net} . {port.protocol} . {port.number}"
                lines.append(element(f"inet minidocker published{family}", f"{key} : {guest} . {port.container}"))
                if family == "6":
                    lines.append(element("inet minidocker loopback6", f"{key} : {gateways[1]}"))
        if self.egress:
            speed = f"rate over {self.egress * 11 // 80} bytes/second burst {max(self.egress // 40, 1 << 18)} bytes"
            lines.append(f"add limit bridge minidocker {self.interface} {{ {speed}; }}\n")
            lines.append(element("bridge minidocker egress", f'"{self.interface}" : "{self.interface}"'))
        return "".join(lines)

    def attach(self, pid: int) -> None:
        """Lay the cable. The firewall is as it should be already; the container's end is switched on last."""
        if self.network == "none":
            links.tool("ip", "link", "set", "lo", "up", pid=pid)
        if not self.bridge:
            return
        if links.exists(self.interface):  # of a namespace that is about to end: it is nobody's
            try:
                links.tool("ip", "link", "del", self.interface)
            except ContainerError:
                pass  # and now it has ended
        links.tool("ip", "-batch", "-", text=links.cable(self.number, self.bridge.interface, pid))
        self.warnings += ports.forget_udp(self.published)
        card = links.card(self.addresses, self.bridge.subnet, self.bridge.gateways())
        links.tool("ip", "-batch", "-", text=card, pid=pid)
        if self.ingress:
            links.tool("tc", *links.limit(self.interface, self.ingress))
        if self.egress:
            links.tool("tc", *links.limit(links.CARD, self.egress), pid=pid)
        networks.write(f"{self.lease}/pid", f"{pid}")

    def inside(self) -> None:
        """Enter another's network, and cover the two files."""
        if self.join:
            self.join.inside()
        for target, source in self.files.items() if self.root else ():
            try:
                Bind(source, target, self.root, readonly=True).inside()
            except FileNotFoundError:  # a link that leads into the /run of a running system: what it leads to is made
                if os.path.islink(self.root + target):
                    leads_to = os.path.join(os.path.dirname(target), os.readlink(self.root + target))
                    Bind(source, leads_to, self.root, readonly=True).inside()

    def __exit__(self, *_: object) -> None:
        """Let go of everything. The cable went with the container's namespace, and the lease is now a dead owner's."""
        for descriptor in self._held:
            os.close(descriptor)
        if self.join:
            self.join.__exit__()
        self._held, self.bridge, self.join = [], None, None
        if self._bridged:
            with networks.Host():
                pass


def extra_host(text: str) -> str:
    """A line of the hosts file from NAME:ADDRESS, as after docker run --add-host; host-gateway is for the bridge."""
    name, _, address = text.partition(":")
    if address != "host-gateway":
        address = _address(address, f"{text!r}: write NAME:ADDRESS, such as db:192.0.2.7 or host:host-gateway")
    return f"{address}\t{networks.checked([name])[0]}\n"


def resolv_conf(servers: Sequence[str]) -> str:
    """What a container asks for names of the world, resolv.conf(5): these servers, or those of the host that are not on
    its loopback interface, since a container has another one.
    """
    if servers:
        found = [_address(server, f"name server {server!r} is no address") for server in servers]
        return "".join(f"nameserver {address}\n" for address in found)
    for path in RESOLV_CONF:
        useless = ("nameserver 127.", "nameserver ::1", "#")
        lines = [line for line in read(path).splitlines(keepends=True) if not line.startswith(useless)]
        if any(line.startswith("nameserver") for line in lines):
            return "".join(lines)
    return "# the host's name servers listen on its loopback interface only: name one with dns\n"


def _address(text: str, otherwise: str) -> str:
    """An address, without brackets; or an error in these words."""
    try:
        links.family_of(text.strip("[]"))
    except OSError:
        raise ContainerError(f"Network: {otherwise}") from None
    return text.strip("[]")

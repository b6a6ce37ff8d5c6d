"""Chapter 7: the networks of a host: made, found, listed, removed, and cleaned of what dead owners left.

    create("web", "10.90.0.0/24")       # one that stays until remove("web"): docker network create
    listed(), inspect("web"), prune()

A network is a directory, with its settings and its leases, and what the kernel has of it: a bridge, and elements of the
firewall. After a reboot there is only the directory; then the rest is made again. All of this is the host side.
"""

from __future__ import annotations

import marshal
import os

from minidocker import state
from minidocker.files import remove as remove_tree
from minidocker.network import firewall, links, names
from minidocker.network.leases import Lease, Lock, checked, namespaces, numbers
from minidocker.network.links import dotted, exists, tool
from minidocker.network.ports import has_ipv6
from minidocker.outcome import ContainerError

DEFAULT = "bridge"  # is made with its first container, and removed with its last
CANDIDATES = [f"10.77.{third}.0/22" for third in range(0, 256, 4)]  # as many addresses as a bridge can have ports
NAME_LENGTH = 12


class Bridge:
    """A network: its `name`, the `interface` that is its bridge, `subnet`, `prefix6` ("" without IPv6), `kept`, and the
    leases of its `living` containers. Wants the `Lock`.
    """

    def __init__(self, name: str) -> None:
        if name in ("none", "host") or not 1 <= len(names.checked([name])[0]) <= NAME_LENGTH or name[0] in ".-":
            raise ContainerError(f"Network: a network cannot be called {name!r}: 1 to {NAME_LENGTH} letters and digits")
        self.name, self.interface, self.directory = name, links.bridge_of(name), os.path.join(Lock.place, name)
        self.settings, self.leases = (os.path.join(self.directory, word) for word in ("settings", "leases"))
        self.living: list[Lease] = []
        if os.path.exists(self.settings):
            with open(self.settings, "rb") as file:
                self.subnet, self.prefix6, self.kept, self.last = marshal.load(file)

    def addresses(self, number: int, prefix: bool = False) -> list[str]:
        """Those of a container, or of the bridge: IPv4, and IPv6 where there is any; or with the network's bits."""
        found = [dotted(number), *([f"{self.prefix6}:0:{links.eui64_of(number)}"] if self.prefix6 else [])]
        bits = self.subnet.partition("/")[2], "64"
        return [f"{text}/{bits[text is not found[0]]}" for text in found] if prefix else found

    def gateways(self, prefix: bool = False) -> list[str]:
        """The bridge's own addresses."""
        return self.addresses(numbers(self.subnet)[1], prefix)

    def make(self, others: list[Bridge], wanted: str | None = None, kept: bool = False) -> None:
        """Make it, first on the disk. If that fails half-way it is not kept yet, and the next survey removes it."""
        if exists(self.interface):
            raise ContainerError(f"Network: there is an interface {self.interface} that is not ours: ip link del it")
        self.subnet, self.prefix6 = _free_subnet(others, wanted), _random_prefix6() if has_ipv6() else ""
        os.makedirs(self.leases, mode=0o700, exist_ok=True)
        self.write(kept=False)
        names.write(os.path.join(self.directory, "hosts"), names.LOCALHOST)
        self.connect()
        self.write(kept=kept)

    def write(self, kept: bool, last: int = 0) -> None:
        """Its settings: whether it stays when nobody is in it, and the address that was given last, are among them."""
        self.kept, self.last = kept, last
        state.replace(self.settings, marshal.dumps((self.subnet, self.prefix6, kept, last)))

    def connect(self) -> None:
        """Make the bridge, or what is missing of it, with the first address of each family for this host itself.

        Two sysctls, of this interface only: route_localnet lets an answer for 127.0.0.1 come back through it (what a
        container could do with that, the firewall forbids); without accept_dad its own IPv6 addresses work at once,
        since nobody else can have them.
        """
        addresses = numbers(self.subnet)
        if (self.interface, addresses[0], addresses[-1]) in links.routes():
            return
        if not exists(self.interface):
            # frames to 01:80:c2:00:00:0x, which the guard does not see, teach it nothing; and it is no party in IGMP
            kind = "bridge no_linklocal_learn 1 mcast_snooping 0"
            tool("ip", *f"link add {self.interface} address {links.mac_of(addresses[1])} type {kind}".split())
        for name, value in (("ipv4/conf/{}/route_localnet", "1"), ("ipv6/conf/{}/accept_dad", "0")):
            if name[3] == "4" or self.prefix6:
                with open(f"/proc/sys/net/{name.format(self.interface)}", "w") as file:
                    file.write(value)
        lines = [f"addr replace {text} dev {self.interface}" for text in self.gateways(prefix=True)]
        tool("ip", "-batch", "-", text="\n".join([f"link set {self.interface} up", *lines, ""]))

    def take(self, wanted: str | None) -> Lease:
        """The next free address, or the one that is wanted; the lease has its lock, and nothing in it yet.

        Each time the next one, since an address may have a late packet on its way, or a namespace that still ends.
        """
        guests, used = numbers(self.subnet)[2:-1], {lease.number: lease for lease in self.living}
        order = [*range(max(self.last + 1, guests[0]), guests.stop), *guests]
        if wanted:
            order = [number for number in guests if dotted(number) == wanted]
        free = [number for number in order if number not in used]
        if not order:
            raise ContainerError(f"Network: {wanted!r} is no address for a container in {self.subnet}")
        if not free:
            text = f"all {len(guests)} addresses of {self.subnet} are in use; make a network with a larger subnet"
            text = f"{wanted} is in use by {used[order[0]].read().names[0]}" if wanted else text
            raise ContainerError(f"Network: {text}")
        path = os.path.join(self.leases, dotted(free[0]))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.living.append(Lease(path, state.hold(path)))
        self.write(self.kept, free[0])
        return self.living[-1]

    def lines(self, lease: Lease) -> str:
        """How a container is found by its names."""
        return "".join(f"{text}\t{' '.join(lease.names)}\n" for text in self.addresses(lease.number))

    def introduce(self, lease: Lease) -> None:
        """Add its lines to all hosts files; one that has lines of its own has a file of its own."""
        for name in os.listdir(self.directory):
            if name.startswith("hosts"):
                names.append(os.path.join(self.directory, name), self.lines(lease))
        if lease.extra:
            with open(os.path.join(self.directory, "hosts")) as file:
                names.write(self.views(lease)["/etc/hosts"], file.read() + "".join(lease.extra))

    def rewrite(self) -> None:
        """The hosts files, when somebody is no more."""
        living = [lease.read() for lease in self.living]
        text = names.LOCALHOST + "".join(map(self.lines, living))
        names.write(os.path.join(self.directory, "hosts"), text)
        for lease in living:
            if lease.extra:
                names.write(self.views(lease)["/etc/hosts"], text + "".join(lease.extra))

    def views(self, lease: Lease) -> dict[str, str]:
        """The files that a container sees: {its path: the host's file}."""
        found = {"/etc/hosts": f"hosts-{lease.address}" if lease.extra else "hosts"}
        found["/etc/resolv.conf"] = f"resolv-{lease.address}"
        return {path: os.path.join(self.directory, name) for path, name in found.items()}

    def look(self) -> list[Lease]:
        """Find out who lives; return the leases of the dead, whose locks we hold from now on."""
        found = [os.path.join(self.leases, name) for name in sorted(os.listdir(self.leases))]
        held = [Lease(path, state.hold(path)) for path in found]
        self.living = [one for one in held if one.descriptor is None]
        return [one.read() for one in held if one.descriptor is not None]

    def forget(self, dead: list[Lease], ending: bool) -> None:
        """Give back their addresses and names; and if it is ending, remove it."""
        for lease in dead:
            for path in (*self.views(lease).values(), lease.path):
                if lease.address in path and os.path.exists(path):
                    os.unlink(path)
            lease.let_go()
        if ending:
            self.remove()
        elif dead:
            try:
                self.rewrite()
            except OSError:
                pass  # to remove needs no room: on a full disk their names stay until the next one ends

    def items(self) -> list[str]:
        """What the firewall is to know of it, and of all who live in it."""
        return self.subnets() + [item for lease in self.living for item in self.known(lease.read())]

    def subnets(self) -> list[str]:
        """What the firewall is to know of it, whoever is in it."""
        return firewall.subnet(self.interface, self.subnet, self.prefix6)

    def known(self, lease: Lease) -> list[str]:
        """What the firewall is to know of a container."""
        return firewall.guest(lease.number, self.addresses(lease.number)) + lease.items

    def remove(self) -> None:
        """Remove the bridge and the directory."""
        unlink = links.Tool("ip", "link", "del", self.interface) if exists(self.interface) else None
        os.unlink(self.settings)
        remove_tree(self.directory)
        if unlink:
            unlink.result()


def _random_prefix6() -> str:
    """48 bits that nobody else has, most likely: RFC 4193, for networks that are not of the Internet."""
    number = int.from_bytes(os.urandom(5), "big")
    return f"fd{number >> 32:02x}:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF | 1:x}"  # 0 would be written as nothing


def _free_subnet(others: list[Bridge], wanted: str | None) -> str:
    """The wanted one, or the first of our candidates, if no other network is in it, and no route leads there."""
    used = [(subnet[0], subnet[-1]) for subnet in (numbers(other.subnet) for other in others)]
    used += [(begin, end) for _, begin, end in links.routes()]
    for subnet in [wanted] if wanted else CANDIDATES:
        own = numbers(subnet)
        overlap = [f"{dotted(begin)}-{dotted(end)}" for begin, end in used if own[0] <= end and begin <= own[-1]]
        if not overlap:
            return subnet
    why = f"subnet {wanted} overlaps with {overlap[0]}, which this host can reach already"
    raise ContainerError(f"Network: {why if wanted else 'no subnet is free; give one: network create --subnet'}")


def network_names() -> list[str]:
    """The networks of this host. A directory without settings was being made or removed when somebody was killed."""
    found = [entry for entry in os.scandir(Lock.place) if entry.is_dir()]
    half = [entry for entry in found if not os.path.exists(os.path.join(entry.path, "settings"))]
    for entry in half:
        remove_tree(entry.path)
    return sorted(entry.name for entry in found if entry not in half)


def survey(removed: list[str] | None = None) -> list[Bridge]:
    """All networks with their living containers. What dead owners left is taken away, and added to `removed`.

    A container that ends in good order lets go of its lease and calls this: then it is one of the dead. What the guard
    knows of one without a port stays: it is right for the next one, too.
    """
    dead = {network: network.look() for network in map(Bridge, network_names())}
    found = [network for network in dead if network.living or network.kept]
    try:
        gone = [item for network in dead if network not in found for item in network.subnets()]
        gone += [item for network in dead for lease in dead[network] if lease.items for item in network.known(lease)]
        if found and gone and not firewall.remove(gone):
            firewall.restore(everything(found), rules())
        elif not found and (dead or os.path.exists(rules())):
            firewall.uninstall()
            remove_tree(rules())
        for network in dead:  # the firewall was first: who is killed in between leaves what tells the next one
            network.forget(dead[network], ending=network not in found)
    finally:
        for lease in sum(dead.values(), []):
            lease.let_go()
    if removed is not None:
        removed += [f"address {network.name} {lease.address}" for network in dead for lease in dead[network]]
        removed += [f"network {network.name}" for network in dead if network not in found]
    return found


def everything(networks: list[Bridge]) -> list[str]:
    """All that the firewall is to know."""
    return [item for network in networks for item in network.items()]


def rules() -> str:
    """The file that says how nft shows our rules."""
    return os.path.join(Lock.place, "rules")


def settled(pending: firewall.Pending) -> list[str]:
    """Wait for what `firewall.begin` said; where it met other rules than ours, all is made anew. Returns warnings."""
    answer = firewall.settle(pending)
    if not answer:
        with Lock():
            answer = firewall.restore(everything(survey()), rules())
    return firewall.open_doors(answer)


def pick(name: str, networks: list[Bridge]) -> Bridge:
    """The network of this name; `ContainerError` if there is none."""
    for network in networks:
        if network.name == name:
            return network
    others = ", ".join(network.name for network in networks) or "none"
    text = f"no network is called {name!r}: there are {others}; minidocker network create {name}"
    raise ContainerError(f"Network: {text}")


def opened(name: str, networks: list[Bridge]) -> Bridge:
    """The network of a container that starts. The default one is made when it is not there."""
    if name == DEFAULT and name not in [network.name for network in networks]:
        networks.append(Bridge(name))
        networks[-1].make(networks[:-1])
    network = pick(name, networks)
    network.connect()
    return network


def find(wanted: str) -> tuple[int, dict[str, str]]:
    """The pid of the container with this name or pid, and the files that it sees; `ContainerError` if there is none.

    One that is in no network of ours is known by its pid only, and the files are its own affair.
    """
    with Lock():
        for network in survey():
            for lease in map(Lease.read, network.living):
                if lease.pid and wanted in (lease.names[0], str(lease.pid)):
                    return lease.pid, network.views(lease)
    if wanted.isascii() and wanted.isdecimal():
        return int(wanted), {}
    raise ContainerError(f"Network: no running container is called {wanted!r}")


def create(name: str, subnet: str | None = None) -> Bridge:
    """Make a network that stays; `ContainerError` if there is one of this name, or one where this one would be."""
    wanted = checked(subnet) if subnet else None
    with Lock() as lock:
        networks, made = survey(), Bridge(name)
        if os.path.exists(made.settings):
            raise ContainerError(f"Network: there is a network called {name!r} already")
        try:
            made.make(networks, wanted, kept=True)
        except BaseException:
            survey()
            raise
        pending = firewall.begin(made.subnets(), rules(), lock.descriptor)
    settled(pending)
    return made


def remove(name: str) -> None:
    """Remove a network; refused while a container is in it."""
    with Lock():
        network = pick(name, survey())
        if network.living:
            users = ", ".join(sorted(lease.read().names[0] for lease in network.living))
            raise ContainerError(f"Network: {name} is in use by {users}: stop them first")
        network.write(kept=False)
        survey()


def listed() -> list[str]:
    """The names of all networks of this host."""
    with Lock():
        return network_names()


def inspect(name: str) -> dict[str, object]:
    """What there is to know about a network, with {container: address} of those that are in it."""
    with Lock():
        found = pick(name, survey())
    subnet6 = f"{found.prefix6}::/64" if found.prefix6 else ""
    plain = {"name": name, "interface": found.interface, "subnet": found.subnet, "gateway": found.gateways()[0]}
    users = {lease.read().names[0]: lease.address for lease in found.living}
    return {**plain, "subnet6": subnet6, "kept": found.kept, "containers": users}


def prune() -> list[str]:
    """Remove what dead owners left, networks that were not created and are not used, and the files of hosts that are no
    more; return a line for each.
    """
    removed: list[str] = []
    with Lock():
        survey(removed)
        homes, here = os.path.split(Lock.place)
        living = namespaces() - {here.partition(".")[0]}
        for name in {*os.listdir(homes)} - {"host", here}:
            inode = name.partition(".")[0]
            if inode not in living or name.rpartition(".")[2] != here.rpartition(".")[2] != "host":
                remove_tree(os.path.join(homes, name))
                removed.append(f"files of network namespace {inode}")
    return removed

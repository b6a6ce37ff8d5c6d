"""Chapter 7: the networks of a host: made, found, listed, removed, and cleaned of what dead owners left.

    create("web", "10.90.0.0/24")       # one that stays until remove("web"): docker network create
    listed(), inspect("web"), prune()

A network is a directory, and what the kernel has of it: a bridge, and elements of the firewall. After a reboot there is
only the directory; then the rest is made again. All of this is the host side.
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import os

from minidocker import state
from minidocker.cgroups.hierarchy import read
from minidocker.images.inside import LOCALHOST
from minidocker.network import firewall, links
from minidocker.network.firewall import element
from minidocker.network.links import dotted, eui64_of, exists, interface_of, ipv6, mac_of, namespace, numbers, tool
from minidocker.network.ports import FORWARDING, IP_FORWARD, has_ipv6, sysctl
from minidocker.outcome import ContainerError
from minidocker.trees import remove as remove_tree

DEFAULT = "bridge"  # is made with its first container, and removed with its last
CANDIDATES = [f"10.77.{third}.0/22" for third in range(0, 256, 4)]
LARGEST = 22  # a bridge has at most 1024 ports, and so many addresses has a /22
BLOCK = 32  # so many addresses the firewall learns at a time, and most starts have nothing to tell it
NAME_LENGTH, INTERFACE_LENGTH = 12, 15  # letters; the second is the kernel's
LONGEST = 87  # letters of all names of a container: one line of a file that everybody reads
LOCK = "/run/minidocker.network" if os.access("/run", os.W_OK) else f"{state.home()}/network.lock"  # of all homes
NAMED = "/run/netns"  # where ip-netns(8) keeps namespaces


class Host:
    """The networks of this host, and the lock on them: who changes something holds it, and all others wait.
    To enter is to tidy up: what dead owners left is taken away, and said in `removed`. A container that ends in good
    order lets go of its lease, and somebody enters: then it is one of the dead. A host is a network namespace.
    """

    def __enter__(self) -> Host:
        self.lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.place, self.removed = os.path.join(state.home(), "network", namespace()), list[str]()
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            os.makedirs(self.place, mode=0o700, exist_ok=True)
            names = [os.path.basename(path) for path in state.directories(self.place)]
            self.networks = {name: Bridge(self, name) for name in names}
            self.tidy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not os.listdir(self.place):
            os.rmdir(self.place)
        os.close(self.lock)

    def tidy(self) -> None:
        """The firewall is first: who is killed in between leaves what tells the next one."""
        found = [*self.networks.values()]
        ending = [self.networks.pop(one.name) for one in found if not (one.living or one.kept)]
        if ending and not self.networks:
            for name in read(f"{self.place}/opened").split() if sysctl(IP_FORWARD) == "0" else ():
                sysctl(FORWARDING.format(name), "0")
            firewall.uninstall()
            self.doubt("opened")
        elif ending or any(read(f"{path}/elements") for network in found for path in network.dead):
            self.doubt()
            self.tell()
        for network in found:
            for path in network.dead:  # and of nobody who has died since: the firewall knows them still
                remove_tree(path)
            self.removed += [f"address {network.name} {os.path.basename(path)}" for path in network.dead]
            try:
                network.introduce() if network.dead else None
            except OSError:
                pass  # to remove needs no room: on a full disk their names stay until the next one ends
        for network in ending:
            if exists(network.interface):
                tool("ip", "link", "del", network.interface)
            remove_tree(network.path)
            self.removed.append(f"network {network.name}")

    def doubt(self, *outdated: str) -> None:
        """The firewall may not be as it should be: `tell` will make it anew, also if we are killed before."""
        for name in {"generation", *outdated} & {*os.listdir(self.place)}:
            os.unlink(f"{self.place}/{name}")

    def tell(self, elements: str = "") -> list[str]:
        """Add elements to the firewall; if it is not as we left it, make it anew instead. Returns warnings.
        As we left it: nobody has changed anything since, in whatever table, so nothing of ours either.
        """
        before, warnings = firewall.generation(), list[str]()
        if read(f"{self.place}/generation") != f"{before}" or not firewall.add(elements):
            opened = [element("inet minidocker opened", f'"{name}"') for name in read(f"{self.place}/opened").split()]
            warnings = firewall.restore("".join([*opened, *(one.elements() for one in self.networks.values())]))
        if firewall.generation() == before + 1 and not warnings:
            try:
                write(f"{self.place}/generation", f"{before + 1}")
            except OSError:
                pass  # on a full disk it is made anew each time
        return warnings

    def uplinks(self) -> set[str]:
        """Interfaces by which a host that is no router passes on what is for containers, and nothing else: those that
        have a route. They are shut when the last network is gone; `ip_forward`, for all purposes, stays the owner's.
        """
        known = {*read(f"{self.place}/opened").split()}
        shut = {name for name, _ in links.routes() if name[:2] != "md" and sysctl(FORWARDING.format(name)) == "0"}
        wanted = known | shut if sysctl(IP_FORWARD) == "0" else set()
        if wanted != known:
            write(f"{self.place}/opened", " ".join(wanted))
            self.doubt()
        return wanted

    def pick(self, name: str) -> Bridge:
        """The network of this name; `ContainerError` if there is none."""
        if name not in self.networks:
            others = ", ".join(self.networks) or "none"
            text = f"no network is called {name!r}: there are {others}; minidocker network create {name}"
            raise ContainerError(f"Network: {text}")
        return self.networks[name]


class Bridge:
    """A network: its `name`, the `interface` that is its bridge, its `subnet`, and whether it is `kept` when nobody is
    in it. `living` and `dead` are leases. A lease is an address in use: a directory of its name, which the host side of
    its container holds, chapter 4. All that the host knows of the container is in it: its `names`, its `elements` of
    the firewall, its `pid`.
    """

    def __init__(self, host: Host, name: str) -> None:
        if name in ("none", "host") or not 1 <= len(checked([name])[0]) <= NAME_LENGTH or name[0] in ".-":
            raise ContainerError(f"Network: a network cannot be called {name!r}: 1 to {NAME_LENGTH} letters and digits")
        self.host, self.name, self.interface = host, name, f"md{links.tag()}-{name}"
        if len(self.interface) > INTERFACE_LENGTH:
            self.interface = f"md{links.tag()}-{binascii.crc32(name.encode()):08x}"
        self.path = os.path.join(host.place, name)
        self.kept = os.path.exists(f"{self.path}/kept")
        self.subnet, last = read(f"{self.path}/subnet").split() or ("", "0")
        self.last, self.living, self.dead = int(last), list[str](), list[str]()
        for path in state.directories(self.path):
            lock = state.hold(path)
            (self.living if lock is None else self.dead).append(path)
            if lock is not None:
                os.close(lock)

    def addresses(self, number: int) -> list[str]:
        """Those of a container, or of the bridge: IPv4, and IPv6 where there is any."""
        both = [dotted(number), ipv6(numbers(self.subnet)[0], eui64_of(number))]
        return both if has_ipv6() else both[:1]

    def gateways(self) -> list[str]:
        """The bridge's own addresses."""
        return self.addresses(numbers(self.subnet)[1])

    def make(self, wanted: str | None = None) -> None:
        """Make it, first on the disk. It is not kept yet: if that fails half-way, who enters next removes it."""
        if exists(self.interface):
            raise ContainerError(f"Network: there is an interface {self.interface} that is not ours: ip link del it")
        self.subnet = _free_subnet([*self.host.networks.values()], wanted)
        self.last = numbers(self.subnet)[1]
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        state.replace(f"{self.path}/subnet", f"{self.subnet} {self.last}".encode())
        self.host.networks[self.name] = self
        self.connect()

    def connect(self) -> None:
        """Make the bridge, or what is missing of it, with the first address of each family for this host itself.
        Frames to 01:80:c2:00:00:0x, which the guard does not see, teach it nothing; and it is no party in IGMP.
        """
        own = numbers(self.subnet)
        if (self.interface, own) in links.routes():
            return
        self.host.doubt()
        kind = "bridge no_linklocal_learn 1 mcast_snooping 0"
        made = "" if exists(self.interface) else f"link add {self.interface} address {mac_of(own[1])} type {kind}\n"
        lines = made + links.up(self.interface, self.gateways(), self.subnet)
        tool("ip", "-batch", "-", text=lines)

    def take(self) -> tuple[int, str, int]:
        """An address as a number, its lease, with nothing in it yet, and the descriptor that holds that.
        Each time the next one, since an address may have a late packet on its way, or a namespace that still ends.
        """
        guests = numbers(self.subnet)[2:-1]
        order = (*range(max(self.last + 1, guests[0]), guests.stop), *guests)
        number = next((number for number in order if f"{self.path}/{dotted(number)}" not in self.living), 0)
        if not number:
            text = f"all {len(guests)} addresses of {self.subnet} are in use; make a network with a larger subnet"
            raise ContainerError(f"Network: {text}")
        if number // BLOCK != self.last // BLOCK:
            self.host.doubt()
        self.last = number
        state.replace(f"{self.path}/subnet", f"{self.subnet} {number}".encode())
        self.living.append(f"{self.path}/{dotted(number)}")
        return number, self.living[-1], state.claim(self.living[-1])

    def introduce(self) -> None:
        """Write the hosts files of all who live in it: each has the names of all."""
        everybody = "".join(read(f"{path}/names") for path in self.living)
        for path in self.living:
            write(f"{path}/hosts", LOCALHOST + read(f"{path}/extra") + everybody)

    def elements(self) -> str:
        """What the firewall is to know of it, and of all who live in it or may come next: what each may say it is, by
        which port it comes.
        """
        near, port = {os.path.basename(path) for path in self.living}, f'"{self.interface}"'
        lines, guests = [element("inet minidocker same", f"{port} . {port}")], numbers(self.subnet)
        for number in guests[2:-1]:
            if number // BLOCK == self.last // BLOCK or dotted(number) in near:
                port, half = f'"{interface_of(number)}"', eui64_of(number)
                card, both = f"{port} . {mac_of(number)}", [ipv6(first, half) for first in (guests[0], 0)]
                lines.append(element("bridge minidocker guests4", f"{card} . {dotted(number)}"))
                lines.append(element("bridge minidocker guests6", *(f"{card} . {address}" for address in both)))
                lines.append(element("bridge minidocker neighbours", f"{port} . 0x{half.hex()}"))
        return "".join([*lines, *(read(f"{path}/elements") for path in self.living)])


def checked(names: list[str]) -> list[str]:
    """The names, if each can stand in a hosts file, hosts(5)."""
    for name in names:
        if not name.isascii() or not name or not all(letter.isalnum() or letter in "-_." for letter in name):
            raise ContainerError(f"Network: {name!r} cannot be the name of a host: use letters, digits, - and .")
    if len(" ".join(names)) >= LONGEST:
        raise ContainerError(f"Network: too many names, or too long: {' '.join(names)}")
    return names


def write(path: str, text: str) -> None:
    """Write a file in place: who has it mounted sees the same file, and at no time an empty one."""
    descriptor, data = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC), text.encode()
    try:
        os.fchmod(descriptor, 0o644)
        if os.pwrite(descriptor, data, 0) < len(data):  # what was there before is not cut off then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _free_subnet(others: list[Bridge], wanted: str | None) -> str:
    """The wanted one, or the first of our candidates, if no other network is in it, and no route leads there."""
    used = [numbers(other.subnet) for other in others] + [addresses for _, addresses in links.routes()]
    for subnet in [wanted] if wanted else CANDIDATES:
        own = numbers(subnet)
        overlap = [other for other in used if max(own[0], other[0]) <= min(own[-1], other[-1])]
        if not overlap:
            return subnet
    if not wanted:
        raise ContainerError("Network: no subnet is free; give one: network create --subnet")
    theirs = f"{dotted(overlap[0][0])}-{dotted(overlap[0][-1])}"
    raise ContainerError(f"Network: subnet {wanted} overlaps with {theirs}, which this host can reach already")


def called(lease: str) -> str:
    """The container's own name."""
    return read(f"{lease}/names").split()[1]


def find(wanted: str) -> tuple[int, str]:
    """The pid of the container with this name or pid, and its lease: "" for one that is in no network of ours, and so
    is known by its pid only.
    """
    with Host() as host:
        for lease in [lease for network in host.networks.values() for lease in network.living]:
            if (pid := read(f"{lease}/pid")) and wanted in (*read(f"{lease}/names").split(), pid):
                return int(pid), lease
    if wanted.isascii() and wanted.isdecimal():
        return int(wanted), ""
    raise ContainerError(f"Network: no running container is called {wanted!r}")


def create(name: str, subnet: str | None = None) -> Bridge:
    """Make a network that stays; `ContainerError` if there is one of this name, or one where this one would be."""
    import ipaddress  # 3 ms, which no start has to wait for

    try:
        if subnet is not None and not ("/" in subnet and LARGEST <= ipaddress.IPv4Network(subnet).prefixlen <= 30):
            raise ValueError(f"write ADDRESS/PREFIX, with a prefix of {LARGEST} to 30")
    except ValueError as why:
        raise ContainerError(f"Network: subnet {subnet!r}: {why}") from None
    with Host() as host:
        made = Bridge(host, name)
        if made.subnet:
            raise ContainerError(f"Network: there is a network called {name!r} already")
        made.make(subnet)
        host.tell()
        write(f"{made.path}/kept", "")
    return made


def remove(name: str) -> None:
    """Remove a network; refused while a container is in it."""
    with Host() as host:
        network = host.pick(name)
        if network.living:
            users = ", ".join(sorted(map(called, network.living)))
            raise ContainerError(f"Network: {name} is in use by {users}: stop them first")
        os.unlink(f"{network.path}/kept")
        network.kept = False
        host.tidy()


def listed() -> list[str]:
    """The names of all networks of this host."""
    with Host() as host:
        return [*host.networks]


def inspect(name: str) -> dict[str, object]:
    """What there is to know about a network, with {container: address} of those that are in it."""
    with Host() as host:
        found = host.pick(name)
        known = {key: getattr(found, key) for key in ("name", "interface", "subnet", "kept")}
        subnet6 = f"{ipv6(numbers(found.subnet)[0])}/64" if has_ipv6() else ""
        users = {called(lease): os.path.basename(lease) for lease in found.living}
        return {**known, "gateway": found.gateways()[0], "subnet6": subnet6, "containers": users}


def prune() -> list[str]:
    """Remove what dead owners left, networks that nobody created or uses, and the files of hosts that are no more;
    return a line for each.
    """
    import glob

    with Host() as host:
        (parent, here), living = os.path.split(host.place), set[str]()
        for path in glob.glob("/proc/[0-9]*/ns/net") + glob.glob(f"{NAMED}/*"):
            try:
                living.add(f"{os.stat(path).st_ino}")
            except OSError:
                pass  # it ended meanwhile
        living.discard(here.partition(".")[0])
        for name in {*os.listdir(parent)} - {"host", here}:
            inode = name.partition(".")[0]
            if inode not in living or not name.endswith(read(links.BOOT)[:8]):
                remove_tree(f"{parent}/{name}")
                host.removed.append(f"files of network namespace {inode}")
        return host.removed

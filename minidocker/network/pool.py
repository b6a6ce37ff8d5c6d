"""Chapter 7: addresses. Which container has which, and how one becomes free again when its owner was killed.

    with Lock():
        lease = Pool(directory, Subnet("10.77.0.0/22")).take("web")
    lease.address                       # "10.77.0.2", until lease.give_back()

An address that is in use is a file of its name, which the host side of its container keeps locked, flock(2). The kernel
drops the lock when that process ends, however it ends: so a file that can be locked is an address that nobody has.
"""

from __future__ import annotations

import fcntl
import os

from minidocker import state
from minidocker.network.netlink import parse_address, thread_file
from minidocker.outcome import ContainerError

LARGEST = 22  # a bridge has at most 1024 ports, and so many addresses has a /22


class Lock:
    """Whoever changes something about networks holds this lock meanwhile; everybody else waits some milliseconds.

    `place` is the directory of this host's networks. A host, to a network, is a network namespace: that of this thread.
    """

    place = ""  # only the holder reads it, and there is one at a time on the whole machine

    def __enter__(self) -> Lock:
        namespace = os.stat(thread_file("ns/net")).st_ino
        parent = os.path.join(state.home(), "network")
        os.makedirs(parent, mode=0o700, exist_ok=True)
        self._descriptor = os.open(os.path.join(parent, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        Lock.place = os.path.join(parent, str(namespace))
        os.makedirs(Lock.place, mode=0o700, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.rmdir(Lock.place)  # if there is no network in it
        except OSError:
            pass
        os.close(self._descriptor)


class Subnet:
    """The addresses of a network, e.g. "10.77.0.0/22": `gateway`, the first, is the bridge's; the rest, the guests'.

    `begin` and `end` are the numbers of the network's own address and of its broadcast address.
    """

    def __init__(self, text: str) -> None:
        address, _, prefix = text.partition("/")
        if not prefix.isdecimal() or not LARGEST <= int(prefix) <= 30:
            raise ContainerError(f"Network: subnet {text!r}: write ADDRESS/PREFIX, with a prefix of {LARGEST} to 30")
        try:
            number = int.from_bytes(parse_address(address)[1], "big")
        except OSError:
            raise ContainerError(f"Network: subnet {text!r}: {address!r} is no IPv4 address") from None
        self.prefix = int(prefix)
        self.begin, self.end = number, number | (1 << (32 - self.prefix)) - 1
        if ":" in address or number + (1 << (32 - self.prefix)) - 1 != self.end:
            why = "only IPv4 has subnets here" if ":" in address else f"{address} does not begin a /{prefix}"
            raise ContainerError(f"Network: subnet {text!r}: {why}")
        self.gateway = dotted(self.begin + 1)

    def __str__(self) -> str:
        return f"{dotted(self.begin)}/{self.prefix}"

    def guests(self) -> range:
        """The numbers of the addresses for containers."""
        return range(self.begin + 2, self.end)

    def overlaps(self, begin: int, end: int) -> bool:
        """Whether one of the addresses with these numbers is in it."""
        return self.begin <= end and begin <= self.end


def dotted(number: int) -> str:
    """An IPv4 address as it is written: 0x0a4d0001 is 10.77.0.1."""
    return ".".join(str(byte) for byte in number.to_bytes(4, "big"))


# A container's interface, its hardware address and its IPv6 addresses all follow from its IPv4 address. So the rules
# against impostors can be written before there is any container, and nobody remembers a neighbour that has changed.


def interface_of(number: int) -> str:
    """The host's end of the pair of interfaces."""
    return f"mv{number:08x}"


def mac_of(number: int) -> bytes:
    """The container's hardware address: one of those that anybody may give out (the second bit)."""
    return b"\x02m" + number.to_bytes(4, "big")


def address6_of(prefix6: str, number: int) -> str:
    """Its IPv6 address, below a prefix of 48 bits."""
    return f"{prefix6}::{number >> 16:x}:{number & 0xFFFF:x}"


def link_local_of(number: int) -> str:
    """The IPv6 address that the kernel makes of the hardware address, RFC 4291 appendix A."""
    a, b, c, d = number.to_bytes(4, "big")
    return f"fe80::6d:{a:x}ff:fe{b:02x}:{c << 8 | d:x}"


class Lease:
    """An address in use: `number`, `address`, and the descriptor whose lock says that its owner lives."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path, self.descriptor, self.address = path, descriptor, os.path.basename(path)
        self.number = int.from_bytes(parse_address(self.address)[1], "big")

    def write(self, container: str, pid: int = 0) -> None:
        """Note whose it is, for whoever looks for the container, and for whoever cleans up after it."""
        text = f"{container} {pid}\n".encode()
        os.pwrite(self.descriptor, text, 0)
        os.ftruncate(self.descriptor, len(text))

    def give_back(self) -> None:
        """The address is free."""
        os.unlink(self.path)
        os.close(self.descriptor)


class Pool:
    """The leases of one network. All its methods want the `Lock`."""

    def __init__(self, directory: str, subnet: Subnet) -> None:
        self.directory, self.subnet = os.path.join(directory, "leases"), subnet

    def take(self, container: str, wanted: str | None = None) -> Lease:
        """The next free address, or the one that is wanted.

        Each time the next one, since an address may have a late packet on its way, or a namespace that still ends.
        """
        guests = self.subnet.guests()
        order = [*range(self._next(guests), guests.stop), *guests]
        if wanted:
            order = [number for number in guests if dotted(number) == wanted]
            if not order:
                raise ContainerError(f"Network: {wanted!r} is no address for a container in {self.subnet}")
        for number in order:
            path = os.path.join(self.directory, dotted(number))
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if _lock(descriptor):
                lease = Lease(path, descriptor)
                lease.write(container)
                return lease
            os.close(descriptor)
        if wanted:
            raise ContainerError(f"Network: {wanted} is in use by {self.living()[wanted][0]}")
        text = f"all {len(guests)} addresses of {self.subnet} are in use; make a network with a larger subnet"
        raise ContainerError(f"Network: {text}")

    def _next(self, guests: range) -> int:
        """Where the last search ended, kept in a file beside the leases."""
        path = os.path.join(self.directory, "../next")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            number = int(os.read(descriptor, 20) or guests.start)
            number = number if number in guests else guests.start
            os.pwrite(descriptor, f"{number + 1:<20}".encode(), 0)
            return number
        finally:
            os.close(descriptor)

    def living(self) -> dict[str, tuple[str, int]]:
        """Every address in use: {address: (container, pid of its first process, or 0 while it starts)}."""
        found = {}
        for path in self._paths():
            descriptor = os.open(path, os.O_RDONLY)
            name, pid = os.pread(descriptor, 4096, 0).decode().split() or ("", "0")
            if not _lock(descriptor):
                found[os.path.basename(path)] = name, int(pid)
            os.close(descriptor)
        return found

    def dead(self) -> list[Lease]:
        """What dead owners left. It is locked by the caller now, who cleans up after them and gives it back."""
        found = []
        for path in self._paths():
            descriptor = os.open(path, os.O_RDWR)
            if _lock(descriptor):
                found.append(Lease(path, descriptor))
            else:
                os.close(descriptor)
        return found

    def _paths(self) -> list[str]:
        return [os.path.join(self.directory, name) for name in sorted(os.listdir(self.directory))]


def _lock(descriptor: int) -> bool:
    """Lock a lease without waiting; False if its owner lives."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False

"""Chapter 7: addresses. Which container has which, and how one becomes free again when its owner was killed.

A lease is an address in use: a file of its name, which the host side of its container holds locked, chapter 4. It says
all that the host knows of the container, so names and firewall can be made anew from the files at any moment.
"""

from __future__ import annotations

import _socket as socket
import marshal
import os

from minidocker import state
from minidocker.network.links import parse_address
from minidocker.outcome import ContainerError

LARGEST = 22  # a bridge has at most 1024 ports, and so many addresses has a /22
LOCK = "/run/minidocker.network"  # of all homes, since all of them look for free subnets
NAMED = "/run/netns"  # where ip-netns(8) keeps namespaces
SO_NETNS_COOKIE = 71  # <asm-generic/socket.h>

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Lock:
    """Whoever changes something about networks holds this lock meanwhile; everybody else waits some milliseconds.

    `place` is the directory of this host's networks. A host, to a network, is a network namespace: that of this thread.
    """

    place = ""  # only the holder reads it, and there is one at a time on the whole machine

    def __enter__(self) -> Lock:
        held = None
        while held is None:
            os.close(os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            held = state.hold(LOCK, wait=True)
        self.descriptor = held
        Lock.place = os.path.join(state.home(), "network", host())
        os.makedirs(Lock.place, mode=0o700, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not os.listdir(Lock.place):
            os.rmdir(Lock.place)
        os.close(self.descriptor)


def host() -> str:
    """The name of this thread's network namespace: "host" for that of the machine, whose networks outlive a reboot.

    Its inode number may be another one's later. The cookie may not, socket(7), until the next boot.
    """
    inode = os.stat("/proc/thread-self/ns/net").st_ino
    try:
        if inode == os.stat("/proc/1/ns/net").st_ino:
            return "host"
    except PermissionError:
        pass  # root without CAP_SYS_PTRACE
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    cookie = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8).hex()
    probe.close()
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{inode}.{cookie}.{file.read(8)}"


def namespaces() -> set[str]:
    """The network namespaces of this machine: of its processes, and those that `ip netns` keeps."""
    kept = [os.path.join(NAMED, name) for name in os.listdir(NAMED)] if os.path.isdir(NAMED) else []
    found = set()
    for path in [*(f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdecimal()), *kept]:
        try:
            found.add(str(os.stat(path).st_ino))
        except OSError:
            pass  # it ended meanwhile
    return found


def numbers(subnet: str) -> range:
    """The addresses of a subnet: the network's own, the bridge's, those of containers, and the broadcast address."""
    address, _, prefix = subnet.partition("/")
    begin = int.from_bytes(parse_address(address)[1], "big")
    return range(begin, begin + (1 << 32 - int(prefix)))


def checked(subnet: str) -> str:
    """A subnet as a user writes it, or `ContainerError`."""
    import ipaddress  # 3 ms, which no start has to wait for

    try:
        if LARGEST <= ipaddress.IPv4Network(subnet).prefixlen <= 30 and "/" in subnet:
            return subnet
        why = f"write ADDRESS/PREFIX, with a prefix of {LARGEST} to 30"
    except ValueError as refused:
        why = str(refused)
    raise ContainerError(f"Network: subnet {subnet!r}: {why}")


class Lease:
    """An address in use. `names`: all that its container is called, its own name first; `extra`: lines of its hosts
    file; `items`: its ports and limits in the firewall; `pid`: 0 until there is a process. `descriptor` has the lock.
    """

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path, self.address, self.descriptor = path, os.path.basename(path), descriptor
        self.number, self.pid = numbers(f"{self.address}/32")[0], 0
        self.names, self.extra, self.items = [""], list[str](), list[str]()

    def read(self) -> Lease:
        """What the file says. To start a container, nobody has to read the others'."""
        with open(self.path, "rb") as file:
            try:
                self.names, self.extra, self.items = marshal.load(file)
                self.pid = marshal.load(file)
            except (EOFError, ValueError, TypeError):
                pass  # not yet, or not whole
        return self

    def note(self, value: Any) -> None:
        """Add to the file, by one write(2): first what it is, later the pid."""
        with open(self.path, "ab", buffering=0) as file:
            file.write(marshal.dumps(value))

    def let_go(self) -> None:
        """From now on it is a dead owner's."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None

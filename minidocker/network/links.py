"""Chapter 7: cables and switches. The tools that make them, and what follows from an IPv4 address.

    tool("ip", "-batch", "-", text=cable(number, "md-web", pid))      # a pair of interfaces, one end in the container
    tool("tc", *limit("eth0", 10_000_000))                            # no more than 10 Mbit/s leave through it

ip(8), tc(8), nft(8) and conntrack(8) tell the kernel what is to be, by netlink(7); `ip -batch` says many things in one
process. All of it is the host side, as root, in the network namespace of the calling thread.
"""

from __future__ import annotations

import _socket as socket  # the C half of `socket`: its other half takes 5 ms to import
import binascii
import os

from minidocker import state
from minidocker.cgroups.hierarchy import read
from minidocker.outcome import ContainerError

DIRECTORIES = ":/usr/sbin:/sbin"  # where the tools are, also for whom they are not in PATH
PACKAGES = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "nsenter": "util-linux"}  # others are called so
BOOT = "/proc/sys/kernel/random/boot_id"
SO_NETNS_COOKIE = 71  # <asm-generic/socket.h>
CARD = "eth0"  # the container's end of the cable
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}  # networks count in powers of ten, and in bits


def tool(name: str, *arguments: str, text: str = "", pid: int = 0) -> str:
    """Run a program that reads `text`, in the network namespace of `pid` if there is one; return what it printed, or
    raise its first complaint. Its streams are files in memory: no pipe can fill, and `subprocess` is not imported.
    """
    argv = [program(name), *arguments]
    if pid:
        argv = [program("nsenter"), f"--net=/proc/{pid}/ns/net", *argv]
    files = [os.memfd_create(name) for _ in range(3)]
    os.pwrite(files[0], text.encode(), 0)
    streams = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
    child = os.posix_spawn(argv[0], argv, {"PATH": DIRECTORIES[1:], "LC_ALL": "C"}, file_actions=streams)
    status = os.waitpid(child, 0)[1]
    printed, refused = (os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace") for file in files[1:])
    for file in files:
        os.close(file)
    if status:
        why = refused.strip().split("\n")[0] or f"ended with status {status}"
        raise ContainerError(f"Network: {name}: {why}", isolator="Network", syscall=name)
    return printed


def program(name: str) -> str:
    """The path of a tool; `ContainerError` with the remedy where there is none."""
    for directory in (os.environ.get("PATH", "") + DIRECTORIES).split(":"):
        if directory and os.access(os.path.join(directory, name), os.X_OK):
            return os.path.join(directory, name)
    text = f"no {name} on this machine, and without it no network: apt install {PACKAGES.get(name, name)}"
    raise ContainerError(f"Network: {text}, or --network none or host", isolator="Network")


def namespace() -> str:
    """The name of this thread's network namespace: "host" for that of the machine, whose networks outlive a reboot.
    An inode number may be another one's later; the cookie may not, socket(7), until the next boot.
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
    return f"{inode}.{cookie}.{read(BOOT)[:8]}"


def tag() -> str:
    """What the names of this home's objects in the kernel have in them, so that two homes on one host cannot meet."""
    home = os.path.realpath(state.home())
    return "" if home == state.HOME else f"{binascii.crc32(os.fsencode(home)) & 0xFFFF:04x}"


# A container's interface, hardware address and IPv6 addresses follow from its IPv4 address: no neighbour has to forget.


def numbers(subnet: str) -> range:
    """The addresses of a subnet: the network's own, the bridge's, those of containers, and the broadcast address."""
    address, _, prefix = subnet.partition("/")
    first = int.from_bytes(socket.inet_aton(address), "big")
    return range(first, first + (1 << 32 - int(prefix)))


def dotted(number: int) -> str:
    """An IPv4 address as it is written: 0x0a4d0001 is 10.77.0.1."""
    return socket.inet_ntoa(number.to_bytes(4, "big"))


def interface_of(number: int) -> str:
    """The host's end of the cable."""
    return f"m{tag()}v{number:08x}"


def mac_of(number: int) -> str:
    """The hardware address: one of those that anybody may give out (the second bit)."""
    return (b"\x02m" + number.to_bytes(4, "big")).hex(":")


def eui64_of(number: int) -> bytes:
    """The second half of its IPv6 addresses, as the kernel makes it of the hardware address: RFC 4291, appendix A."""
    octets = number.to_bytes(4, "big")
    return b"\0m" + octets[:1] + b"\xff\xfe" + octets[1:]


def ipv6(first: int, half: bytes = bytes(8)) -> str:
    """An address in the private network (RFC 4193) that goes with that of IPv4; for `first` 0, one on the link only."""
    prefix = b"\xfdm" + first.to_bytes(4, "big") + bytes(2) if first else b"\xfe\x80" + bytes(6)
    return socket.inet_ntop(socket.AF_INET6, prefix + half)


def family_of(address: str) -> int:
    """AF_INET or AF_INET6; `OSError` for what is no address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socket.inet_pton(family, address)
    return int(family)


def exists(name: str) -> bool:
    """Whether there is an interface of this name."""
    return name in [name for _, name in socket.if_nameindex()]


def routes() -> list[tuple[str, range]]:
    """(interface, addresses) of each network that this host has a route to; the kernel's table is hexadecimal."""
    found = []
    with open("/proc/thread-self/net/route") as file:
        for line in [*file][1:]:
            interface, target, _, _, _, _, _, mask, *_ = line.split()
            first, bits = (socket.ntohl(int(word, 16)) for word in (target, mask))
            if bits:
                found.append((interface, range(first, first + (1 << 32) - bits)))
    return found


def cable(number: int, bridge: str, pid: int) -> str:
    """A pair of interfaces, veth(4): one end a port of the bridge, the other born in the namespace of `pid`, never in a
    wrong place. In hairpin mode a port gets back what came in through it: a container calls its own published port.
    """
    name = interface_of(number)
    peer = f"peer name {CARD} address {mac_of(number)} netns {pid}"
    return f"link add {name} master {bridge} up type veth {peer}\nlink set {name} type bridge_slave hairpin on\n"


def up(interface: str, addresses: list[str], subnet: str) -> str:
    """Switch it on, with these addresses. nodad: IPv6 need not ask the network whether somebody has one already."""
    bits = subnet.partition("/")[2]
    lines = [f"addr replace {text}/{'64 nodad' if ':' in text else bits} dev {interface}\n" for text in addresses]
    return "".join([*lines, f"link set {interface} up\n"])


def card(addresses: list[str], subnet: str, gateways: list[str]) -> str:
    """The container's end, and its way to the world."""
    routes = [f"route add default via {text}\n" for text in gateways]
    return "".join(["link set lo up\n", up(CARD, addresses, subnet), *routes])


def parse_rate(text: str | int) -> int:
    """Bits per second, from a number or from "10M", "500k", "1g"; `ContainerError` for what is no rate."""
    word = str(text).lower().removesuffix("bit")
    unit = UNITS.get(word[-1:], 1)
    try:
        rate = int(float(word if unit == 1 else word[:-1]) * unit)
    except (ValueError, OverflowError):
        rate = 0
    if not 8000 <= rate < 1 << 40:
        raise ContainerError(f"Network: {text!r} is no rate: bits per second, with k, M or G, from 8k on; such as 10M")
    return rate


def limit(interface: str, rate: int) -> list[str]:
    """Words for tc-tbf(8), a token bucket: a packet leaves when there are as many tokens as it has bytes. 10 ms of them
    fit into the bucket, and at least a long packet; a packet waits for 50 ms, and then there is no room for the next.
    """
    burst = max(rate // 800, 32 << 10)
    return f"qdisc add dev {interface} root tbf rate {rate}bit burst {burst} limit {burst + rate // 160}".split()

"""Chapter 7: cables and switches. What the interfaces of a network are called, and the tools that make them.

    tool("ip", "-batch", "-", text=cable(number, "md-web", pid))      # a pair of interfaces, one end in the container
    tool("tc", *limit("eth0", 10_000_000))                            # no more than 10 Mbit/s leave through it

ip(8), tc(8), nft(8) and conntrack(8) tell the kernel what is to be, by netlink(7); `ip -batch` says many things in one
process. All of it is the host side, as root, in the network namespace of the calling thread.
"""

from __future__ import annotations

import _socket as socket  # the C half of `socket`: its other half takes 5 ms to import
import binascii
import os
import sys

from minidocker import state
from minidocker.outcome import ContainerError
from minidocker.syscalls import CLONE_NEWNET, setns

DIRECTORIES = ":/usr/sbin:/sbin"  # where the tools are, also for whom they are not in PATH
PACKAGES = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "conntrack": "conntrack"}
CARD = "eth0"  # the container's end of the cable
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}  # networks count in powers of ten, and in bits


class Tool:
    """A program that runs and reads `text`; `result` waits for its end. It keeps the descriptor `lock` open until then.

    Standard input and both outputs are files in memory: no pipe can fill, and `subprocess` need not be imported.
    """

    def __init__(self, name: str, *arguments: str, text: str = "", lock: int = -1) -> None:
        path = program(name)
        self.name, self.files = name, [os.memfd_create(name) for _ in range(3)]
        os.pwrite(self.files[0], text.encode(), 0)
        kept = [*self.files, *([lock] if lock >= 0 else [])]
        places = [(os.POSIX_SPAWN_DUP2, source, number) for number, source in enumerate(kept)]
        environment = {"PATH": DIRECTORIES[1:], "LC_ALL": "C"}
        self.pid = os.posix_spawn(path, [name, *arguments], environment, file_actions=places)

    def result(self) -> str:
        """What it printed; `ContainerError` with its first complaint if it failed."""
        status = os.waitpid(self.pid, 0)[1]
        _, printed, refused = (
            os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace") for file in self.files
        )
        for file in self.files:
            os.close(file)
        if status:
            why = refused.strip().split("\n")[0] or f"ended with status {status}"
            raise ContainerError(f"Network: {self.name}: {why}", isolator="Network", syscall=self.name)
        return printed


def tool(name: str, *arguments: str, text: str = "", pid: int = 0) -> str:
    """Run it to its end; with a `pid`, in that process's network namespace, where setns(2) moves this thread for it."""
    if not pid:
        return Tool(name, *arguments, text=text).result()
    here, there = (os.open(path, os.O_RDONLY) for path in ("/proc/thread-self/ns/net", f"/proc/{pid}/ns/net"))
    try:
        setns(there, CLONE_NEWNET)
        return Tool(name, *arguments, text=text).result()
    finally:
        setns(here, CLONE_NEWNET)
        os.close(here)
        os.close(there)


def program(name: str) -> str:
    """The path of a tool; `ContainerError` with the remedy where there is none."""
    for directory in (os.environ.get("PATH", "") + DIRECTORIES).split(":"):
        if directory and os.access(os.path.join(directory, name), os.X_OK):
            return os.path.join(directory, name)
    text = f"no {name} on this machine, and without it no network: apt install {PACKAGES[name]}"
    raise ContainerError(f"Network: {text}, or --network none or host", isolator="Network")


def tag() -> str:
    """What the names of this home's objects in the kernel have in them, so that two homes on one host cannot meet."""
    home = os.path.realpath(state.home())
    return "" if home == state.HOME else f"{binascii.crc32(os.fsencode(home)) & 0xFFFF:04x}"


def bridge_of(network: str) -> str:
    """The bridge of a network; an interface's name has at most 15 letters."""
    name = f"md{tag()}-{network}"
    return name if len(name) <= 15 else f"md{tag()}-{binascii.crc32(network.encode()):08x}"


# A container's interface, hardware address and IPv6 addresses follow from its IPv4 address: no neighbour has to forget.


def interface_of(number: int) -> str:
    """The host's end of the cable."""
    return f"m{tag()}v{number:08x}"


def mac_of(number: int) -> str:
    """The hardware address: one of those that anybody may give out (the second bit)."""
    return (b"\x02m" + number.to_bytes(4, "big")).hex(":")


def eui64_of(number: int) -> str:
    """The second half of its IPv6 addresses, as the kernel makes it of the hardware address: RFC 4291, appendix A."""
    a, b, c, d = number.to_bytes(4, "big")
    return f"6d:{a:x}ff:fe{b:02x}:{c << 8 | d:x}"


def dotted(number: int) -> str:
    """An IPv4 address as it is written: 0x0a4d0001 is 10.77.0.1."""
    return socket.inet_ntoa(number.to_bytes(4, "big"))


def parse_address(text: str) -> tuple[int, bytes]:
    """The family and the bytes of an address; `OSError` for what is none."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return int(family), socket.inet_pton(family, text)


def exists(name: str) -> bool:
    """Whether there is an interface of this name."""
    return name in [name for _, name in socket.if_nameindex()]


def routes() -> list[tuple[str, int, int]]:
    """(interface, first number, last number) of each network that this host has a route to.

    /proc/net/route has them in hexadecimal, in the machine's byte order.
    """
    found = []
    with open("/proc/thread-self/net/route") as file:
        for line in [*file][1:]:
            interface, target, _, _, _, _, _, mask, *_ = line.split()
            begin, bits = (int.from_bytes(int(word, 16).to_bytes(4, sys.byteorder), "big") for word in (target, mask))
            if bits:
                found.append((interface, begin, begin | ~bits & 0xFFFFFFFF))
    return found


def cable(number: int, bridge: str, pid: int) -> str:
    """A pair of interfaces, veth(4): one end a port of the bridge, the other born in the namespace of `pid`.

    There is never an end in the wrong place that somebody would have to remove. In hairpin mode a port gets back what
    came in through it: a container that calls its own published port.
    """
    name = interface_of(number)
    peer = f"peer name {CARD} address {mac_of(number)} netns {pid}"
    return f"link add {name} master {bridge} up type veth {peer}\nlink set {name} type bridge_slave hairpin on\n"


def card(addresses: list[str], gateways: list[str]) -> str:
    """The container's end. nodad: IPv6 need not ask the network whether somebody has the address already."""
    lines = ["link set lo up", *(f"addr add {text} dev {CARD}{' nodad' * (':' in text)}" for text in addresses)]
    return "\n".join([*lines, f"link set {CARD} up", *(f"route add default via {text}" for text in gateways), ""])


def parse_rate(text: str | int) -> int:
    """Bits per second, from a number or from "10M", "500k", "1g"; `ContainerError` for what is no rate."""
    word = str(text).lower().removesuffix("bit")
    number, unit = (word[:-1], word[-1:]) if word[-1:] in UNITS else (word, "")
    try:
        rate = int(float(number) * UNITS[unit])
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

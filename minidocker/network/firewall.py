"""Chapter 7: the firewall. Published ports, addresses that are borrowed on the way out, and walls between networks.

    install()
    add([published("0.0.0.0", "tcp", 8080, "10.77.0.2", 80)])     # until remove of the same, or clean({"10.77.0.2"})

Everything is in two tables that are called minidocker, nftables(8): one of the family inet, which sees packets, one of
the family bridge, which sees frames. Their rules never change. What comes and goes are elements of sets and maps: one
for each published port, so a thousand of them cost no more than one. Each change is one run of nft, which the kernel
takes as a whole or not at all. All this is the host side, as root, in the network namespace of this thread.
"""

from __future__ import annotations

import os

from minidocker.network.netlink import parse_address
from minidocker.network.pool import Subnet, address6_of, dotted, interface_of, link_local_of, mac_of
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DIRECTORIES = ":/usr/sbin:/sbin"  # where nft is, also for whom they are not in PATH

# md-* are our bridges, mv* their ports: interfaces that nobody else makes. A name as of a wildcard is a comparison of
# its first letters, so a new network needs no new rule.
RULES = """
create table inet minidocker
table inet minidocker {
    map published4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; flags interval; }
    map published6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; flags interval; }
    set same { type ifname . ifname; }
    set subnets4 { type ipv4_addr; flags interval; }
    set subnets6 { type ipv6_addr; flags interval; }

    # 1. What comes from a container may not pretend to be for the loopback interface (CVE-2020-8558)
    chain loopback {
        type filter hook prerouting priority raw;
        iifname "md-*" ip daddr 127.0.0.0/8 drop
    }
    # 2. What is for a published port gets another destination: here from others, below from this host itself
    chain from_outside {
        type nat hook prerouting priority dstnat;
        ip daddr 127.0.0.0/8 return
        fib daddr type local meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @published4
        fib daddr type local meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
    }
    chain from_here {
        type nat hook output priority -100;
        ip6 daddr ::1 return
        fib daddr type local meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @published4
        fib daddr type local meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
    }
    # 3. What this host passes on to a container: answers, published ports, and what its own network sends
    chain through {
        type filter hook forward priority filter;
        oifname != "md-*" accept
        ct state established,related accept
        ct status dnat accept
        iifname . oifname @same accept
        drop
    }
    # 4. What a container sends to this host itself: answers, and the kernel's own messages
    chain to_host {
        type filter hook input priority filter;
        iifname != "md-*" accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        meta l4proto tcp reject with tcp reset
        reject
    }
    # 5. Whose answer would not find back borrows an address of this host
    chain way_out {
        type nat hook postrouting priority srcnat;
        ip saddr @subnets4 oifname != "md-*" masquerade
        ip6 saddr @subnets6 oifname != "md-*" masquerade
        oifname "md-*" ct status dnat ip saddr 127.0.0.0/8 masquerade
        oifname "md-*" ct status dnat ip saddr @subnets4 masquerade
        oifname "md-*" ct status dnat ip6 saddr @subnets6 masquerade
    }
}
table bridge minidocker {
    set guests4 { type ifname . ether_addr . ipv4_addr; }
    set guests6 { type ifname . ether_addr . ipv6_addr; }
    set neighbours { typeof iifname . @th,64,128; }
    map egress { type ifname : limit; }

    # 0. A frame must come through the port that goes with its sender, and speak for nobody else (ARP, RFC 4861)
    chain guard {
        type filter hook prerouting priority -300;
        iifname != "mv*" accept
        limit name iifname map @egress drop
        ether type arp iifname . ether saddr . arp saddr ip != @guests4 drop
        ether type arp iifname . arp saddr ether . arp saddr ip @guests4 accept
        ether type ip iifname . ether saddr . ip saddr @guests4 accept
        icmpv6 type { nd-router-advert, nd-redirect } drop
        icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @neighbours drop
        ether type ip6 iifname . ether saddr . ip6 saddr @guests6 accept
        drop
    }
}
"""


def nft(text: str, *arguments: str) -> str:
    """Run nft(8) on a text, or with other arguments, and return what it prints; `ContainerError` if it refuses.

    Standard input and both outputs are files in memory: no pipe can fill, and `subprocess` need not be imported.
    """
    given, printed, refused = (os.memfd_create(name) for name in ("given", "printed", "refused"))
    try:
        os.write(given, text.encode())
        os.lseek(given, 0, os.SEEK_SET)
        places = [(os.POSIX_SPAWN_DUP2, source, number) for number, source in enumerate((given, printed, refused))]
        command = ["nft", *(arguments or ("-f", "-"))]
        pid = os.posix_spawn(program(), command, {"PATH": DIRECTORIES[1:]}, file_actions=places)
        status = os.waitpid(pid, 0)[1]
        if status:
            why = os.pread(refused, 4096, 0).decode().splitlines() or [f"nft ended with status {status}"]
            raise ContainerError(f"Network: nft: {why[0]}", isolator="Network", syscall="nft")
        return os.pread(printed, os.fstat(printed).st_size, 0).decode()
    finally:
        for descriptor in (given, printed, refused):
            os.close(descriptor)


def program() -> str:
    """The path of nft; `ContainerError` where there is none."""
    for directory in (os.environ.get("PATH", "") + DIRECTORIES).split(":"):
        if directory and os.access(os.path.join(directory, "nft"), os.X_OK):
            return os.path.join(directory, "nft")
    text = "no nft on this machine, and without it no port, no way out: apt install nftables, or --network none or host"
    raise ContainerError(f"Network: {text}", isolator="Network")


def install() -> None:
    """Make the tables, if they are not there: `create` fails if they are, and the batch with it."""
    try:
        nft(RULES)
    except ContainerError as refused:
        if "File exists" not in str(refused):
            raise


def uninstall() -> None:
    """Remove the tables, with everything in them."""
    try:
        nft("delete table inet minidocker\ndelete table bridge minidocker\n")
    except ContainerError as refused:
        if "No such file" not in str(refused):
            raise


def network_items(bridge: str, subnet: Subnet, prefix6: str) -> list[str]:
    """What the tables need to know of a network. Every guest that there may ever be is on the lists."""
    guests = [(f'"{interface_of(n)}" . {mac_of(n).hex(":")}', n) for n in subnet.guests()]
    found = [
        f'element inet minidocker same {{ "{bridge}" . "{bridge}" }}',
        f"element inet minidocker subnets4 {{ {subnet} }}",
        _elements("guests4", [f"{card} . {dotted(n)}" for card, n in guests]),
    ]
    if prefix6:
        both = [(card, text) for card, n in guests for text in (address6_of(prefix6, n), link_local_of(n))]
        numbers = [(card.partition(" ")[0], parse_address(text)[1].hex()) for card, text in both]
        found.append(f"element inet minidocker subnets6 {{ {prefix6}::/64 }}")
        found.append(_elements("guests6", [f"{card} . {text}" for card, text in both]))
        found.append(_elements("neighbours", [f"{name} . 0x{number}" for name, number in numbers]))
    return found


def _elements(name: str, elements: list[str]) -> str:
    return f"element bridge minidocker {name} {{ {', '.join(elements)} }}"


def published(host: str, protocol: str, number: int, guest: str, port: int) -> str:
    """A published port: what a packet is for, and what it will be for. "All addresses" is a net of all addresses."""
    family = "6" if ":" in host else "4"
    host = {"0.0.0.0": "0.0.0.0/0", "::": "::/0"}.get(host, host)
    return f"element inet minidocker published{family} {{ {host} . {protocol} . {number} : {guest} . {port} }}"


def policed(interface: str, rate: int) -> list[str]:
    """No more than `rate` bits per second and a tenth may come through a port of a bridge; the rest is dropped."""
    speed = f"rate over {rate * 11 // 80} bytes/second burst {max(rate // 40, 1 << 18)} bytes"
    item = f'"{interface}" : "{interface}"'
    return [f"limit bridge minidocker {interface} {{ {speed}; }}", _elements("egress", [item])]


def add(items: list[str]) -> None:
    """All of them, or none."""
    if items:
        nft("".join(f"add {item}\n" for item in items))


def remove(items: list[str]) -> None:
    """All of them. If somebody has flushed the tables meanwhile, they are gone already."""
    names = [item.partition(" {")[0] if item.startswith("limit ") else item for item in reversed(items)]
    try:
        if items:
            nft("".join(f"delete {name}\n" for name in names))
    except ContainerError as refused:
        if "No such file" not in str(refused):
            raise


def clean(guests: set[str]) -> None:
    """Remove published ports and limits of guests (addresses, interfaces) whose owners are dead, and told nobody."""
    dead: list[str] = []
    for family, name in (("inet", "published4"), ("inet", "published6"), ("bridge", "egress")):
        for key, value in _entries(family, name):
            if name == "egress":
                dead += policed(value, 0) if value in guests else []
            elif value["concat"][0] in guests:
                dead.append(_written(*key["concat"], *value["concat"]))
    remove(dead)


def _entries(family: str, name: str) -> list[tuple[Any, Any]]:
    """The keys and values of a map, as nft describes them; none if the tables are not there."""
    import json

    try:
        answer = json.loads(nft("", "-j", "list", "map", family, "minidocker", name))
    except ContainerError:
        return []
    return [entry for item in answer["nftables"] for entry in item.get("map", {}).get("elem", [])]


def _written(host: Any, protocol: str, number: int, guest: str, port: int) -> str:
    """A published port that nft listed, as nft reads it; it lists a net as {"prefix": {"addr": ..., "len": ...}}."""
    return published(host if isinstance(host, str) else host["prefix"]["addr"], protocol, number, guest, port)

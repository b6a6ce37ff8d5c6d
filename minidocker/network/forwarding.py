"""Chapter 7: what belongs to the host and not to us: whether it forwards, and what other firewalls have to say.

A packet for a container comes in through one interface of the host and leaves through another. The kernel does that
only where it was told to (ip_forward), and every firewall on the machine must let it: one table's "accept" is not the
last word, one table's "drop" is. So a policy of dropping, as Docker and many administrators set it, would cut our
containers off. `open_doors` then puts two rules of ours into that chain, under a comment that says whose they are, and
says so; `close_doors` takes them away again. No sysctl of the host is ever changed: `forwards` only looks.
"""

from __future__ import annotations

from minidocker.network.firewall import nft
from minidocker.network.ports import has_ipv6
from minidocker.outcome import ContainerError

SWITCHES = {"4": "net.ipv4.ip_forward", "6": "net.ipv6.conf.all.forwarding"}
COMMENT = "minidocker"  # of our rules in the chains of others; also the name of our tables
WAYS = ("iifname", "oifname")
FAMILIES = ("ip ", "ip6 ", "inet ")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidocker.network.ports import Port


def forwards(family: str) -> bool:
    """Whether this host (this thread's network namespace) passes packets of IPv4 ("4") or IPv6 ("6") on."""
    with open("/proc/sys/" + SWITCHES[family].replace(".", "/")) as file:
        return file.read().strip() != "0"


def checked(ports: list[Port]) -> list[str]:
    """What will not work on a host that does not forward; for a port that was asked for in vain, `ContainerError`.

    To switch it on is for the owner of the host: it makes a router of a machine that perhaps must be none.
    """
    warnings = []
    for family in "46" if has_ipv6() else "4":
        if forwards(family):
            continue
        remedy = f"sysctl -w {SWITCHES[family]}=1"
        in_vain = [port for port in ports if not port.local() and _wants(port, family)]
        if in_vain:
            text = f"no forwarding of IPv{family} on this host, so nobody outside could reach {in_vain[0]}"
            raise ContainerError(f"Network: {text}: {remedy}, or publish it on 127.0.0.1 only", isolator="Network")
        warnings.append(
            f"no forwarding of IPv{family} on this host: from the container no way to others, nor back; {remedy}"
        )
    return warnings


def _wants(port: Port, family: str) -> bool:
    """Whether the port was asked for in this family. All addresses of a host means IPv4, and IPv6 where that works."""
    return (":" in port.address) == (family == "6")


def _forward_chains() -> list[tuple[str, bool]]:
    """The chains of others that are asked whether the host may forward a packet, and whether they drop by default.

    Read from the text that nft prints: to import `json` would take longer than nft does.
    """
    found, table, chain = [], "", ""
    for line in nft("", "list", "chains").splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = f"{words[1]} {words[2]}"
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook forward" in line and table.startswith(FAMILIES) and not table.endswith(f" {COMMENT}"):
            found.append((f"{table} {chain}", "policy drop" in line))
    return found


def _ours(door: str) -> list[str]:
    """The handles of our rules in a chain of somebody else, from lines that end: comment "minidocker" # handle 7."""
    lines = nft("", "-a", "list", "chain", *door.split()).splitlines()
    return [line.split()[-1] for line in lines if f'comment "{COMMENT}" # handle ' in line]


def open_doors() -> list[str]:
    """Let what comes from or goes to our bridges pass where all else is dropped; return "FAMILY TABLE CHAIN" of each.

    It opens nothing more: what may go to a container is decided in our own table, where drop is final.
    """
    doors = [door for door, drops in _forward_chains() if drops]
    closed = [door for door in doors if not _ours(door)]
    rules = [f'insert rule {door} {way} "md-*" accept comment "{COMMENT}"' for door in closed for way in WAYS]
    if rules:
        nft("\n".join(rules) + "\n")
    return doors


def close_doors() -> list[str]:
    """Remove our rules from the chains of others; return "FAMILY TABLE CHAIN" of each that had some."""
    found = [(door, handle) for door, _ in _forward_chains() for handle in _ours(door)]
    if found:
        nft("".join(f"delete rule {door} handle {handle}\n" for door, handle in found))
    return sorted({door for door, _ in found})

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
        warnings.append(f"no forwarding of IPv{family} on this host: no way out of it for the container; {remedy}")
    return warnings


def _wants(port: Port, family: str) -> bool:
    """Whether the port was asked for in this family. All addresses of a host means IPv4, and IPv6 where that works."""
    return (":" in port.address) == (family == "6")


def _forward_chains() -> list[dict[str, Any]]:
    """The chains of others that are asked whether the host may forward a packet, as nft describes them."""
    chains = [item["chain"] for item in _listed("list", "chains") if "chain" in item]
    families = ("ip", "ip6", "inet")
    return [
        chain
        for chain in chains
        if chain.get("hook") == "forward" and chain["family"] in families and chain["table"] != COMMENT
    ]


def _listed(*arguments: str) -> list[dict[str, Any]]:
    """What nft lists, as Python values."""
    import json

    answer: list[dict[str, Any]] = json.loads(nft("", "-j", "-a", *arguments))["nftables"]
    return answer


def _name(chain: dict[str, Any]) -> str:
    return f"{chain['family']} {chain['table']} {chain['name']}"


def _ours(chain: str) -> list[int]:
    """The handles of our rules in a chain of somebody else."""
    rules = [item["rule"] for item in _listed("list", "chain", *chain.split()) if "rule" in item]
    return [rule["handle"] for rule in rules if rule.get("comment") == COMMENT]


def open_doors() -> list[str]:
    """Let what comes from or goes to our bridges pass where all else is dropped; return "FAMILY TABLE CHAIN" of each.

    It opens nothing more: what may go to a container is decided in our own table, where drop is final.
    """
    doors = [_name(chain) for chain in _forward_chains() if chain.get("policy") == "drop"]
    closed = [door for door in doors if not _ours(door)]
    rules = [f'insert rule {door} {way} "md-*" accept comment "{COMMENT}"' for door in closed for way in WAYS]
    if rules:
        nft("\n".join(rules) + "\n")
    return doors


def close_doors() -> list[str]:
    """Remove our rules from the chains of others; return "FAMILY TABLE CHAIN" of each that had some."""
    found = [(door, handle) for door in map(_name, _forward_chains()) for handle in _ours(door)]
    if found:
        nft("".join(f"delete rule {door} handle {handle}\n" for door, handle in found))
    return sorted({door for door, _ in found})

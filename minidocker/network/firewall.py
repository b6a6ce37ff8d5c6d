"""Chapter 7: the firewall. Published ports, addresses that are borrowed on the way out, and walls between networks.

    add(element("inet minidocker published4", "0.0.0.0/0 . tcp . 8080 : 10.77.0.2 . 80"))      # one port more
    restore(lines)                                                                             # all, as it should be

Everything is in two tables that are called minidocker, nftables(8): one of the family inet, which sees packets, one of
the family bridge, which sees frames. Their rules never change; what comes and goes are elements of sets and maps: one
for each published port, so a thousand of them cost no more than one. Others may change the firewall at any moment, so
each start looks whether its `generation` is the one that we left; if not, all is made anew.
"""

from __future__ import annotations

import _socket as socket
import struct

from minidocker.network.links import tag, tool
from minidocker.outcome import ContainerError

# md-* are our bridges, mv* their ports: interfaces that nobody else makes. A name as of a wildcard is a comparison of
# its first letters, so a new network needs no new rule.

# What is for a published port gets another destination: first what others send, then what this host sends itself.
WAY_IN = """
table inet minidocker {
    map published4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; flags interval; }
    map published6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; flags interval; }
    chain published {
        fib daddr type local meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @published4
        fib daddr type local meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
    }
    chain from_outside { type nat hook prerouting priority dstnat;
        ip daddr 127.0.0.0/8 return
        jump published
    }
    chain from_here { type nat hook output priority -100; jump published; }
    # ::1 cannot be a sender on a cable: such a packet leaves as the bridge's own, and its answer is led back
    map loopback6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
    chain from_loopback { type filter hook output priority raw;
        ip6 saddr ::1 ip6 daddr ::1 ip6 saddr set ip6 daddr . meta l4proto . th dport map @loopback6
    }
    chain to_loopback { type filter hook input priority 200;
        iifname "md-*" ip6 saddr ::1 ip6 daddr set ::1
    }
}
"""
WALLS = """
table inet minidocker {
    set same { type ifname . ifname; }
    set opened { type ifname; }
    # what comes from a container may not pretend to be for the loopback interface (CVE-2020-8558)
    chain loopback { type filter hook prerouting priority raw; iifname "md-*" ip daddr 127.0.0.0/8 drop; }
    # what this host passes on to a container: answers, published ports, what its own network sends; by @opened, no more
    chain through { type filter hook forward priority filter;
        ct state established,related accept
        ct status dnat accept
        iifname @opened oifname != "md*" drop
        oifname != "md-*" accept
        iifname . oifname @same accept
        drop
    }
    # what a container sends to this host itself: answers, and the kernel's own messages
    chain to_host { type filter hook input priority filter;
        iifname != "md-*" accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        meta l4proto tcp reject with tcp reset
        reject
    }
}
"""
# Whose answer would not find back borrows an address of this host: what comes from a container; and what is sent to a
# published port by this host itself, or stays in the bridge (iif 0: it came by no interface that is known here).
WAY_OUT = """
table inet minidocker {
    chain way_out { type nat hook postrouting priority srcnat;
        iifname "md-*" masquerade
        oifname "md-*" ct status dnat iif 0 masquerade
    }
}
"""
# A frame must come through the port that goes with its sender, and speak for nobody else (ARP, RFC 4861).
GUARD = """
table bridge minidocker {
    set guests4 { type ifname . ether_addr . ipv4_addr; }
    set guests6 { type ifname . ether_addr . ipv6_addr; }
    set neighbours { typeof iifname . @th,128,64; }
    map egress { type ifname : limit; }
    chain guard { type filter hook prerouting priority -300;
        iifname != "mv*" accept
        limit name iifname map @egress drop
        ether type arp iifname . ether saddr . arp saddr ip != @guests4 drop
        ether type arp iifname . arp saddr ether . arp saddr ip @guests4 accept
        ether type ip iifname . ether saddr . ip saddr @guests4 accept
        icmpv6 type { nd-router-advert, nd-redirect } drop
        icmpv6 type nd-neighbor-advert iifname . @th,128,64 != @neighbours drop
        ether type ip6 iifname . ether saddr . ip6 saddr @guests6 accept
        drop
    }
}
"""
EMPTY = "".join(f"table {family} minidocker\ndelete table {family} minidocker\n" for family in ("inet", "bridge"))
MARK = ' comment "minidocker"'  # of our rules in the chains of others
NETLINK_NETFILTER, NFT_MSG_GETGEN, NLM_F_REQUEST, NLMSG_ERROR = 12, 10 << 8 | 16, 1, 2  # <linux/netlink.h>, nf_tables.h


def ours(text: str) -> str:
    """The text with the names of this home, which are longer if it is not the default one."""
    if mark := tag():
        text = text.replace("minidocker", f"minidocker_{mark}")
        text = text.replace('"md-*"', f'"md{mark}-*"').replace('"mv*"', f'"m{mark}v*"')
    return text


def nft(text: str) -> str:
    """Run nft(8) on a batch, which the kernel takes as a whole or not at all."""
    return tool("nft", "-f", "-", text=ours(text))


def generation() -> int:
    """How many times the rules of this host have been changed, by any program: a message of netlink(7), by hand."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    kernel.send(struct.pack("=IHHIIBBH", 20, NFT_MSG_GETGEN, NLM_F_REQUEST, 0, 0, 0, 0, 0))
    answer = kernel.recv(512)
    kernel.close()
    if struct.unpack_from("=IH", answer)[1] == NLMSG_ERROR:
        raise ContainerError("Network: no nf_tables in this kernel, or no CAP_NET_ADMIN: --network host needs neither")
    return int.from_bytes(answer[24:28], "big")  # behind the header, and that of the first attribute


def element(name: str, *items: str) -> str:
    """The line that adds them to a set or a map."""
    return f"add element {name} {{ {', '.join(items)} }}\n"


def add(lines: str) -> bool:
    """Add these to the tables; False if the tables are no more."""
    try:
        return not lines or nft(lines) == ""
    except ContainerError:
        return False


def restore(lines: str) -> list[str]:
    """Make everything anew in one batch, whatever was there; returns what `open_doors` has to say."""
    nft(EMPTY + WAY_IN + WALLS + WAY_OUT + GUARD + lines)
    return open_doors()


def uninstall() -> None:
    """Remove the tables, with everything in them, and our rules in the chains of others."""
    doors = [(chain, line.split()[-1]) for chain, lines in foreign().items() for line in lines if ours(MARK) in line]
    nft(EMPTY + "".join(f"delete rule {chain} handle {handle}\n" for chain, handle in doors))


def foreign() -> dict[str, list[str]]:
    """The chains of others that are asked whether the host may pass a packet on, with their lines: hook, then rules."""
    found = dict[str, list[str]]()
    for table in f"\n{tool('nft', '-a', '-t', 'list', 'ruleset')}".split("\ntable ")[1:]:
        head, *chains = table.split("\n\tchain ")
        for chain in chains:
            name, hook, *rules = chain.splitlines()
            if "hook forward" in hook and " minidocker" not in head.partition("{")[0]:
                called = " ".join([*head.split()[:2], name.split()[0]])
                found[called] = [hook, *(rule for rule in rules if " # handle " in rule)]
    return found


def open_doors() -> list[str]:
    """Let what comes from or goes to our bridges pass where others drop all else, by policy or by a last rule; return a
    warning where that fails.

    Every firewall on the machine must let a packet pass: one table's accept is not the last word, one table's drop is.
    So it opens nothing more: what may go to a container is decided in our own table.
    """
    warnings = []
    for chain, (hook, *rules) in foreign().items():
        last = rules[-1].split() if rules else [""]
        drops = "policy drop" in hook or last[5 if last[0] == "counter" else 0] in ("drop", "reject")
        if drops and not any(ours(MARK) in rule for rule in rules):
            links = '"mv*"' if chain.startswith("bridge ") else '"md-*"'
            try:
                nft("".join(f"insert rule {chain} {way} {links} accept{MARK}\n" for way in ("iifname", "oifname")))
            except ContainerError as refused:
                warnings.append(f"the firewall's chain {chain} drops what is for containers: {refused}")
    return warnings

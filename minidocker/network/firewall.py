"""Chapter 7: the firewall. Published ports, addresses that are borrowed on the way out, and walls between networks.

    pending = begin(elements, rules, lock)      # nft runs meanwhile
    settle(pending) or restore(elements, rules) # both tables are as they should be, or nothing has been changed

Everything is in two tables that are called minidocker, nftables(8): one of the family inet, which sees packets, one of
the family bridge, which sees frames. Their rules never change; what comes and goes are elements of sets and maps: one
for each published port, so a thousand of them cost no more than one. Others may change the firewall at any moment, so
each start looks whether the rules are those that were written, and no set was emptied; if not, all is made anew.
"""

from __future__ import annotations

from minidocker.network.links import Tool, eui64_of, interface_of, mac_of, tag, tool
from minidocker.outcome import ContainerError

# md-* are our bridges, mv* their ports: interfaces that nobody else makes. A name as of a wildcard is a comparison of
# its first letters, so a new network needs no new rule.

# What is for a published port gets another destination: first what others send, then what this host sends itself.
WAY_IN = """
table inet minidocker {
    map published4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; flags interval; }
    map published6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; flags interval; }
    chain from_outside { type nat hook prerouting priority dstnat;
        ip daddr 127.0.0.0/8 return
        fib daddr type local meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @published4
        fib daddr type local meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
    }
    chain from_here { type nat hook output priority -100;
        ip6 daddr ::1 return
        fib daddr type local meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @published4
        fib daddr type local meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
    }
}
"""
WALLS = """
table inet minidocker {
    set same { type ifname . ifname; }
    # what comes from a container may not pretend to be for the loopback interface (CVE-2020-8558)
    chain loopback { type filter hook prerouting priority raw;
        iifname "md-*" ip daddr 127.0.0.0/8 drop
    }
    # what this host passes on to a container: answers, published ports, and what its own network sends
    chain through { type filter hook forward priority filter;
        oifname != "md-*" accept
        ct state established,related accept
        ct status dnat accept
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
# Whose answer would not find back borrows an address of this host.
WAY_OUT = """
table inet minidocker {
    set subnets4 { type ipv4_addr; flags interval; }
    set subnets6 { type ipv6_addr; flags interval; }
    chain way_out { type nat hook postrouting priority srcnat;
        ip saddr @subnets4 oifname != "md-*" masquerade
        ip6 saddr @subnets6 oifname != "md-*" masquerade
        oifname "md-*" ct status dnat ip saddr 127.0.0.0/8 masquerade
        oifname "md-*" ct status dnat ip saddr @subnets4 masquerade
        oifname "md-*" ct status dnat ip6 saddr @subnets6 masquerade
    }
}
"""
# A frame must come through the port that goes with its sender, and speak for nobody else (ARP, RFC 4861).
GUARD = """
table bridge minidocker {
    set guests4 { type ifname . ether_addr . ipv4_addr; }
    set guests6 { type ifname . ether_addr . ipv6_addr; }
    set neighbours { typeof iifname . @th,128,64; }
    limit none { rate over 1 bytes/second; }
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
TABLES = "inet minidocker", "bridge minidocker"
ANEW = "".join(f"table {table}\ndelete table {table}\n" for table in TABLES)
CHAINS = {TABLES[0]: ["loopback", "from_outside", "from_here", "through", "to_host", "way_out"], TABLES[1]: ["guard"]}
# What nobody can be or ask for: who empties a set or a map takes this away, too, and is noticed by it.
NOBODY = {
    "inet minidocker same": '"none" . "none"',
    "inet minidocker subnets4": "240.0.0.1",
    "inet minidocker subnets6": "2001:db8::",
    "inet minidocker published4": "240.0.0.1 . tcp . 1 : 240.0.0.1 . 1",
    "inet minidocker published6": "2001:db8:: . tcp . 1 : 2001:db8:: . 1",
    "bridge minidocker guests4": '"none" . 00:00:00:00:00:00 . 0.0.0.0',
    "bridge minidocker guests6": '"none" . 00:00:00:00:00:00 . ::',
    "bridge minidocker neighbours": '"none" . 0x0',
    "bridge minidocker egress": '"none" : "none"',
}
LOOK = "".join(f"list chain {table} {chain}\n" for table, chains in CHAINS.items() for chain in chains)
LOOK += "".join(f"get element {table} {{ {item.partition(' : ')[0]} }}\n" for table, item in NOBODY.items())
RULES = WAY_IN + WALLS + WAY_OUT + GUARD
RULES += "".join(f"add element {table} {{ {item} }}\n" for table, item in NOBODY.items())
MARK = ' comment "minidocker"'  # of our rules in the chains of others
FAMILIES = "ip ", "ip6 ", "inet ", "bridge "  # of tables that are asked about a packet that is passed on

TYPE_CHECKING = False
if TYPE_CHECKING:
    Pending = tuple[Tool, str]


def ours(text: str) -> str:
    """The text with the names of this home, which are longer if it is not the default one."""
    if mark := tag():
        text = text.replace("minidocker", f"minidocker_{mark}")
        text = text.replace('"md-*"', f'"md{mark}-*"').replace('"mv*"', f'"m{mark}v*"')
    return text


def nft(text: str) -> str:
    """Run nft(8) on a batch, which the kernel takes as a whole or not at all."""
    return tool("nft", "-t", "-f", "-", text=ours(text))


def guest(number: int, addresses: list[str]) -> list[str]:
    """What the guard knows of a container: what it may say it is, by which port it comes."""
    card, eui64 = f'"{interface_of(number)}"', eui64_of(number)
    found = [f"element bridge minidocker guests4 {{ {card} . {mac_of(number)} . {addresses[0]} }}"]
    for address in addresses[1:]:
        both = ", ".join(f"{card} . {mac_of(number)} . {text}" for text in (address, f"fe80::{eui64}"))
        last = "".join(part.rjust(4, "0") for part in eui64.split(":"))
        found.append(f"element bridge minidocker guests6 {{ {both} }}")
        found.append(f"element bridge minidocker neighbours {{ {card} . 0x{last} }}")
    return found


def subnet(bridge: str, subnet4: str, prefix6: str) -> list[str]:
    """What the tables know of a network."""
    found = [f'element inet minidocker same {{ "{bridge}" . "{bridge}" }}']
    found.append(f"element inet minidocker subnets4 {{ {subnet4} }}")
    return found + ([f"element inet minidocker subnets6 {{ {prefix6}::/64 }}"] if prefix6 else [])


def published(host: str, protocol: str, number: int, guest: str, port: int) -> str:
    """A published port: what a packet is for, and what it will be for. "All addresses" is a net of all addresses."""
    family, host = "6" if ":" in host else "4", {"0.0.0.0": "0.0.0.0/0", "::": "::/0"}.get(host, host)
    return f"element inet minidocker published{family} {{ {host} . {protocol} . {number} : {guest} . {port} }}"


def policed(interface: str, rate: int) -> list[str]:
    """No more than `rate` bits per second and a tenth may come through a port of a bridge; the rest is dropped."""
    speed = f"rate over {rate * 11 // 80} bytes/second burst {max(rate // 40, 1 << 18)} bytes"
    item = f'"{interface}" : "{interface}"'
    return [f"limit bridge minidocker {interface} {{ {speed}; }}", f"element bridge minidocker egress {{ {item} }}"]


def _said(items: list[str]) -> str:
    """Show our rules and everybody's chains, and add these elements: one that is there already is no error. To add a
    table that is there wakes it, if somebody has made it dormant.
    """
    awake = "".join(f"add table {table}\n" for table in TABLES)
    return LOOK + "list chains\n" + awake + "".join(f"add {item}\n" for item in items)


def begin(items: list[str], path: str, lock: int) -> Pending:
    """Start nft: it shows what there is, and adds these elements. It keeps the lock until it ends: nobody changes the
    tables meanwhile, and its caller need not wait.
    """
    return Tool("nft", "-t", "-f", "-", text=ours(_said(items)), lock=lock), path


def settle(pending: Pending) -> str:
    """What nft has answered after `begin`; "" if something is missing, or the rules are not what `restore` has made."""
    started, path = pending
    try:
        answer = started.result()
        with open(path) as file:
            return answer if answer.startswith(file.read()) else ""
    except (ContainerError, FileNotFoundError):
        return ""


def restore(items: list[str], path: str) -> str:
    """Make everything anew in one batch, whatever was there, and write down how nft shows it; the same answer.

    Somebody may flush it again before it is shown, so there are some tries.
    """
    for attempt in range(5):
        nft(ANEW + RULES + "".join(f"add {item}\n" for item in items))
        try:
            answer = nft(_said(items))
            break
        except ContainerError:
            if attempt == 4:
                raise
    with open(path, "w") as file:
        file.write("\n}\n".join(answer.split("\n}\n", LOOK.count("\n"))[:-1]))
    return answer


def remove(items: list[str]) -> bool:
    """Remove elements: add and delete is no error where they are gone. False if the tables are no more."""
    names = [item.partition(" {")[0] if item.startswith("limit ") else item for item in reversed(items)]
    try:
        nft("".join(f"add {item}\n" for item in items) + "".join(f"delete {name}\n" for name in names))
        return True
    except ContainerError:
        return False


def uninstall() -> None:
    """Remove the tables, with everything in them, and our rules in the chains of others."""
    handles = [(chain, handle) for chain, _, found in foreign(nft("list chains\n")) for handle in found]
    nft(ANEW + "".join(f"delete rule {chain} handle {handle}\n" for chain, handle in handles))


# A packet for a container comes in through one interface of the host and leaves through another, and every firewall on
# the machine must let it: one table's accept is not the last word, one table's drop is.


def foreign(chains: str) -> list[tuple[str, bool, list[str]]]:
    """The chains of others that are asked whether the host may pass a packet on, from what `list chains` printed: their
    names, whether they drop what they do not know, by policy or by a last rule, and the handles of our rules in them.
    """
    found, table, chain = [], "", ""
    for line in chains.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = f"{words[1]} {words[2]}"
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook forward" in line and table.startswith(FAMILIES) and " minidocker" not in table:
            shown = tool("nft", "-a", "list", "chain", *table.split(), chain).splitlines()[3:]
            rules = [line.partition(" # handle ") for line in shown if " # handle " in line]
            last = rules[-1][0].split() if rules else []
            final = last[5 if last[:1] == ["counter"] else 0 :][:1] in (["drop"], ["reject"])
            handles = [handle for rule, _, handle in rules if rule.endswith(ours(MARK))]
            found.append((f"{table} {chain}", final or "policy drop" in line, handles))
    return found


def open_doors(chains: str) -> list[str]:
    """Let what comes from or goes to our bridges pass where others drop all else; return a warning where that fails.

    It opens nothing more: what may go to a container is decided in our own table, where drop is final.
    """
    warnings = []
    for chain, drops, handles in foreign(chains):
        if drops and not handles:
            links = '"mv*"' if chain.startswith("bridge ") else '"md-*"'
            try:
                nft("".join(f"insert rule {chain} {way} {links} accept{MARK}\n" for way in ("iifname", "oifname")))
            except ContainerError as refused:
                warnings.append(f"the firewall's chain {chain} drops what is for containers: {refused}")
    return warnings

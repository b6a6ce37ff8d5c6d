"""Chapter 7: connection tracking, and what it must forget when an UDP port is published.

    forget_udp({53})

The kernel asks the rules about the first packet of a connection only, and remembers the answer for the rest. UDP has no
connections: a client that goes on sending from the same port is one, to the kernel, until it pauses for half a minute.
So it would be led to a container that is gone, or to nobody, for ever. The list is read, and entries are removed, by
netlink again, with another protocol: <linux/netfilter/nfnetlink_conntrack.h>. Host side, CAP_NET_ADMIN.
"""

from __future__ import annotations

import _socket as socket
import struct

from minidocker.network.netlink import Netlink, attribute, attributes

NETLINK_NETFILTER, NLM_F_DUMP = 12, 0x300
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 0x101, 0x102  # with NFNL_SUBSYS_CTNETLINK, 1, in the upper byte
CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 2, 1, 3
NLA_F_NESTED = 0x8000


def forget_udp(ports: set[int]) -> int:
    """Remove all entries of UDP packets that were sent to these ports; the next packet of each asks the rules anew.

    Returns how many there were. One that has ended meanwhile is no error.
    """
    count = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        head = struct.pack("=BBH", family, 0, 0)
        with Netlink(NETLINK_NETFILTER) as kernel:
            entries = kernel.dump(("list connections", IPCTNL_MSG_CT_GET, NLM_F_DUMP, head))
        with Netlink(NETLINK_NETFILTER) as kernel:
            for original in [attributes(entry[4:])[CTA_TUPLE_ORIG] for entry in entries]:
                if _udp_port(original) in ports:
                    body = head + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, original)
                    try:
                        kernel.do(("forget a connection", IPCTNL_MSG_CT_DELETE, 0, body))
                        count += 1
                    except FileNotFoundError:
                        pass
    return count


def _udp_port(original: bytes) -> int:
    """To which port the first packet was sent; 0 if it was not UDP."""
    protocol = attributes(attributes(original)[CTA_TUPLE_PROTO])
    if protocol[CTA_PROTO_NUM][0] != socket.IPPROTO_UDP:
        return 0
    return int.from_bytes(protocol[CTA_PROTO_DST_PORT], "big")

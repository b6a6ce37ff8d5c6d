"""Exercise 3: a message that the chapter does not have."""

import struct

from minidocker.network.netlink import IFLA_IFNAME, RTM_NEWLINK, Netlink, attribute

IFLA_MTU = 4  # <linux/if_link.h>


def set_mtu(name, mtu):
    """RTM_NEWLINK without NLM_F_CREATE changes an interface that is there; its name is an attribute like the others."""
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, mtu)
    with Netlink() as kernel:
        kernel.do((f"set mtu of {name}", RTM_NEWLINK, 0, body))

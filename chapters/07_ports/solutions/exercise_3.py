"""Exercise 3: netlink by hand."""

import os
import socket
import struct

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>
NLM_F_REQUEST, NLM_F_ACK, RTM_NEWLINK = 1, 4, 16
IFLA_IFNAME, IFLA_MTU = 3, 4


def attribute(kind, value):
    """Length, number, value, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def set_mtu(name, mtu):
    """RTM_NEWLINK without NLM_F_CREATE changes an interface that is there; its name is an attribute like the others."""
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)  # struct ifinfomsg: the attributes say which interface
    body += attribute(IFLA_IFNAME, name.encode() + b"\0") + attribute(IFLA_MTU, struct.pack("=I", mtu))
    head = struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(head + body)
        (code,) = struct.unpack_from("=i", kernel.recv(4096), 16)  # struct nlmsgerr: -errno, or 0
    if code:
        raise OSError(-code, os.strerror(-code), name)

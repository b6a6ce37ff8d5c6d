"""Chapter 7: netlink, the language in which the kernel is told of interfaces, addresses, routes and queues.

    with Netlink() as kernel:
        kernel.do(bridge("md-web", mac), address("md-web", "10.77.0.1", 22), up("md-web"))

ip(8) and tc(8) speak it, too. A message is a header, a fixed structure and attributes, netlink(7) and rtnetlink(7); an
attribute is a length, a number, and a value, which may be more attributes. Several messages go in one system call; the
kernel obeys them in order and answers each with an errno. A socket speaks of the network namespace it was made in.
"""

from __future__ import annotations

import _socket as socket  # the C half of `socket`: its other half takes 5 ms to import
import errno
import os
import struct

from minidocker.syscalls import error

# <linux/netlink.h>, <linux/rtnetlink.h>
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWQDISC = 16, 17, 20, 24, 36
NEW = NLM_F_CREATE | NLM_F_EXCL
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1
RTA_GATEWAY, RTA_OIF = 5, 4

# <linux/if_link.h>, <linux/if_addr.h>, <linux/veth.h>
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID = 1, 3, 10, 18, 19
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, VETH_INFO_PEER, IFF_UP = 4, 1, 1
IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 1, 2, 2

TYPE_CHECKING = False
if TYPE_CHECKING:
    Message = tuple[str, int, int, bytes]  # what it asks for in words, its type, its flags, its body


class Netlink:
    """A socket to a part of the kernel, in the caller's network namespace. To change things takes CAP_NET_ADMIN.

    Used on the host side, and by the new process inside. Close it, or use it as a context manager.
    """

    def __init__(self, part: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, part)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def do(self, *messages: Message) -> None:
        """Send the messages at once; raise `OSError`, with the words of the first that was refused as its path."""
        self._socket.send(b"".join(_packed(number, *message) for number, message in enumerate(messages)))
        answers: dict[int, int] = {}
        while len(answers) < len(messages):
            answers.update(_answers(self._socket.recv(1 << 16)))
        for number, (words, *_) in enumerate(messages):
            if answers[number]:
                raise error("netlink", answers[number], words)

    def dump(self, message: Message) -> list[bytes]:
        """Ask for a list: the bodies of its entries, each with the structure that its type begins with."""
        self._socket.send(_packed(0, *message))
        found: list[bytes] = []
        while True:
            for kind, body in _split(self._socket.recv(1 << 16)):
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return found
                found.append(body)

    def remove(self, name: str) -> None:
        """Remove an interface, if it is there: one of a namespace that ends may go at any moment."""
        try:
            self.do(delete(name))
        except OSError as gone:
            if gone.errno != errno.ENODEV:
                raise


def _packed(number: int, _words: str, kind: int, flags: int, body: bytes) -> bytes:
    """A message with its header: length, type, flags, a number that comes back in the answer, and 0 for the kernel."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, number, 0) + body


def _split(data: bytes) -> list[tuple[int, bytes]]:
    """The type and the body of each message in what was received."""
    found = []
    while data:
        length, kind = struct.unpack_from("=IH", data)
        found.append((kind, data[16:length]))
        data = data[(length + 3) & ~3 :]
    return found


def _answers(data: bytes) -> dict[int, int]:
    """What the kernel says: the number of each message that it answers, and the errno; 0 is success."""
    # struct nlmsgerr: the errno, negative, and the header of the message
    errors = [struct.unpack_from("=iIHHI", body) for kind, body in _split(data) if kind == NLMSG_ERROR]
    return {number: -code for code, _, _, _, number in errors}


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute: text ends with a NUL, a number has 32 bits, bytes are taken as they are; padded to 4 bytes."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The other way round: {number: value}. The two upper bits of a number say only what the value is like."""
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _link(flags: int, index: int = 0) -> bytes:
    """struct ifinfomsg: which interface (0: the attributes name it), its flags, and which of them are to change."""
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def bridge(name: str, mac: bytes) -> Message:
    """Make a bridge, a switch in software, still off: `ip link add`. Its own address does not depend on its ports."""
    kind = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "bridge"))
    body = _link(0) + attribute(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac) + kind
    return f"add bridge {name}", RTM_NEWLINK, NEW, body


def veth(name: str, master: str, peer: str, mac: bytes, pid: int) -> Message:
    """Make a pair of interfaces, veth(4): one end a port of the bridge `master`, the other in the process's namespace.

    All in one message, so there is never an end in the wrong place that somebody would have to remove.
    """
    end = _link(0) + attribute(IFLA_IFNAME, peer) + attribute(IFLA_ADDRESS, mac) + attribute(IFLA_NET_NS_PID, pid)
    data = attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, end))
    info = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "veth") + data)
    port = attribute(IFLA_IFNAME, name) + attribute(IFLA_MASTER, index_of(master))
    return f"add veth {name} to {master}", RTM_NEWLINK, NEW, _link(IFF_UP) + port + info


def hairpin(name: str) -> Message:
    """Let a port of a bridge get back what came in through it: a container that calls its own published port."""
    mode = attribute(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, b"\1"))
    info = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_SLAVE_KIND, "bridge") + mode)
    return f"set hairpin on {name}", RTM_NEWLINK, 0, _link(0) + attribute(IFLA_IFNAME, name) + info


def up(name: str) -> Message:
    """Switch an interface on: `ip link set NAME up`."""
    return f"set {name} up", RTM_NEWLINK, 0, _link(IFF_UP) + attribute(IFLA_IFNAME, name)


def delete(name: str) -> Message:
    """Remove an interface: `ip link del`. A pair goes as a whole. Costs 17 to 30 ms: who can, lets a namespace end."""
    return f"delete {name}", RTM_DELLINK, 0, _link(0) + attribute(IFLA_IFNAME, name)


def address(name: str, text: str, prefix: int) -> Message:
    """Give an interface an IPv4 or IPv6 address: `ip addr add`.

    IPv6 would first ask the network whether somebody has it already (IFA_F_NODAD: don't): our pool knows.
    """
    family, packed = parse_address(text)
    body = struct.pack("=BBBBI", family, prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE, index_of(name))
    return (
        f"add address {text} to {name}",
        RTM_NEWADDR,
        NEW,
        body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed),
    )


def default_route(gateway: str, name: str) -> Message:
    """Send to the gateway what is for nobody nearer: `ip route add default via`."""
    family, packed = parse_address(gateway)
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body += attribute(RTA_GATEWAY, packed) + attribute(RTA_OIF, index_of(name))
    return f"add default route via {gateway}", RTM_NEWROUTE, NEW, body


def parse_address(text: str) -> tuple[int, bytes]:
    """The family and the bytes of an address; `OSError` for what is none."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return int(family), socket.inet_pton(family, text)


def index_of(name: str) -> int:
    """The number of an interface in this network namespace; `OSError` if there is none of this name."""
    try:
        return socket.if_nametoindex(name)
    except OSError as gone:
        raise error("if_nametoindex", gone.errno or 0, name) from None


def exists(name: str) -> bool:
    """Whether there is an interface of this name."""
    try:
        return index_of(name) > 0
    except OSError:
        return False


def thread_file(path: str) -> str:
    """A file of /proc that speaks of the network namespace of this thread, where /proc/self means the first thread."""
    return os.path.join("/proc/thread-self", path)

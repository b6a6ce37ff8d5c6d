"""Chapter 7: bandwidth, a limit beside CPU, memory and block I/O: a token bucket filter, tc-tbf(8), made by netlink.

Tokens, one for each byte, drip into a bucket at the rate; a packet leaves when there are as many as it is long, waits
in a queue until then, and is dropped if the queue is full. Only what *leaves* an interface can be made to wait. So what
the container receives is limited at the host's end of the pair of interfaces, and what it sends at its own end. There
root could take the limit away again: then the firewall drops what is too much (`policed`), which is less gentle.
"""

from __future__ import annotations

import struct

from minidocker.network.netlink import NEW, RTM_NEWQDISC, attribute, index_of
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidocker.network.netlink import Message

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}  # networks count in powers of ten, and in bits

# <linux/pkt_sched.h>, <linux/rtnetlink.h>
TC_H_ROOT, TCA_KIND, TCA_OPTIONS = 0xFFFFFFFF, 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_LINKLAYER_ETHERNET = 1

LATENCY = 0.05  # seconds that a packet may wait in the queue
BURST = 0.01  # seconds of traffic that may pass at once after a pause
LEAST_BURST = 32 << 10  # bytes: a packet longer than the bucket could never pass


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


def limit(interface: str, rate: int) -> Message:
    """Let no more than `rate` bits per second leave the interface: `tc qdisc add dev NAME root tbf rate ...`.

    The rate counts whole frames, so a little more than the program sends.
    """
    rate = rate // 8
    burst = max(int(rate * BURST), LEAST_BURST)
    queue = burst + int(rate * LATENCY)
    # struct tc_ratespec twice, the rate and no peak rate; then the queue, and what TCA_TBF_BURST says better
    speed = struct.pack("=BBHhHI", 0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    options = attribute(TCA_TBF_PARMS, speed + bytes(12) + struct.pack("=III", queue, 0, 0))
    options += attribute(TCA_TBF_BURST, burst) + attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    body = struct.pack("=BxxxiIII", 0, index_of(interface), 0, TC_H_ROOT, 0)
    body += attribute(TCA_KIND, "tbf") + attribute(TCA_OPTIONS, options)
    return f"limit {interface}", RTM_NEWQDISC, NEW, body

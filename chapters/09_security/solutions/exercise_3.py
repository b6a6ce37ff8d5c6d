"""Exercise 3: a filter by hand."""

import os
import struct

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[os.uname().machine]  # <linux/audit.h>
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000  # <linux/seccomp.h>: SECCOMP_RET_...


def program(number, error):
    """The architecture comes first: the same number is another call in another one."""
    instructions = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, ARCHITECTURE),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 1, number),
        (RETURN, 0, 0, ERRNO | error),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)

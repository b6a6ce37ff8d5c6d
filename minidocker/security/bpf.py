"""Chapter 9: from a profile in Docker's format to the program that the kernel runs before each system call.

    code = compiled("seccomp.json", capabilities(), os.uname())

Classic BPF, seccomp(2): one register of 32 bits, jumps forward, and at the end an action. The number of the call is
found by bisection. For calls that are always allowed the kernel notes that, and does not run the program again.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
from collections.abc import Iterator
from typing import Any

from minidocker.outcome import ContainerError
from minidocker.security.capabilities import NAMES

ARCHES = {"x86_64": ("amd64", 0xC000003E), "aarch64": ("arm64", 0xC00000B7)}  # Docker's name, and <linux/audit.h>'s
ALLOW, TRACE, ERRNO, KILL = 0x7FFF0000, 0x7FF00000, 0x50000, 0x80000000  # <linux/seccomp.h>
ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_TRACE": TRACE, "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRAP": 0x30000, "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": KILL,
}  # fmt: skip
LD, AND, JA, JEQ, JGT, JGE, RET = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06  # <linux/bpf_common.h>
OPERATORS = {  # how to compare, and whether that is asked, or its opposite
    "SCMP_CMP_EQ": (JEQ, True), "SCMP_CMP_NE": (JEQ, False), "SCMP_CMP_MASKED_EQ": (JEQ, True),
    "SCMP_CMP_GT": (JGT, True), "SCMP_CMP_LE": (JGT, False), "SCMP_CMP_GE": (JGE, True), "SCMP_CMP_LT": (JGE, False),
}  # fmt: skip
NOSYS = [(RET, 0, 0, ERRNO | 38)]
Code = list[tuple[int, int, int, int]]  # operation, jump if true, jump if false, operand


def compiled(path: str, kept: frozenset[int], kernel: os.uname_result) -> bytes:
    """Nothing where the kernel has no filters, or we have no numbers of its calls. The file may be anything."""
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        return assembled(file.read(1 << 20), kept, kernel, f"seccomp={path}")


def assembled(text: str | bytes, kept: frozenset[int], kernel: os.uname_result, what: str) -> bytes:
    """The same, of a profile that is read already."""
    if kernel.machine not in ARCHES or not os.path.exists("/proc/sys/kernel/seccomp"):
        return b""
    try:
        code = _program(json.loads(text), kept, kernel)
        if len(code) > 4096:
            raise ValueError(f"it takes {len(code)} instructions, and the kernel takes 4096")
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError, struct.error) as wrong:
        why = wrong if isinstance(wrong, KeyError | ValueError) else "a part of it is of another kind"
        raise ContainerError(f"{what}: missing, unknown, or not in Docker's format: {why}") from None


def _program(profile: dict[str, Any], kept: frozenset[int], kernel: os.uname_result) -> Code:
    """A rule without arguments wins over those with, as in libseccomp.

    A call is ENOSYS, and programs do without it, if it is younger than all of the profile's, as in runc, or of x32. A
    program of 32 bits would have other numbers: it is killed. Docker lets it run.
    """
    arch, audit = ARCHES[kernel.machine]
    with open(f"{os.path.dirname(__file__)}/numbers.json") as file:
        numbers = json.load(file)[arch]
    default, calls = _action(profile["defaultAction"], profile.get("defaultErrnoRet")), dict[int, Code]()
    for rule in sorted(profile.get("syscalls") or [], key=lambda rule: bool(rule.get("args"))):
        wanted, unwanted = (_conditions(rule.get(key) or {}, arch, kept, kernel) for key in ("includes", "excludes"))
        if all(wanted) and not any(unwanted):
            code = _rule(rule, default)
            for name in {*rule["names"]} & {*numbers}:
                calls[numbers[name]] = calls.get(numbers[name], []) + code
    end, otherwise = max(calls, default=-1) + 1, [(RET, 0, 0, default)]
    alike = itertools.groupby(range(end), lambda number: calls.get(number, []) + otherwise)
    spans = [*((next(group), code) for code, group in alike), (end, otherwise if TRACE <= default <= ALLOW else NOSYS)]
    return [(LD, 0, 0, 4), (JEQ, 1, 0, audit), (RET, 0, 0, KILL), (LD, 0, 0, 0), *_bisected([*spans, (1 << 30, NOSYS)])]


def _action(name: str, errno: int | None) -> int:
    """What a program returns. An errno that the profile does not name is EPERM."""
    return ACTIONS[name] | (range(4096)[1 if errno is None else errno] if ACTIONS[name] in (ERRNO, TRACE) else 0)


def _conditions(part: dict[str, Any], arch: str, kept: frozenset[int], kernel: os.uname_result) -> Iterator[bool]:
    """Docker's, which say for whom a rule is."""
    for name in part.get("caps") or ():
        yield name in {f"CAP_{NAMES[number]}" for number in kept if number < len(NAMES)}
    if part.get("arches"):
        yield arch in part["arches"]
    if part.get("minKernel"):
        here, least = ([*map(int, re.findall(r"\d+", text)[:2])] for text in (kernel.release, part["minKernel"]))
        yield here >= least


def _rule(rule: dict[str, Any], default: int) -> Code:
    """All arguments have to fit. Of several conditions on one argument one is enough, as in runc."""
    action, args, code = _action(rule["action"], rule.get("errnoRet")), rule.get("args") or [], Code()
    alternatives = [args] if len({arg["index"] for arg in args}) == len(args) else [[arg] for arg in args]
    for fitting in alternatives if action != default else []:
        test: Code = [(RET, 0, 0, action)]
        for arg in reversed(fitting):
            test = _fits(arg, len(test)) + test
        code += test
    return code


def _fits(arg: dict[str, Any], skip: int) -> Code:
    """Go on after these seven, or `skip` further. An argument has 64 bits: the upper ones decide, or the others."""
    compare, asked = OPERATORS[arg["op"]]
    place, value, mask = 16 + 8 * range(6)[arg["index"]], arg["value"], 2**64 - 1
    if arg["op"] == "SCMP_CMP_MASKED_EQ":
        value, mask = arg.get("valueTwo", 0), value
    yes, no = (0, skip) if asked else (skip, 0)
    return [
        (LD, 0, 0, place + 4),
        (AND, 0, 0, mask >> 32),
        (JGT, 4 + (no if compare == JEQ else yes), 0, value >> 32),
        (JEQ, 0, 3 + no, value >> 32),
        (LD, 0, 0, place),
        (AND, 0, 0, mask & 0xFFFFFFFF),
        (compare, yes, no, value & 0xFFFFFFFF),
    ]


def _bisected(spans: list[tuple[int, Code]]) -> Code:
    """Each span begins with a number; what to do with those from there on."""
    if len(spans) == 1:
        return spans[0][1]
    half = len(spans) // 2
    low, high = _bisected(spans[:half]), _bisected(spans[half:])
    return [(JGE, 0, 1, spans[half][0]), (JA, 0, 0, len(low)), *low, *high]

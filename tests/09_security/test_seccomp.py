"""The filter of system calls: the program judged by an interpreter and by libseccomp's, and the calls that it stops."""

import ctypes
import ctypes.util
import errno
import json
import os
import struct
import subprocess
import types
from functools import partial

import pytest

from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.security.bpf import compiled
from minidocker.security.capabilities import NAMES, capabilities
from minidocker.security.seccomp import HERE, Seccomp
from minidocker.syscalls import call
from tests.helpers import HOME, both_ways, need
from tests.helpers.images import minidocker

pytestmark = [
    pytest.mark.chapter(9),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root"),
]

DEFAULT = f"{HERE}/seccomp.json"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM, X32 = 0x40000003, 0x40000028, 1 << 30
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
with open(f"{HERE}/numbers.json") as _file:
    _table = json.load(_file)
NUMBERS = {"x86_64": _table["amd64"], "aarch64": _table["arm64"]}
both = pytest.mark.parametrize("machine", [*AUDIT])


def program(path=DEFAULT, kept=None, machine="x86_64", release="6.18.44-fc"):
    kernel = types.SimpleNamespace(machine=machine, release=release)
    return compiled(str(path), frozenset(capabilities() if kept is None else kept), kernel)


def judged(code, number, *arguments, arch=AUDIT["x86_64"]):
    """What the kernel would do, by an interpreter of the few instructions, on a struct seccomp_data."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = [*struct.iter_unpack("=HBBI", code)]
    at = value = 0
    while True:
        operation, true, false, operand = instructions[at]
        at += 1
        match operation:
            case 0x20:
                value = struct.unpack_from("=I", data, operand)[0]
            case 0x54:
                value &= operand
            case 0x05:
                at += operand
            case 0x06:
                return operand
            case _:
                compared = {0x15: value == operand, 0x25: value > operand, 0x35: value >= operand}
                at += true if compared[operation] else false


def outcome(name, *arguments, add=(), machine="x86_64", path=DEFAULT):
    code = program(path, capabilities(add), machine)
    return judged(code, NUMBERS[machine][name], *arguments, arch=AUDIT[machine])


@both
@pytest.mark.parametrize(
    ("name", "arguments", "add", "wanted"),
    [
        ("read", (), (), ALLOW),
        ("ptrace", (), (), ALLOW),  # since Linux 4.8 it cannot be used to go past a filter
        ("keyctl", (), (), EPERM),
        ("keyctl", (), ("ALL",), EPERM),  # in no rule
        ("io_uring_setup", (), ("ALL",), EPERM),
        ("clone", (0x11,), (), ALLOW),
        ("clone", (0x7C020000 & 0x10000000 | 0x11,), (), EPERM),
        ("clone", (0x10000000 | 0x11,), ("SYS_ADMIN",), ALLOW),
        ("clone3", (), (), ENOSYS),  # its flags lie in memory, where no filter sees them
        ("clone3", (), ("SYS_ADMIN",), ALLOW),
        ("mount", (), (), EPERM),
        ("mount", (), ("SYS_ADMIN",), ALLOW),
        ("process_madvise", (), (), EPERM),
        ("process_madvise", (), ("SYS_PTRACE",), ALLOW),
        ("init_module", (), ("SYS_ADMIN",), EPERM),
        ("init_module", (), ("SYS_MODULE",), ALLOW),
        ("bpf", (), ("BPF",), ALLOW),
        ("syslog", (), ("SYSLOG",), ALLOW),
        ("clock_settime", (), ("SYS_TIME",), ALLOW),
        ("open_by_handle_at", (), (), EPERM),
        ("open_by_handle_at", (), ("DAC_READ_SEARCH",), ALLOW),
        ("personality", (0,), (), ALLOW),
        ("personality", (8,), (), ALLOW),
        ("personality", (0x0400000,), (), EPERM),  # READ_IMPLIES_EXEC
        ("personality", (0xFFFFFFFF,), (), ALLOW),
        ("personality", (8 + (1 << 32),), (), EPERM),  # all 64 bits are compared
        ("socket", (2,), (), ALLOW),
        ("socket", (11,), (), ALLOW),
        ("socket", (12,), (), EPERM),
        ("socket", (17,), (), ALLOW),
        ("socket", (38,), ("ALL",), EPERM),  # AF_ALG
        ("socket", (40,), ("ALL",), EPERM),  # AF_VSOCK: a virtual machine's host
        ("socket", (2 + (1 << 32),), (), EPERM),
    ],
)
def test_each_part_of_dockers_list(machine, name, arguments, add, wanted):
    assert outcome(name, *arguments, add=add, machine=machine) == wanted


@both
def test_entries_for_other_programs_are_closed(machine):
    """i386's and ARM's calls, and x32's, which would go past a filter that only knows the numbers of 64 bits."""
    code, arch = program(machine=machine), AUDIT[machine]
    assert judged(code, 3, arch=I386) == judged(code, 3, arch=ARM) == KILL
    assert {judged(code, X32 + number, arch=arch) for number in range(600)} == {ENOSYS}
    assert judged(code, 2**32 - 1, arch=arch) == ENOSYS
    youngest = max(NUMBERS[machine][name] for name in ("removexattrat", "lsm_list_modules"))
    assert judged(code, youngest, arch=arch) == ALLOW
    assert judged(code, youngest + 1, arch=arch) == ENOSYS  # glibc would take an EPERM for an answer


def write(path, **profile):
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO"} | profile))
    return path


def test_a_list_of_what_is_forbidden_does_not_let_x32_past(tmp_path):
    rule = {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    code = program(write(tmp_path / "p", defaultAction="SCMP_ACT_ALLOW", syscalls=[rule]))
    mount = NUMBERS["x86_64"]["mount"]
    assert (judged(code, mount), judged(code, 0), judged(code, 468)) == (0x5000D, ALLOW, ALLOW)
    assert (judged(code, X32 + mount), judged(code, X32)) == (ENOSYS, ENOSYS)


BIG = 1 << 40


@pytest.mark.parametrize(
    ("op", "holds"),
    [
        ("EQ", lambda argument, value: argument == value),
        ("NE", lambda argument, value: argument != value),
        ("GT", lambda argument, value: argument > value),
        ("GE", lambda argument, value: argument >= value),
        ("LT", lambda argument, value: argument < value),
        ("LE", lambda argument, value: argument <= value),
    ],
)
def test_comparisons_are_of_64_bits_without_a_sign(tmp_path, op, holds):
    points = [0, 1, 7, 8, 9, 2**32 - 1, 2**32, 2**32 + 7, BIG, BIG + 8, BIG - 1, 2**64 - 1]
    for value in points:
        arg = {"index": 2, "value": value, "op": f"SCMP_CMP_{op}"}
        code = program(write(tmp_path / "p", syscalls=[{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg]}]))
        for argument in points:
            assert (judged(code, 0, 0, 0, argument) == ALLOW) == holds(argument, value), (op, argument, value)


def rule(name, action, *args, **more):
    keys = ("index", "value", "op", "valueTwo")
    spelled = [dict(zip(keys, (at, value, f"SCMP_CMP_{op}", *rest), strict=False)) for at, value, op, *rest in args]
    return {"names": [name], "action": f"SCMP_ACT_{action}", "args": spelled} | more


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


ACTIONS = {"ALLOW": ALLOW, "ERRNO": 0x50000, "KILL_PROCESS": KILL, "LOG": 0x7FFC0000, "TRAP": 0x30000}
OPS = ["", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]


@pytest.fixture(scope="module")
def libseccomp():
    need(name := ctypes.util.find_library("seccomp"), "needs libseccomp")
    library = ctypes.CDLL(name)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


def theirs(library, profile, caps, machine="x86_64"):
    """The same profile as runc gives it to libseccomp: its program, to be run by our interpreter."""

    def action(word, number):
        code = ACTIONS[word.removeprefix("SCMP_ACT_")]
        return code | (number or 1) if code == 0x50000 else code

    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint(default)))
    library.seccomp_arch_add(context, ctypes.c_uint(AUDIT[machine]))
    for other in {*AUDIT.values()} - {AUDIT[machine]}:
        library.seccomp_arch_remove(context, ctypes.c_uint(other))
    for one in profile["syscalls"]:
        yes, no = one.get("includes", {}), one.get("excludes", {})
        if not {*yes.get("caps", ())} <= caps or {*no.get("caps", ())} & caps:
            continue
        arch = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
        if arch not in yes.get("arches", [arch]) or action(one["action"], one.get("errnoRet")) == default:
            continue
        args = one.get("args") or []
        parts = [args] if len({arg["index"] for arg in args}) == len(args) else [[arg] for arg in args]
        for name in one["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())  # this machine's; it translates them
            for part in parts if number != -1 else ():
                array = (Comparison * len(part))(
                    *((arg["index"], OPS.index(arg["op"][9:]), arg["value"], arg.get("valueTwo", 0)) for arg in part)
                )
                library.seccomp_rule_add_array(
                    context, ctypes.c_uint(action(one["action"], one.get("errnoRet"))), number, len(part), array
                )
    file = os.memfd_create("theirs")
    try:
        assert library.seccomp_export_bpf(context, file) == 0
        return os.pread(file, 1 << 20, 0)
    finally:
        os.close(file)
        library.seccomp_release(context)


@both
@pytest.mark.parametrize("add", [(), ("SYS_ADMIN", "SYS_PTRACE"), ("ALL",)])
def test_libseccomp_makes_the_same_of_dockers_list(libseccomp, add, machine):
    """Call by call, with arguments that matter; but for calls that this libseccomp does not know yet."""
    kept = capabilities(add)
    with open(DEFAULT) as file:
        profile = json.load(file)
    caps = {f"CAP_{name}" for number, name in enumerate(NAMES) if number in kept}
    ours, other = program(kept=kept, machine=machine), theirs(libseccomp, profile, caps, machine)
    compared = 0
    for name, number in NUMBERS[machine].items():
        if libseccomp.seccomp_syscall_resolve_name_arch(AUDIT[machine], name.encode()) != number:
            continue
        compared += 1
        for value in (0, 1, 8, 11, 12, 16, 17, 38, 39, 40, 0x11, 0x20000, 0x10000011, 0xFFFFFFFF, 1 << 32):
            found = [judged(code, number, value, arch=AUDIT[machine]) for code in (ours, other)]
            assert found[0] == found[1], (name, hex(value))
    assert compared > 300


@pytest.mark.parametrize(
    "rules",
    [
        [rule("socket", "ERRNO", (0, 5, "EQ"), errnoRet=2), rule("socket", "ALLOW")],
        [rule("socket", "ALLOW"), rule("socket", "ERRNO", (0, 5, "EQ"), errnoRet=2)],
        [rule("socket", "ALLOW", (0, 5, "EQ")), rule("socket", "ERRNO")],  # the second is the default again
        [rule("socket", "ALLOW", (0, 5, "GT"), (0, 9, "LT"))],  # one argument twice: either is enough
        [rule("socket", "ALLOW", (0, 5, "GT"), (1, 9, "LT"))],
        [rule("socket", "LOG", (0, 6, "MASKED_EQ", 4)), rule("socket", "TRAP", (0, 6, "MASKED_EQ", 2), (1, 3, "NE"))],
    ],
)
def test_libseccomp_makes_the_same_of_rules_that_meet(libseccomp, tmp_path, rules):
    path = write(tmp_path / "p", syscalls=rules)
    ours, other = program(path), theirs(libseccomp, json.loads(path.read_text()), set())
    for first in range(12):
        for second in (3, 8, 9, 10):
            assert judged(ours, 41, first, second) == judged(other, 41, first, second), (first, second)


@both
def test_numbers_are_libseccomps(libseccomp, machine):
    """Both ways: each name that both know, and no name of libseccomp's that we do not know."""
    for name, number in NUMBERS[machine].items():
        known = libseccomp.seccomp_syscall_resolve_name_arch(AUDIT[machine], name.encode())
        assert known in (number, -1) or known < 0, name
    found = (libseccomp.seccomp_syscall_resolve_num_arch(AUDIT[machine], number) for number in range(470))
    names = {ctypes.string_at(one).decode() for one in found if one}
    assert names <= {*NUMBERS[machine]}


def test_a_narrow_filter_need_know_no_call_of_sockets_and_what_it_lacks_is_named(tmp_path):
    """What a static program, and the steps before it, need; and without one of these calls."""
    names = (
        "execve exit_group brk arch_prctl mmap mprotect munmap read write close openat openat2 fstat newfstatat lseek"
    )
    names += " stat fcntl ioctl capset prctl setgroups setresuid setresgid setuid setgid getuid chdir fchdir fchown"
    names += (
        " rt_sigaction rt_sigprocmask rt_sigreturn set_tid_address set_robust_list prlimit64 rseq getrandom readlink"
    )
    names += " getcwd futex readlinkat faccessat2 mkdir mkdirat fchmodat statx"
    allowed = [{"names": names.split(), "action": "SCMP_ACT_ALLOW"}]
    path = write(tmp_path / "p.json", syscalls=allowed)
    words = ["run", "--rm", "--security-opt", f"seccomp={path}", "busybox", "echo", "hi"]
    assert minidocker(HOME, *words).stdout == "hi\n"
    allowed[0]["names"].remove("capset")
    write(path, syscalls=allowed)
    assert minidocker(HOME, *words).stderr == "minidocker: capset: Operation not permitted\n"


def test_a_filter_that_is_too_narrow_is_named_as_what_it_may_be(tmp_path):
    path = write(tmp_path / "p.json", syscalls=[{"names": ["exit_group"], "action": "SCMP_ACT_ALLOW"}])
    assert "a narrow filter" in refused(path)


def refused(path, *flags):
    shown = minidocker(HOME, "run", "--rm", *flags, "--security-opt", f"seccomp={path}", "busybox", "true")
    assert shown.returncode == 125 and shown.stderr.count("\n") == 1, shown
    return shown.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[]", "of another kind"),
        ("{}", "defaultAction"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "SCMP_ACT_NOTIFY"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65537}', ""),
        ('{"defaultAction": 7}', "7"),
        ("[" * 200_000, ""),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 3}', ""),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}', "action"),
        (json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (6, 0, "EQ"))]}), ""),
        (json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (0, -1, "EQ"))]}), ""),
        (json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (0, 0, "IS"))]}), "_IS"),
        (
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [rule("read", "ALLOW", (0, number, "EQ")) for number in range(600)],
                }
            ),
            "4096",
        ),
    ],
)
def test_a_profile_that_is_none_is_one_line(tmp_path, text, said):
    (tmp_path / "p.json").write_text(text)
    assert said in refused(tmp_path / "p.json")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/dev/zero"])
def test_a_file_that_is_none_is_one_line(path):
    assert path in refused(path)


def test_a_fifo_does_not_make_us_wait(tmp_path):
    os.mkfifo(tmp_path / "p")
    refused(tmp_path / "p")


def test_an_unknown_call_is_left_out(tmp_path):
    """As in Docker: a profile may know more calls than we do."""
    names = ["read", "no_such_call", "chown32"]
    code = program(write(tmp_path / "p", syscalls=[{"names": names, "action": "SCMP_ACT_ALLOW"}]))
    assert (judged(code, 0), judged(code, 1)) == (ALLOW, ENOSYS)


def test_what_was_compiled_is_kept_and_made_anew_for_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(tmp_path))
    (tmp_path / "ready").mkdir()
    first = Seccomp(capabilities()).__enter__().program
    assert len(os.listdir(tmp_path / "ready")) == 1
    monkeypatch.setattr("minidocker.security.seccomp._compiled", lambda *_: b"anew")
    assert Seccomp(capabilities()).__enter__().program == first
    assert Seccomp(capabilities(["SYS_ADMIN"])).__enter__().program == b"anew"
    profile = write(tmp_path / "p.json", syscalls=[])
    assert Seccomp(capabilities(), str(profile)).__enter__().program == b"anew"
    assert Seccomp(capabilities(), "unconfined").__enter__().program == b""


def test_a_machine_that_we_know_no_numbers_of(monkeypatch, tmp_path):
    """It goes without a filter, and says so; but not if one was asked for."""
    assert program(machine="riscv64") == b""
    monkeypatch.setattr("minidocker.security.seccomp._compiled", lambda *_: b"")
    monkeypatch.setenv("MINIDOCKER_HOME", str(tmp_path))
    assert Seccomp(capabilities()).__enter__().warnings
    with pytest.raises(Exception, match=r"seccomp=/etc/passwd: .*filter"):
        Seccomp(capabilities(), "/etc/passwd").__enter__()


def failed(number, *walls):
    """The errno of a system call with two zeros, or 0."""
    try:
        return run(partial(call, "syscall", number, 0, 0), *walls).exit_code
    except ContainerError as refused:
        return refused.errno


@both_ways
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are amd64's")
@pytest.mark.parametrize(
    ("number", "wanted"),
    [(165, errno.EPERM), (435, errno.ENOSYS), (500, errno.ENOSYS), (X32 + 39, errno.ENOSYS), (39, 0)],
    ids=["mount", "clone3", "of the future", "x32", "getpid"],
)
def test_the_kernel_does_what_the_program_says(number, wanted):
    """By number, behind the filter alone. The kernel's own answer to the first is EFAULT, to the second EINVAL."""
    assert failed(number, Seccomp(capabilities())) == wanted
    if number in (165, 435):
        assert failed(number, Seccomp(capabilities(), "unconfined")) not in (wanted, 0)


def elf(machine_code):
    """The smallest static program of 64 bits that executes these bytes."""
    begin, size = 0x400000, 64 + 56 + len(machine_code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, begin + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, begin, begin, size, size, 4096) + machine_code


# mov eax, 20 (getpid of i386); int 0x80; then exit(7) by the calls of 64 bits
INT80 = elf(bytes.fromhex("b814000000 cd80 bf07000000 b83c000000 0f05"))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="it is a program for amd64")
@pytest.mark.parametrize(("flags", "status"), [([], 128 + 31), (["--security-opt", "seccomp=unconfined"], 7)])
def test_int_0x80_kills_and_without_the_wall_it_works(tmp_path, flags, status):
    """128 + SIGSYS. A program of 64 bits may enter by the gate of 32 bits, where numbers mean other calls."""
    (tmp_path / "int80").write_bytes(INT80)
    os.chmod(tmp_path / "int80", 0o755)
    if subprocess.run([tmp_path / "int80"]).returncode != 7:
        pytest.xfail("this kernel has no entry for programs of 32 bits")
    shown = minidocker(HOME, "run", "--rm", *flags, "-v", f"{tmp_path}:/mnt", "busybox", "/mnt/int80")
    assert shown.returncode == status

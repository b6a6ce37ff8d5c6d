"""What no namespace divides: the clock, the log, the modules of the machine; and what Docker keeps and drops."""

import ctypes
import os
import socket
import subprocess
import time

import pytest

from minidocker.images.container import container, ready
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.security.capabilities import DEFAULT, NAMES, capabilities
from tests.helpers.images import HOME, add_image, minidocker, new_store

pytestmark = [
    pytest.mark.chapter(9),
    pytest.mark.skipif(os.geteuid() != 0, reason="capabilities are root's"),
]

DOCKERS = 0xA80425FB  # what a container of Docker shows
ALL = sum(1 << number for number, name in enumerate(NAMES))


def sets(home, *options, pid="self"):
    """{"Prm": ..., } of a process in a container."""
    shown = minidocker(home, "run", *options, "busybox", "grep", "Cap", f"/proc/{pid}/status")
    assert shown.returncode == 0, shown.stderr
    return {line[3:6]: int(line.split()[1], 16) for line in shown.stdout.splitlines()}


def have():
    """What this machine's root has, which may be less than all."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd"))


def test_root_has_dockers_default_and_nobody_has_nothing(home):
    root = {"Inh": 0, "Prm": DOCKERS, "Eff": DOCKERS, "Bnd": DOCKERS, "Amb": 0}
    assert sets(home) == root
    assert sets(home, "--init", pid=1) == root  # a first process of ours is no exception
    assert sets(home, "-u", "nobody") == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": DOCKERS, "Amb": 0}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--cap-add", "sys_time"], DOCKERS | 1 << NAMES.index("SYS_TIME")),
        (["--cap-add", "CAP_SYS_TIME", "--cap-drop", "Cap_Chown"], DOCKERS & ~1 | 1 << NAMES.index("SYS_TIME")),
        (["--cap-drop", "all"], 0),
        (["--cap-drop", "ALL", "--cap-add", "KILL"], 1 << NAMES.index("KILL")),
        (["--cap-add", "ALL", "--cap-drop", "MKNOD"], ALL & ~(1 << NAMES.index("MKNOD"))),
        (["--cap-add", "mknod", "--cap-drop", "mknod"], DOCKERS),  # what is added comes last
        (["--privileged"], ALL),
        (["--privileged", "--cap-drop", "ALL"], ALL),
    ],
)
def test_sets_are_those_of_docker(home, options, wanted):
    found = sets(home, *options)
    assert (found["Prm"], found["Eff"], found["Bnd"], found["Inh"]) == (*[wanted & have()] * 3, 0)


@pytest.mark.parametrize("option", ["--cap-add", "--cap-drop"])
def test_a_capability_that_does_not_exist(home, option):
    shown = minidocker(home, "run", "--privileged", option, "cap_nonsense", "busybox", "true")
    assert shown.returncode == 125
    assert shown.stderr == f"minidocker: {option} cap_nonsense: unknown capability: see capabilities(7)\n"
    with pytest.raises(ContainerError):
        capabilities(["CAP_ALL"])  # as in Docker, ALL is a word of its own


def test_another_user_is_possible_without_the_right_to_become_one(home):
    shown = minidocker(home, "run", "--cap-drop", "ALL", "-u", "7:8", "busybox", "id")
    assert shown.stdout == "uid=7 gid=8 groups=8\n"


LIBC = ctypes.CDLL(None, use_errno=True)


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def tried():
    """Each call that would change the machine, with what it has already, or that cannot work: its errno."""
    now = Timespec(int(time.time()), 0)
    calls = {
        "clock": lambda: LIBC.clock_settime(0, ctypes.byref(now)),
        "log": lambda: LIBC.klogctl(3, ctypes.create_string_buffer(8), 8),
        "module": lambda: LIBC.syscall(DELETE_MODULE, b"no_such_module", os.O_NONBLOCK),
        "mount": lambda: LIBC.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None),
        "reboot": lambda: LIBC.reboot(0),
    }
    for name, call in calls.items():
        print(name, ctypes.get_errno() if call() == -1 else 0)


DELETE_MODULE = {"x86_64": 176, "aarch64": 106, "i686": 129}.get(os.uname().machine, 176)


@pytest.mark.parametrize("options", [{}, {"init": True}, {"user": "nobody"}])
def test_root_in_a_container_cannot_touch_what_is_the_machines(home, options, monkeypatch):
    """Only tried where it must fail: nothing here sets a wrong time."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    _, isolators, settings = container(ready("busybox"), ["true"], **options)
    # rights are lost at the change of user and in the last isolator, so a function sees what a program would
    shown = run(tried, *isolators, **settings).stdout
    found = dict(line.split() for line in shown.splitlines())
    assert found.pop("module") in ("1", "38")  # EPERM, or a kernel without modules
    assert found == dict.fromkeys(("clock", "log", "mount", "reboot"), "1")


def test_a_program_with_file_capabilities_gets_no_more_than_the_bounding_set(home, tmp_path):
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", HOME / "roots/busybox", root], check=True)
    subprocess.run(["cp", root / "bin/busybox", root / "bin/grep2"], check=True)
    all_of_them = bytes.fromhex("01000002" + "ffffffff" + "00000000" + "ff010000" + "00000000")
    os.setxattr(root / "bin/grep2", "security.capability", all_of_them)
    add_image(new_store(home), "capable", root)
    words = ("run", "-u", "nobody", "capable", "/bin/grep2", "CapEff", "/proc/self/status")
    shown = minidocker(home, *words)
    assert shown.returncode != 0 or int(shown.stdout.split()[1], 16) & ~DOCKERS == 0


def small_port_and_ping():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 80))
        print("bound")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP):
        print("may ping")


def test_users_may_bind_small_ports_and_ping(home, monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    _, isolators, settings = container(ready("busybox"), ["true"], user="nobody")
    assert run(small_port_and_ping, *isolators, **settings).stdout == "bound\nmay ping\n"


def test_the_sysctls_of_the_host_stay_its_own(home):
    def host():
        return [
            open(f"/proc/sys/net/ipv4/{name}").read() for name in ("ip_unprivileged_port_start", "ping_group_range")
        ]

    before = host()
    shown = minidocker(home, "run", "--network", "host", "busybox", "cat", "/proc/sys/net/ipv4/ping_group_range")
    assert (shown.stdout, host()) == (before[1], before)
    minidocker(home, "run", "busybox", "true")
    assert host() == before
    assert len(DEFAULT) == 14


SWITCHES = ("sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/drop_caches", "sysrq-trigger")


@pytest.mark.parametrize("options", [(), ("--network", "host"), ("--cap-add", "ALL")])
def test_the_switches_of_the_machine_are_read_only(home, options):
    """They ask for no capability, only for user 0. Opening them changes nothing."""
    script = "for f in $0 $@; do (: >>/proc/$f) 2>/dev/null && echo $f; done; cat /proc/sys/kernel/ostype"
    shown = minidocker(home, "run", *options, "busybox", "sh", "-c", script, *SWITCHES)
    assert shown.stdout == "Linux\n"
    shown = minidocker(home, "run", "--privileged", "busybox", "sh", "-c", script, *SWITCHES[::2])
    assert shown.stdout.splitlines() == [*SWITCHES[::2], "Linux"]


@pytest.mark.parametrize("options", [(), ("--init",), ("--network", "host"), ("--cap-add", "ALL")])
def test_what_the_machine_knows_is_hidden(home, options):
    look = "cat /proc/keys /proc/interrupts /proc/timer_list; head -c 1 /proc/kcore; ls -A /sys/firmware 2>/dev/null"
    assert minidocker(home, "run", *options, "busybox", "sh", "-c", look).stdout == ""
    assert "keyring" in minidocker(home, "run", "--privileged", "busybox", "cat", "/proc/keys").stdout

"""Check an exercise of chapter 7: python chapters/07_ports/exercises/check.py NUMBER [FILE]."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker import syscalls
from minidocker.namespaces import Join, Namespaces
from minidocker.network import Network
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot

ROOT = os.path.join(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"), "roots/busybox")


def on_a_host_of_its_own(check):
    """The check runs in a network namespace that plays a host, with its own files: yours are left alone."""

    def checked(module):
        syscalls.call("unshare", syscalls.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with tempfile.TemporaryDirectory() as home:
            os.environ["MINIDOCKER_HOME"] = home
            check(module)

    return checked


@on_a_host_of_its_own
def check_1(module):
    """Both ends answer."""
    with start(["sleep", "60"], Namespaces("net")) as process:
        name = module.connect(process.pid)
        names = [name for _, name in socket.if_nameindex()]
        assert name in names, f"there is no interface {name!r} here; there are {', '.join(names)}"
        there = subprocess.run(["busybox", "ping", "-c1", "-W2", "10.1.1.2"], capture_output=True)
        assert there.returncode == 0, "10.1.1.2 does not answer: are both ends on, with a prefix of 24?"
        back = run(["busybox", "ping", "-c1", "-W2", "10.1.1.1"], Join(process.pid, "net"))
        assert back.exit_code == 0, "10.1.1.1 does not answer from inside"


@on_a_host_of_its_own
def check_2(module):
    """Two at once, each with its own answer; and the end of one side reaches the other."""
    behind, front = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    address, port = behind.getsockname()
    threading.Thread(target=echo, args=(behind,), daemon=True).start()
    threading.Thread(target=module.proxy, args=(front, address, port), daemon=True).start()
    clients = [socket.create_connection(front.getsockname(), timeout=3) for _ in range(2)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number * 100_000)
    for number, client in enumerate(clients):
        client.shutdown(socket.SHUT_WR)
        try:
            data = b"".join(iter(lambda client=client: client.recv(65536), b""))
        except TimeoutError:
            raise AssertionError("no answer, or no end of it: pass on the end of a side with shutdown") from None
        assert data == b"%d" % number * 100_000, f"{len(data)} bytes came back of 100000: are two mixed up?"


def echo(server):
    """Each connection gets back what it sends, when it has sent all."""
    while True:
        connection, _ = server.accept()
        threading.Thread(target=echo_one, args=(connection,), daemon=True).start()


def echo_one(connection):
    with connection:
        data = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(data)


@on_a_host_of_its_own
def check_3(module):
    """The kernel shows what it was told."""
    subprocess.run(["ip", "link", "add", "md-test", "type", "bridge"], check=True)
    module.set_mtu("md-test", 1400)
    shown = subprocess.run(["ip", "link", "show", "md-test"], capture_output=True, text=True).stdout
    assert "mtu 1400" in shown, f"the kernel says: {shown.splitlines()[0]}"
    with contextlib.suppress(OSError):
        module.set_mtu("nobody0", 1400)
        raise AssertionError("an interface that does not exist was no error")


@on_a_host_of_its_own
def check_4(module):
    """What was measured is true, also where the truth is another one: nobody there, and a stranger for a neighbour."""
    for serving, neighbour, truth in (
        (True, Network(), {"direct", "neighbour"}),
        (True, Namespaces("net"), {"direct"}),
        (False, Network(), set()),
    ):
        web = Network(ports=["127.0.0.1::80"], root=ROOT)
        serve = ["sh", "-c", f"{'httpd -p 80 -h /etc; ' * serving}echo ready; sleep 60"]
        with start(serve, Namespaces("pid mount"), web, PivotRoot(ROOT)) as server:
            assert next(server.lines()) == "ready"
            with start(["sleep", "60"], neighbour) as other:
                found = module.after_a_flush(web, other.pid, web.published[0].number)
                rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
        assert "minidocker" not in rules, "the rules are still there"
        case = f"{'a' if serving else 'no'} server, and {'a' if truth != {'direct'} else 'no'} neighbour in its network"
        assert found == truth, f"{case}: you found {', '.join(sorted(found)) or 'nothing'}: see the hint"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)

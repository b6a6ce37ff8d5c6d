"""Chapter 7: containers reach each other, the world reaches their published ports, and nothing of it stays.

All of it happens in network namespaces that play hosts, chapters/07_ports/hosts.py: the machine's own is left alone.
"""

import contextlib
import errno
import os
import pathlib
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hosts import SEND, SINK, counters, get, ours, real, ruleset, sysctl, until

from minidocker import network
from minidocker.images.inside import LOCALHOST
from minidocker.namespaces import Join, namespace_of
from minidocker.network import Network, links, parse_port, ports
from minidocker.process import ContainerError, run, start
from tests.helpers import HOME, REPO, both_ways, need
from tests.helpers.networks import ROOT, get_inside, idle, inside, serving, walls

pytestmark = pytest.mark.chapter(7)


# What is written: ports, subnets, rates


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("80", ["*:? -> 80/tcp"]),
        ("8080:80", ["*:8080 -> 80/tcp"]),
        ("0:80", ["*:? -> 80/tcp"]),
        ("127.0.0.1:0:80-81", ["127.0.0.1:? -> 80/tcp", "127.0.0.1:? -> 81/tcp"]),
        ("8080:80/udp", ["*:8080 -> 80/udp"]),
        ("8080:80/tcp", ["*:8080 -> 80/tcp"]),
        ("127.0.0.1:8080:80", ["127.0.0.1:8080 -> 80/tcp"]),
        ("127.0.0.1::80", ["127.0.0.1:? -> 80/tcp"]),
        ("[2001:db8::1]:8080:80", ["[2001:db8::1]:8080 -> 80/tcp"]),
        ("[::]:8080:80", ["[::]:8080 -> 80/tcp"]),
        ("8080-8081:80-81", ["*:8080 -> 80/tcp", "*:8081 -> 81/tcp"]),
        ("80-81/udp", ["*:? -> 80/udp", "*:? -> 81/udp"]),
        ("127.0.0.1:8080-8081:80-81/udp", ["127.0.0.1:8080 -> 80/udp", "127.0.0.1:8081 -> 81/udp"]),
    ],
)
def test_a_port_is_written_as_for_docker(text, meaning):
    assert [repr(port) for port in parse_port(text)] == meaning


def test_a_range_for_one_port_is_a_choice():
    (port,) = parse_port("8000-8009:80")
    assert (port.choices, port.container) == (range(8000, 8010), 80)
    assert repr(port) == "*:8000-8009 -> 80/tcp"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is no port"),
        ("http", "'http' is no port"),
        ("80:", "'' is no port"),
        (":80:", "is no address"),
        ("8080:80:", "is no address"),
        ("-1:80", "'-1' is no port"),
        ("0-5:80", "0-5 is not from 1 to 65535"),
        ("80:0", "0 is not from 1 to 65535"),
        ("80:65536", "65536 is not from 1 to 65535"),
        ("８０", "is no port"),
        ("8081-8080:80-81", "ends before it begins"),
        ("8080-8082:80-81", "3 ports of the host for 2 of the container"),
        ("8080:80-81", "1 ports of the host for 2 of the container"),
        ("8080:80/sctp", "the protocol is tcp or udp, not 'sctp'"),
        ("8080:80/", "the protocol is tcp or udp, not ''"),
        ("localhost:8080:80", "'localhost' is no address"),
        ("1.2.3:8080:80", "'1.2.3' is no address"),
        ("::1:8080:80", "is no address"),
    ],
)
def test_a_bad_port_is_refused(text, why):
    with pytest.raises(ContainerError) as refused:
        Network(ports=[text])
    assert why in str(refused.value)
    assert str(refused.value).startswith(f"Network: port {text!r}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.0/8", "10.0.0.0/31", "10.0.0.1/24", "10.0.0/24", "fd00::/64"])
def test_a_bad_subnet_is_refused(text):
    with pytest.raises(ContainerError, match="Network: subnet "):
        network.create("bad", text)


def test_all_addresses_of_a_guest_follow_from_one():
    assert links.mac_of(0x0A4D0102) == "02:6d:0a:4d:01:02"
    for number, last in ((0x0A4D0102, "4d0102"), (0x0A000001, "000001")):
        address = socket.inet_pton(socket.AF_INET6, links.ipv6(0, links.eui64_of(number)))
        assert address.hex() == f"fe80000000000000006d0afffe{last}"


@pytest.mark.parametrize(
    ("text", "rate"), [("10M", 10**7), ("10mbit", 10**7), ("500k", 500_000), ("1.5g", 1_500_000_000), (8000, 8000)]
)
def test_a_rate_is_bits_per_second(text, rate):
    assert links.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1M", "10", 0, "nan", "inf", "1e30"])
def test_a_bad_rate_is_refused(text):
    with pytest.raises(ContainerError, match="is no rate"):
        Network(egress=text)


@pytest.mark.parametrize("mode", ["none", "host", "container:1"])
def test_what_needs_a_network_of_our_own_is_refused_without_one(mode):
    for options in ({"ports": ["80"]}, {"egress": "1M"}, {"aliases": ["db"]}):
        with pytest.raises(ContainerError, match="need a network of our own"):
            Network(mode, **options)


def test_a_tool_says_what_the_kernel_refused():
    with pytest.raises(ContainerError, match='^Network: ip: Cannot find device "nobody0"$') as refused:
        links.tool("ip", "link", "del", "nobody0")
    assert (refused.value.isolator, refused.value.syscall) == ("Network", "ip")


# A network


@both_ways
def test_a_container_has_an_address_a_route_and_a_loopback_interface(host):
    net = Network(root=ROOT)
    with idle(net) as process:
        assert net.addresses[0] == "10.77.0.2"
        shown = inside(process, "ip", "-br", "addr").stdout
        assert inside(process, "ip", "route").stdout.startswith("default via 10.77.0.1 dev eth0")
        assert f"{net.addresses[0]}/22" in shown
        assert f"{net.addresses[1]}/64" in shown
        assert "127.0.0.1/8" in shown
        assert inside(process, "busybox", "ping", "-c1", "-W5", "10.77.0.1").exit_code == 0
        assert ours() == {"md-bridge", "mv0a4d0002"}
        assert namespace_of(process.pid, "net") != namespace_of("self", "net")
    assert "minidocker" not in ruleset()
    assert until(lambda: not ours())
    assert not [*pathlib.Path(os.environ["MINIDOCKER_HOME"]).glob("network/*/*")]


@both_ways
def test_containers_find_each_other_by_name_also_those_that_come_later(host):
    before = pathlib.Path(ROOT, "etc/hosts").read_text()
    with idle(Network(root=ROOT, dns=["127.0.0.1"]), "first") as first:
        with idle(Network(root=ROOT, aliases=["db", "mail.example"]), "second"):
            for name in ("second", "db", "mail.example", "first"):
                assert run(["ping", "-c1", "-W5", name], Join(first.pid)).exit_code == 0
        found = run(["cat", "/etc/hosts"], Join(first.pid)).stdout
        assert "first" in found
        assert "second" not in found
        assert "bad address" in run(["ping", "-c1", "second"], Join(first.pid)).stderr
    assert pathlib.Path(ROOT, "etc/hosts").read_text() == before


def test_the_hosts_file_is_as_docker_writes_it(host):
    """One line for each address, no padding, and nothing of those that have ended."""
    net = Network(root=ROOT, aliases=["db"])
    with idle(net, "stays") as stays:
        for _ in range(3):
            assert run(["true"], *walls(Network(root=ROOT))).exit_code == 0
        with idle(Network(root=ROOT), "short"):
            pass
        text = run(["cat", "/etc/hosts"], Join(stays.pid)).stdout
    assert text == LOCALHOST + "".join(f"{address}\tstays db\n" for address in net.addresses)


def test_a_network_that_stays_forgets_the_names_of_its_last_container(host):
    network.create("web")
    assert run(["true"], *walls(Network("web", root=ROOT, hosts=["gate:192.0.2.2"])), name="first").exit_code == 0
    shown = run(["cat", "/etc/hosts"], *walls(Network("web", root=ROOT)), name="second").stdout
    assert "second" in shown
    assert not {"first", "gate"} & {*shown.split()}
    network.remove("web")


def test_a_reader_never_sees_a_hosts_file_without_the_machine_itself(host):
    with idle(Network(root=ROOT), "reader") as reader, ThreadPoolExecutor(1, initializer=host.enter) as pool:
        script = "for i in $(seq 300); do grep -q localhost /etc/hosts && grep -q reader /etc/hosts || echo torn; done"
        read = pool.submit(run, ["sh", "-c", script], Join(reader.pid))
        while not read.done():
            assert run(["true"], *walls(Network(root=ROOT, aliases=["a" * 60]))).exit_code == 0
        assert read.result().stdout == ""


def test_a_container_may_have_lines_and_servers_of_its_own(host):
    net = Network(root=ROOT, hosts=["gate:192.0.2.2", "six:[2001:db8::2]"], dns=["192.0.2.53"])
    with idle(Network(root=ROOT), "other") as other, idle(net, "own") as own:
        with idle(Network(root=ROOT), "later"):
            words = run(["cat", "/etc/hosts"], Join(own.pid)).stdout.split()
            assert {"gate", "192.0.2.2", "six", "2001:db8::2", "other", "own", "later"} <= {*words}
        assert "later" not in run(["cat", "/etc/hosts"], Join(own.pid)).stdout
        assert run(["cat", "/etc/resolv.conf"], Join(own.pid)).stdout == "nameserver 192.0.2.53\n"
        assert "gate" not in run(["cat", "/etc/hosts"], Join(other.pid)).stdout


def test_names_and_addresses_that_are_none_are_refused():
    for options in ({"aliases": ["a b"]}, {"aliases": ["a\nb"]}, {"hosts": ["db"]}, {"hosts": ["db:nowhere"]}):
        with pytest.raises(ContainerError, match="^Network: "):
            Network(**options)


def test_a_wrong_name_server_leaves_nothing(host):
    with pytest.raises(ContainerError, match="name server 'nobody' is no address"):
        run(["true"], *walls(Network(root=ROOT, dns=["nobody"])))
    assert not ours()
    assert "minidocker" not in ruleset()


def test_a_loopback_name_server_of_the_host_is_of_no_use(host, tmp_path, monkeypatch):
    conf = tmp_path / "resolv.conf"
    monkeypatch.setattr(network, "RESOLV_CONF", (str(conf),))
    conf.write_text("# stub\nnameserver 127.0.0.53\noptions edns0\n")
    assert "nameserver" not in network.resolv_conf([])
    conf.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch example\n")
    assert network.resolv_conf([]) == "nameserver 192.0.2.53\nsearch example\n"


@both_ways
def test_none_is_a_namespace_with_nothing_but_loopback(host):
    result = run(["ip", "-br", "addr"], *walls(Network("none", root=ROOT)))
    names = run(["ls", "/sys/class/net"], Network("none")).stdout
    assert result.exit_code != 0 or "eth0" not in result.stdout
    with start(["sleep", "60"], Network("none")) as process:
        shown = inside(process, "ip", "-br", "addr").stdout
    assert "127.0.0.1/8" in shown
    assert "eth0" not in shown
    assert names is not None
    assert not ours()


def test_host_is_the_hosts_own(host, monkeypatch):
    from minidocker import child
    from minidocker import process as engine

    monkeypatch.setattr(engine, "_parent", child.Forked)  # a launcher is where it was started
    with start(["sleep", "60"], *walls(Network("host", root=ROOT))) as process:
        assert namespace_of(process.pid, "net") == namespace_of("thread-self", "net")
    assert not ours()


@both_ways
def test_another_containers_namespace_by_name_and_by_pid(host):
    with serving(Network(root=ROOT, aliases=["www"]), "web") as web:
        for wanted in ("container:web", f"container:{web.pid}"):
            with idle(Network(wanted, root=ROOT), "sidecar") as sidecar:
                assert namespace_of(sidecar.pid, "net") == namespace_of(web.pid, "net")
                assert "www" in run(["cat", "/etc/hosts"], Join(sidecar.pid)).stdout
                assert get_inside(sidecar, "http://127.0.0.1/web") == "web"
    with pytest.raises(ContainerError, match="no running container is called 'web'"):
        run(["true"], Network("container:web"))
    with pytest.raises(ContainerError, match="has ended"):
        run(["true"], Network(f"container:{web.pid}"))


@both_ways
def test_an_isolator_serves_one_container_at_a_time(host):
    net = Network(root=ROOT)
    with idle(net), pytest.raises(ContainerError, match="serves a container already"):
        run(["true"], net)
    assert run(["true"], *walls(net)).exit_code == 0


def test_networks_are_made_shown_and_removed(host):
    network.create("web", "10.90.0.0/24")
    assert network.listed() == ["web"]
    with idle(Network("web", root=ROOT), "first") as first:
        shown = network.inspect("web")
        assert shown["containers"] == {"first": "10.90.0.2"}
        assert (shown["subnet"], shown["gateway"], shown["kept"]) == ("10.90.0.0/24", "10.90.0.1", True)
        assert inside(first, "busybox", "ping", "-c1", "-W5", "10.90.0.1").exit_code == 0
        with pytest.raises(ContainerError, match="web is in use by first: stop them first"):
            network.remove("web")
    assert ours() >= {"md-web"}  # it was created, so it stays
    network.remove("web")
    assert until(lambda: not ours())
    assert "minidocker" not in ruleset()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("web",), "there is a network called 'web' already"),
        (("other", "10.90.0.0/25"), "10.90.0.0-10.90.0.255, which this host can reach already"),
        (("other", "192.0.2.128/25"), "192.0.2.0-192.0.2.255, which this host can reach already"),
        (("a/b",), "cannot be the name of a host"),
        (("host",), "a network cannot be called 'host'"),
        (("a-very-long-name",), "a network cannot be called"),
        ((".",), "a network cannot be called"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(host, arguments, why):
    network.create("web", "10.90.0.0/24")
    with pytest.raises(ContainerError, match=why):
        network.create(*arguments)
    assert network.listed() == ["web"]
    network.remove("web")


def test_an_unknown_network_is_refused(host):
    for attempt in (lambda: run(["true"], Network("nowhere")), lambda: network.remove("nowhere")):
        with pytest.raises(ContainerError, match="no network is called 'nowhere'"):
            attempt()
    assert not ours()


def test_two_networks_are_strangers(host):
    network.create("red")
    network.create("blue")
    reds, blues = Network("red", root=ROOT), Network("blue", root=ROOT)
    with serving(reds, "in-red"), idle(blues, "in-blue") as blue, idle(Network("red"), "red2") as friend:
        assert get_inside(friend, f"http://{reds.addresses[0]}/in-red") == "in-red"
        for address in (reds.addresses[0], f"[{reds.addresses[1]}]"):
            assert get_inside(blue, f"http://{address}/in-red", patience=1) == 28
        assert "in-red" not in run(["cat", "/etc/hosts"], Join(blue.pid)).stdout
    network.remove("red")
    network.remove("blue")


def test_the_pool_can_be_exhausted(host):
    network.create("tiny", "10.90.0.0/30")
    full = "all 1 addresses of 10.90.0.0/30 are in use; make a network with"
    with idle(Network("tiny"), "only"), pytest.raises(ContainerError, match=full):
        run(["true"], Network("tiny"))
    assert run(["true"], Network("tiny")).exit_code == 0
    network.remove("tiny")


def test_a_hundred_starts_at_once_get_a_hundred_addresses(host):
    nets = [Network() for _ in range(100)]

    def begin(net):
        return start(["sleep", "1000"], net)

    with ThreadPoolExecutor(20, initializer=host.enter) as pool:
        processes = [*pool.map(begin, nets)]
    try:
        assert len({net.addresses[0] for net in nets}) == 100
        assert inside(processes[-1], "busybox", "ping", "-c1", "-W5", nets[0].addresses[0]).exit_code == 0
    finally:
        with ThreadPoolExecutor(20, initializer=host.enter) as pool:
            [*pool.map(lambda process: process.__exit__(), processes)]
    assert "minidocker" not in ruleset()


def test_a_cable_that_ends_while_the_next_one_is_laid_is_no_error(host, monkeypatch):
    network.create("web", "10.90.0.0/24")
    with monkeypatch.context() as before:
        before.setattr(links, "exists", lambda name: True)  # as it was a moment ago
        with idle(Network("web")) as process:
            assert "10.90.0.2" in inside(process, "ip", "-4", "-o", "addr", "show", "dev", "eth0").stdout
    network.remove("web")


def test_after_a_reboot_the_network_is_made_again(host):
    network.create("web", "10.90.0.0/24")
    subprocess.run(f"nft flush ruleset; ip link del {real('md-web')}", shell=True, check=True)
    net = Network("web", root=ROOT, ports=["8080:80"])
    with serving(net):
        assert get("http://127.0.0.1:8080/web") == "web"
    network.remove("web")


def test_somebody_flushes_the_firewall(host):
    with serving(Network(root=ROOT, ports=["8080:80"]), "before"):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        with serving(Network(root=ROOT, ports=["8081:80"]), "after"):
            assert get("http://127.0.0.1:8081/after") == "after"
    assert "minidocker" not in ruleset()


STARTS = """
import sys
from minidocker.network import Network
from minidocker.process import run
run(["true"], Network(ports=["127.0.0.1:8080:80"], egress="1M"))
slow = "json argparse subprocess dataclasses re pathlib typing shutil socket enum contextlib ipaddress selectors"
print(*{*slow.split()} & {*sys.modules})
"""


def test_a_start_imports_nothing_slow(host):
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(REPO)!r})\n{STARTS}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


@pytest.mark.parametrize(("command", "status"), [([], 0), (["sh", "-c", "exit 7"], 7), (["nothing-like-it"], 127)])
def test_the_stage(host, command, status):
    home = pathlib.Path(os.environ["MINIDOCKER_HOME"])
    home.mkdir()
    (home / "roots").symlink_to(HOME / "roots")
    argv = [sys.executable, str(REPO / "chapters/07_ports/stage.py"), *command]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert command or done.stdout == "stage7 serves\nthe host asked through the published port, and got: stage7\n"
    assert "minidocker" not in ruleset()


# Published ports

FROM_HERE = ["127.0.0.1", "127.8.8.8", "192.0.2.1", "10.77.0.1", "[2001:db8::1]", "[::1]"]
FROM_ELSEWHERE = ["192.0.2.1", "[2001:db8::1]"]


@both_ways
@pytest.mark.parametrize("bridged", ["0", "1"])
def test_a_published_port_answers_from_everywhere(host, lan, bridged):
    """Also where frames between ports of a bridge pass the rules for packets, as Docker and Kubernetes have it."""
    for family in ("iptables", "ip6tables"):
        if pathlib.Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}").exists():
            sysctl(f"net.bridge.bridge-nf-call-{family}", bridged)
    net = Network(root=ROOT, ports=["8080:80"])
    with serving(net) as web, idle(Network(root=ROOT), "other") as other:
        for address in FROM_HERE:
            assert get(f"http://{address}:8080/web") == "web", address
        for address in FROM_ELSEWHERE:
            assert lan.get(f"http://{address}:8080/web") == "web", address
            assert get_inside(other, f"http://{address}:8080/web") == "web", address
            assert get_inside(web, f"http://{address}:8080/web") == "web", address
        assert get("http://localhost:8080/web") == "web"
    assert get("http://127.0.0.1:8080/web") == 7
    assert "minidocker" not in ruleset()


# A server that sends back what it gets, and from whom
ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(("::", 9000))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(2000)
    server.sendto(data + b" from " + sender[0].encode(), sender)
"""
ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(b"hello")
print(client.recv(2000).decode())
"""


@contextlib.contextmanager
def echoing(net, name="echo"):
    """A container with a server for UDP, which is a program of this machine."""
    with start([sys.executable, "-c", ECHO], net, name=name) as process:
        assert next(process.lines()) == "ready"
        yield process


def test_udp_is_published_too(host, lan):
    net = Network(ports=["9000:9000/udp", "9000:80/tcp"])
    with echoing(net):
        for address in ("127.0.0.1", "192.0.2.1", "2001:db8::1", "::1"):
            here = subprocess.run([sys.executable, "-c", ASK, address, "9000"], capture_output=True, text=True)
            assert here.stdout.startswith("hello from "), here.stderr
        for address in ("192.0.2.1", "2001:db8::1"):
            there = lan.run(sys.executable, "-c", ASK, address, "9000")
            assert there.stdout.startswith("hello from "), there.stderr


# A client that never stops: it sends ten times a second from one and the same port, and prints who answers
NEVER_STOPS = """
import socket, sys, time
client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
client.connect((sys.argv[1], 9000))
client.settimeout(0.1)
while True:
    try:
        client.send(b"hello")
        print(client.recv(100).decode(), flush=True)
    except OSError:
        print("nobody", flush=True)
    time.sleep(0.1)
"""
NAMED_ECHO = ECHO.replace('data + b" from " + sender[0].encode()', "sys.argv[1].encode()")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("pause", [False, True])
def test_an_udp_client_that_never_stops_finds_the_next_container(host, lan, address, pause):
    """Connection tracking would send it to the one that was there before; or, after a pause, to nobody for ever."""

    def hears(name):
        return any(client.stdout.readline() == f"{name}\n" for _ in range(100))

    client = lan.start(sys.executable, "-c", NEVER_STOPS, address)
    try:
        for name in ("first", "second"):
            with start([sys.executable, "-c", NAMED_ECHO, name], Network(ports=["9000:9000/udp"])) as server:
                assert next(server.lines()) == "ready"
                assert hears(name), f"it never heard from the {name}"
            assert not pause or hears("nobody")
    finally:
        client.kill()
        client.communicate()


def test_a_client_outside_keeps_its_address_and_a_container_outside_borrows_the_hosts(host, lan):
    with echoing(Network(ports=["9000:9000/udp"])) as echo:
        assert lan.run(sys.executable, "-c", ASK, "192.0.2.1", "9000").stdout == "hello from ::ffff:192.0.2.2\n"
        assert lan.run(sys.executable, "-c", ASK, "2001:db8::1", "9000").stdout == "hello from 2001:db8::2\n"
        server = lan.start(sys.executable, "-c", ECHO)
        try:
            assert server.stdout.readline() == "ready\n"
            for address, seen in (("192.0.2.2", "::ffff:192.0.2.1"), ("2001:db8::2", "2001:db8::1")):
                assert inside(echo, sys.executable, "-c", ASK, address, "9000").stdout == f"hello from {seen}\n"
        finally:
            server.kill()
            server.communicate()


@pytest.mark.parametrize("own", ["127.0.0.1", "192.0.2.1"])
def test_a_port_of_one_address_is_published_on_that_one_only(host, lan, own):
    others = {"127.0.0.1": "192.0.2.1", "192.0.2.1": "127.0.0.1"}
    with serving(Network(root=ROOT, ports=[f"{own}:8080:80"])):
        assert get(f"http://{own}:8080/web") == "web"
        assert get(f"http://{others[own]}:8080/web") == 7
        assert lan.get("http://192.0.2.1:8080/web") == ("web" if own == "192.0.2.1" else 7)
        with serving(Network(root=ROOT, ports=[f"{others[own]}:8080:80"]), "second"):
            assert get(f"http://{own}:8080/web") == "web"
            assert get(f"http://{others[own]}:8080/second") == "second"


def test_a_port_of_one_ipv6_address(host, lan):
    with serving(Network(root=ROOT, ports=["[2001:db8::1]:8080:80"])):
        assert lan.get("http://[2001:db8::1]:8080/web") == "web"
        assert lan.get("http://192.0.2.1:8080/web") == 7


def test_ranges_choices_and_ephemeral_ports(host, lan):
    both = Network(root=ROOT, ports=["8080-8081:79-80"])
    with serving(both):
        assert [port.number for port in both.published] == [8080, 8081]
        assert lan.get("http://192.0.2.1:8081/web") == "web"
        assert lan.get("http://192.0.2.1:8080/web") == 7
    nets = [Network(root=ROOT, ports=["8080-8082:80"]) for _ in range(3)] + [Network(root=ROOT, ports=["80"])]
    with contextlib.ExitStack() as stack:
        for number, net in enumerate(nets):
            stack.enter_context(serving(net, f"web{number}"))
        assert [net.published[0].number for net in nets[:3]] == [8080, 8081, 8082]
        with pytest.raises(ContainerError, match=r"port \*:8080-8082 -> 80/tcp: taken"):
            run(["true"], Network(ports=["8080-8082:80"]))
        for number, net in enumerate(nets):
            assert lan.get(f"http://192.0.2.1:{net.published[0].number}/web{number}") == f"web{number}"


@both_ways
@pytest.mark.parametrize("theirs", ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::"])
def test_a_port_that_a_program_has_is_an_error_before_anything_starts(host, theirs, tmp_path):
    before = ruleset()
    with socket.create_server((theirs, 8080), family=socket.AF_INET6 if ":" in theirs else socket.AF_INET):
        with pytest.raises(ContainerError, match=r"Network: port \*:8080 -> 80/tcp: taken, by a program") as refused:
            run(["touch", str(tmp_path / "started")], Network(ports=["8080:80"]))
        assert refused.value.exit_code == 125
        assert ruleset() == before
        assert not ours()
    assert not (tmp_path / "started").exists()
    assert run(["true"], Network(ports=["8080:80"])).exit_code == 0


def test_a_port_that_a_container_has_is_taken_for_programs_too(host):
    with idle(Network(ports=["8080:80", "8080:80/udp"])):
        with pytest.raises(ContainerError, match="taken"):
            run(["true"], Network(ports=["127.0.0.1:8080:80"]))
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as other, pytest.raises(OSError, match="in use"):
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", 8080))
                other.listen()


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_the_kernel_chose_is_taken_as_well(host, address, protocol):
    """A socket that has stopped to listen gives up a port that was chosen for it."""
    net = Network(ports=[f"80/{protocol}"])
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with idle(net), socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((address, net.published[0].number))


def test_a_server_that_ended_a_moment_ago_does_not_count(host):
    """Its connections are in TIME_WAIT for a minute."""
    with socket.create_server(("127.0.0.1", 8080)) as server:
        client = socket.create_connection(("127.0.0.1", 8080))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    assert run(["true"], Network(ports=["8080:80"])).exit_code == 0


def test_an_address_that_the_host_does_not_have(host):
    with pytest.raises(ContainerError, match=r"port 203.0.113.7:8080 -> 80/tcp: cannot assign requested address"):
        run(["true"], Network(ports=["203.0.113.7:8080:80"]))


# What belongs to the host


@pytest.fixture
def no_router(host):
    """A host that forwards nothing, and has interfaces that do not by themselves."""
    sysctl("net.ipv4.ip_forward", 0)
    sysctl("net.ipv6.conf.all.forwarding", 0)
    return host


# A third host, beyond the one that is no router, and somebody who counts what is sent there
THIRD = [
    "ip link add other type veth peer name far",
    "ip addr add 198.51.100.1/24 dev other",
    "ip link set other up",
    "ip link set far up",
    "ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev other",
    'nft add table ip watch { chain out { type filter hook postrouting priority 300; oifname "other" counter; } ; }',
]


def test_a_host_that_is_no_router_passes_on_what_is_for_containers_and_nothing_else(no_router, lan):
    """Its switch for all stays, and that of the interface is as it was afterwards; so no third host gets through."""
    with serving(Network(root=ROOT, ports=["8080:80"])) as web:
        assert lan.get("http://192.0.2.1:8080/web") == "web"
        assert inside(web, "busybox", "ping", "-c1", "-W5", "192.0.2.2").exit_code == 0
        assert [sysctl("net.ipv4.ip_forward"), sysctl("net.ipv4.conf.eth0.forwarding")] == ["0", "1"]
        for words in THIRD:
            subprocess.run(words.split(), check=True)
        lan.run("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1", check=True)
        lan.run("busybox", "ping", "-c2", "-W1", "198.51.100.9")
        assert "counter packets 0 " in ruleset()
        subprocess.run(["nft", "flush", "set", "inet", real("minidocker"), "opened"], check=True)
        lan.run("busybox", "ping", "-c2", "-W1", "198.51.100.9")
        assert "counter packets 0 " not in ruleset()  # it was the wall that kept them
    subprocess.run(["nft", "delete", "table", "ip", "watch"], check=True)
    assert sysctl("net.ipv4.conf.eth0.forwarding") == "0"


def test_what_the_owner_switched_on_meanwhile_stays(no_router):
    with idle(Network(root=ROOT)):
        sysctl("net.ipv4.ip_forward", 1)
    assert sysctl("net.ipv4.conf.eth0.forwarding") == "1"


def test_a_killed_owner_leaves_no_router(no_router, own_home):
    script = "import os; from minidocker.network import Network; from minidocker.process import start\n"
    script += "start(['sleep', '9'], Network()).__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script])
    assert sysctl("net.ipv4.conf.eth0.forwarding") == "1"
    assert until(lambda: network.prune() != [] or not ours())
    assert until(lambda: network.prune() == [] and sysctl("net.ipv4.conf.eth0.forwarding") == "0")


def test_where_it_may_not_be_switched_on_that_is_one_warning(no_router, monkeypatch):
    def refuse(name, value=""):
        if value:
            raise OSError(errno.EROFS, "Read-only file system", f"/proc/sys/net/{name}")
        return real_sysctl(name)

    real_sysctl = ports.sysctl
    monkeypatch.setattr(ports, "sysctl", refuse)
    net = Network(root=ROOT)
    with idle(net), idle(Network(root=ROOT), "other") as other:
        (warning,) = net.warnings
        assert inside(other, "busybox", "ping", "-c1", "-W5", net.addresses[0]).exit_code == 0
    assert warning.startswith("containers reach nobody outside")
    assert warning.endswith("read-only file system; sysctl -w net.ipv4.ip_forward=1")


def test_a_port_of_an_ipv6_address_on_a_host_that_does_not_forward_ipv6(no_router):
    with pytest.raises(ContainerError, match=r"not forward IPv6: sysctl -w net.ipv6.conf.all.forwarding=1, or"):
        run(["true"], Network(ports=["[2001:db8::1]:8080:80"]))
    with serving(Network(root=ROOT, ports=["[::1]:8080:80"])):
        assert get("http://[::1]:8080/web") == "web"
        assert get("http://127.0.0.1:8080/web") == 7


SWITCHES = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.route_localnet"]
SWITCHES += ["net.ipv4.conf.eth0.route_localnet", "net.ipv4.conf.all.rp_filter", "net.ipv6.conf.eth0.accept_ra"]


def test_no_switch_of_the_host_is_changed(host):
    before = [sysctl(name) for name in SWITCHES]
    with serving(Network(root=ROOT, ports=["8080:80"])):
        assert [sysctl(name) for name in SWITCHES] == before


# Docker's chains, as `iptables-save` shows them after its start
DOCKER = """
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -p tcp -m tcp --dport 8888 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"""
NATIVE = """
table inet filter {
    chain forward { type filter hook forward priority filter; policy drop; ct state established accept; }
    chain input { type filter hook input priority filter; policy accept; }
}
"""


def docker_chains():
    need(subprocess.run(["iptables-nft", "-V"], capture_output=True).returncode == 0, "needs iptables, of Debian")
    for family in ("iptables", "ip6tables"):
        rules = DOCKER if family == "iptables" else DOCKER.partition("*nat")[0]
        subprocess.run([f"{family}-nft-restore"], input=rules, text=True, check=True)


def native_chains():
    subprocess.run(["nft", "-f", "-"], input=NATIVE, text=True, check=True)


@pytest.mark.parametrize("theirs", [docker_chains, native_chains])
def test_where_the_forward_policy_is_drop_ours_pass_and_everything_else_stays_as_it_was(host, lan, theirs):
    theirs()
    before = ruleset()
    server = lan.start(sys.executable, "-c", ECHO)
    try:
        server.stdout.readline()
        with serving(Network(root=ROOT, ports=["8080:80"])) as web, idle(Network(root=ROOT), "other") as other:
            for address in FROM_ELSEWHERE:
                assert lan.get(f"http://{address}:8080/web") == "web", address
                assert get_inside(other, f"http://{address}:8080/web") == "web", address
            for address in ("192.0.2.2", "2001:db8::2"):
                assert inside(web, sys.executable, "-c", ASK, address, "9000").stdout.startswith("hello from ")
            during = [line for line in ruleset().splitlines() if f'comment "{real("minidocker")}"' in line]
            assert len(during) == (4 if theirs is docker_chains else 2)
            if theirs is docker_chains:
                shown = subprocess.run(["iptables-nft", "-S", "FORWARD"], capture_output=True, text=True, check=True)
                ours_is = f"-A FORWARD -i {real('md-')}+ -m comment --comment {real('minidocker')} -j ACCEPT"
                assert ours_is in shown.stdout
    finally:
        server.kill()
        server.communicate()
    assert ruleset() == before


def test_without_nft_it_says_so_before_anything_is_made(host, monkeypatch):
    with monkeypatch.context() as without, pytest.raises(ContainerError, match="no nft .* apt install nftables"):
        without.setattr(links, "DIRECTORIES", "")
        without.setenv("PATH", "/nowhere")
        run(["/bin/true"], Network())
    assert not ours()
    assert run(["/bin/true"], Network("none")).exit_code == 0


# Bandwidth


def rate(interface, place, seconds=5):
    """Bits per second by the counter of an interface, after a second in which TCP finds its speed."""
    time.sleep(1)
    before, begin = counters(interface)[place], time.monotonic()
    time.sleep(seconds)
    return 8 * (counters(interface)[place] - before) / (time.monotonic() - begin)


@pytest.mark.parametrize("limit", [2_000_000, 20_000_000])
def test_what_a_container_sends_is_limited(host, lan, limit):
    sink = lan.start(sys.executable, "-c", SINK)
    try:
        assert sink.stdout.readline() == "ready\n"
        with start([sys.executable, "-c", SEND, "192.0.2.2"], Network(egress=limit)):
            assert 0.9 * limit <= rate("mv0a4d0002", 0) <= 1.1 * limit
    finally:
        sink.kill()
        sink.communicate()


@pytest.mark.parametrize("limit", ["2M", "20mbit"])
def test_what_a_container_receives_is_limited(host, lan, limit):
    with start([sys.executable, "-c", SINK], Network(ports=["9000:9000"], ingress=limit)) as sink:
        assert next(sink.lines()) == "ready"
        sender = lan.start(sys.executable, "-c", SEND, "192.0.2.1")
        try:
            assert 0.9 * links.parse_rate(limit) <= rate("mv0a4d0002", 1) <= 1.1 * links.parse_rate(limit)
        finally:
            sender.kill()
            sender.communicate()


def test_without_a_limit_it_is_faster(host, lan):
    """Both directions above could pass if the cable were slow."""
    with start([sys.executable, "-c", SINK], Network(ports=["9000:9000"])) as sink:
        assert next(sink.lines()) == "ready"
        sender = lan.start(sys.executable, "-c", SEND, "192.0.2.1")
        try:
            assert rate("mv0a4d0002", 1, seconds=1) > 100_000_000
        finally:
            sender.kill()
            sender.communicate()

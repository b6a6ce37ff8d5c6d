"""Chapter 7: what a hostile container or image tries on the network, and what stays when the host side is killed."""

import contextlib
import os
import pathlib
import random
import select
import socket
import subprocess
import sys
import time

import pytest
from hosts import SEND, SINK, counters, get, ours, real, ruleset, sysctl, two_hosts, until

from minidocker import network
from minidocker.namespaces import Join, Namespaces
from minidocker.network import Bridge, Network, firewall, links, networks
from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot
from tests.helpers.networks import ROOT, get_inside, idle, inside, serving, walls

pytestmark = pytest.mark.chapter(7)

# Root in a container writes whatever frames it likes: arguments are the frame's bytes in hexadecimal
RAW = """
import socket, sys
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
card.bind(("eth0", 0))
for word in sys.argv[1:]:
    for _ in range(3):
        card.send(bytes.fromhex(word))
"""
# What arrives at a card, as hexadecimal: from whom the frames are not that are sent to nobody in particular
SNIFF = """
import socket, time
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
card.bind(("eth0", 0))
card.settimeout(0.2)
print("ready", flush=True)
while True:
    try:
        print(card.recv(2000).hex(), flush=True)
    except TimeoutError:
        pass
"""


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ipv4(source, target, mac_source, mac_target, payload=b"forged"):
    """An UDP packet to port 9, with the address of somebody as its sender. Nobody checks the checksum of a header here
    but the receiver's kernel; it is right.
    """
    udp = (5000).to_bytes(2, "big") + (9).to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    head = bytes([0x45, 0]) + (20 + len(udp)).to_bytes(2, "big") + bytes([0, 1, 0, 0, 64, 17, 0, 0])
    head += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(int.from_bytes(head[n : n + 2], "big") for n in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + (0xFFFF ^ total).to_bytes(2, "big") + head[12:]
    return mac_target + mac_source + b"\x08\x00" + head + udp


def ipv6(source, target, mac_source, mac_target, kind=17, payload=b"\x13\x88\0\x09\0\x0e\0\0forged"):
    head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([kind, 255])
    head += socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    return mac_target + mac_source + b"\x86\xdd" + head + payload


def arp(claimed, mac_claimed, mac_source, target="10.77.0.1"):
    """An answer that nobody asked for: this address is at that card."""
    body = bytes.fromhex("0001080006040002") + mac_claimed + socket.inet_aton(claimed) + b"\xff" * 6
    return b"\xff" * 6 + mac_source + b"\x08\x06" + body + socket.inet_aton(target)


def advertisement(claimed, mac_source):
    """The same for IPv6: a neighbour advertisement with its checksum."""
    source, target = "fe80::6d:aff:fe4d:3", "ff02::1"
    return icmpv6(
        source, target, mac_source, bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + packed6(claimed) + b"\x02\x01" + mac_source
    )


def icmpv6(source, target, mac_source, body):
    pseudo = packed6(source) + packed6(target) + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
    data = pseudo + body + b"\0" * (len(body) % 2)
    total = sum(int.from_bytes(data[n : n + 2], "big") for n in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + (0xFFFF ^ total).to_bytes(2, "big") + body[4:]
    return ipv6(source, target, mac_source, bytes.fromhex("333300000001"), 58, body)


def packed6(text):
    return socket.inet_pton(socket.AF_INET6, text)


VICTIM, ATTACKER, GATEWAY = mac("02:6d:0a:4d:00:02"), mac("02:6d:0a:4d:00:03"), mac("02:6d:0a:4d:00:01")


@contextlib.contextmanager
def victim_and_attacker():
    """A container in whose name another one wants to speak: it sniffs; (its lines, the attacker, its IPv6 address)."""
    net, evil = Network(), Network(root=ROOT)
    with start([sys.executable, "-c", SNIFF], net, name="victim") as victim, idle(evil, "attacker") as attacker:
        assert [net.addresses[0], evil.addresses[0]] == ["10.77.0.2", "10.77.0.3"]
        lines = victim.lines()
        assert next(lines) == "ready"
        yield lines, attacker, net.addresses[1], evil.addresses[1]


def sent(attacker, *frames):
    result = inside(attacker, sys.executable, "-c", RAW, *(frame.hex() for frame in frames))
    assert result.exit_code == 0, result.stderr


def arrived(lines, attacker, *forged):
    """Send the frames and then an honest one; which of the forged have come before that?"""
    honest = ipv4("10.77.0.3", "10.77.0.2", ATTACKER, VICTIM, os.urandom(8))
    sent(attacker, *forged, honest)
    seen = []
    for line in lines:
        seen.append(bytes.fromhex(line))
        if seen[-1] == honest:
            return [frame for frame in seen if frame in forged]


def test_an_honest_frame_arrives_and_without_the_guard_a_forged_one_too(host):
    """What the tests below rest on: their frames are good, and it is the guard that stops them."""
    with victim_and_attacker() as (lines, attacker, address6, _):
        forged = [ipv4("10.77.0.9", "10.77.0.2", ATTACKER, VICTIM), arp("10.77.0.1", ATTACKER, ATTACKER)]
        forged += [advertisement(address6, ATTACKER), ipv6("fd00::9", address6, ATTACKER, VICTIM)]
        assert arrived(lines, attacker, *forged) == []
        subprocess.run(["nft", "flush", "chain", "bridge", real("minidocker"), "guard"], check=True)
        assert {*arrived(lines, attacker, *forged)} == {*forged}


def test_a_container_speaks_only_for_itself(host):
    with victim_and_attacker() as (lines, attacker, address6, own6):
        lies = {
            "another container's address": ipv4("10.77.0.4", "10.77.0.2", ATTACKER, VICTIM),
            "the gateway's address": ipv4("10.77.0.1", "10.77.0.2", ATTACKER, VICTIM),
            "an address of the world": ipv4("192.0.2.2", "10.77.0.2", ATTACKER, VICTIM),
            "another card": ipv4("10.77.0.3", "10.77.0.2", GATEWAY, VICTIM),
            "arp: the gateway is here": arp("10.77.0.1", ATTACKER, ATTACKER),
            "arp: the gateway is here, from its card": arp("10.77.0.1", GATEWAY, GATEWAY),
            "arp: I am at another card": arp("10.77.0.3", GATEWAY, ATTACKER),
            "arp: from another card": arp("10.77.0.3", ATTACKER, GATEWAY),
            "ipv6: an address of the world": ipv6("2001:db8::9", address6, ATTACKER, VICTIM),
            "ipv6: the victim's own": ipv6(address6, address6, ATTACKER, VICTIM),
            "ipv6: another link-local": ipv6("fe80::1", address6, ATTACKER, VICTIM),
            "ipv6: the victim is here": advertisement(address6, ATTACKER),
            "ipv6: I am the router": icmpv6("fe80::6d:aff:fe4d:3", "ff02::1", ATTACKER, bytes([134] + [0] * 15)),
            "another protocol": VICTIM + ATTACKER + b"\x88\xb5" + b"forged" * 10,
            "behind a vlan tag": VICTIM + ATTACKER + b"\x81\x00\x00\x01" + ipv4("10.77.0.1", "10.77.0.2", b"", b"")[2:],
        }
        came = arrived(lines, attacker, *lies.values())
        assert [name for name, frame in lies.items() if frame in came] == []
        truths = [ipv6(own6, address6, ATTACKER, VICTIM), advertisement(own6, ATTACKER)]
        assert {*arrived(lines, attacker, *truths)} == {*truths}


def learned(address):
    """The port at which the switch believes that a hardware address is."""
    shown = subprocess.run(
        ["bridge", "fdb", "show", "br", real("md-bridge")], capture_output=True, text=True, check=True
    )
    return [line.split()[2] for line in shown.stdout.splitlines() if line.startswith(f"{address} ")]


@pytest.mark.parametrize("last", range(16))
def test_no_frame_moves_a_neighbour_in_the_switch_s_memory(host, last):
    """Frames for 01:80:c2:00:00:0x are the switch's own affair, and pass no rule for those that it hands on."""
    with victim_and_attacker() as (lines, attacker, _, _):
        arrived(lines, attacker)  # both have said something
        sent(attacker, bytes([1, 0x80, 0xC2, 0, 0, last]) + VICTIM + b"\x88\xcc" + bytes(60))
        assert real("mv0a4d0003") not in learned("02:6d:0a:4d:00:02")


def test_a_router_s_message_behind_other_headers_is_none_either(host):
    """What the receiver takes for a router advertisement, the guard must, too: behind options, once and twice."""
    with victim_and_attacker() as (lines, attacker, _, _):
        frame = icmpv6("fe80::6d:aff:fe4d:3", "ff02::1", ATTACKER, bytes([134] + [0] * 15))
        head, body = frame[:54], frame[54:]
        options = bytes([58, 0, 1, 4, 0, 0, 0, 0])
        hidden = [head[:20] + bytes([kind]) + head[21:] + options + body for kind in (0, 60)]
        hidden.append(head[:20] + bytes([0]) + head[21:] + bytes([60]) + options[1:] + options + body)
        hidden = [one[:18] + (len(one) - 54).to_bytes(2, "big") + one[20:] for one in hidden]
        assert arrived(lines, attacker, *hidden) == []


def test_the_host_is_not_reached_by_its_other_addresses(host):
    """Its link-local address on the bridge, and the address that it has in another network."""
    network.create("other")
    gateway = network.inspect("other")["gateway"]
    with server("0.0.0.0"), server("::", port=7778), idle(Network(root=ROOT), "attacker") as attacker:
        assert get_inside(attacker, f"http://{gateway}:7777/", patience=1) == 7
        assert get_inside(attacker, "http://[fe80::6d:aff:fe4d:1%25eth0]:7778/", patience=1) in (7, 28)
        assert get_inside(attacker, "http://[2001:db8::1]:7778/", patience=1) == 7
    network.remove("other")


def test_a_stranger_who_was_called_may_answer_and_not_call_back(host):
    """A connection from blue to a port that red has published makes no way from red to blue."""
    network.create("red")
    network.create("blue")
    reds, blues = Network("red", root=ROOT, ports=["8080:80"]), Network("blue", root=ROOT)
    with serving(reds, "in-red") as red, serving(blues, "in-blue") as blue:
        assert get_inside(blue, "http://192.0.2.1:8080/in-red") == "in-red"
        assert get_inside(red, f"http://{blues.addresses[0]}/in-blue", patience=1) == 28
    network.remove("red")
    network.remove("blue")


def test_the_world_is_not_told_a_false_sender_either(host, lan):
    """A packet with an address that is not the container's never leaves the host."""
    with idle(Network(root=ROOT), "attacker") as attacker:
        _, before = counters("eth0")
        sent(attacker, *[ipv4("203.0.113.7", "192.0.2.2", mac("02:6d:0a:4d:00:02"), GATEWAY, b"x" * 1000)] * 20)
        assert counters("eth0")[1] - before < 20_000
        sent(attacker, *[ipv4("10.77.0.2", "192.0.2.2", mac("02:6d:0a:4d:00:02"), GATEWAY, b"x" * 1000)] * 20)
        assert until(lambda: counters("eth0")[1] - before > 20_000)


@contextlib.contextmanager
def server(*addresses, port=7777):
    """Programs of the host that listen there."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            stack.enter_context(socket.create_server((address, port), family=family))
        yield


def test_the_hosts_loopback_services_are_out_of_reach(host):
    """The container may route 127.0.0.1 to the host, and our bridge has route_localnet on: CVE-2020-8558."""
    route = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo;"
    route += "ip route add 127.0.0.1 via 10.77.0.1; ip route"
    with server("127.0.0.1", "::1"), idle(Network(), "attacker") as attacker:
        assert sysctl(f"net.ipv4.conf.{real('md-bridge')}.route_localnet") == "1"
        assert "127.0.0.1 via 10.77.0.1" in inside(attacker, "sh", "-c", route).stdout
        assert get_inside(attacker, "http://127.0.0.1:7777/", patience=1) == 28
        subprocess.run(["nft", "flush", "chain", "inet", real("minidocker"), "loopback"], check=True)
        subprocess.run(["nft", "flush", "chain", "inet", real("minidocker"), "to_host"], check=True)
        connect = inside(attacker, "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7777 && echo in")
        assert connect.stdout == "in\n"  # so it was the firewall that stopped it


def test_a_scan_of_the_host_finds_published_ports_only(host):
    scan = "for p in 22 7777 7778 8080; do for a in 10.77.0.1 192.0.2.1; do"
    scan += " (exec 3<>/dev/tcp/$a/$p) 2>/dev/null && echo $a $p; done; done"
    web, attacker = serving(Network(root=ROOT, ports=["8080:80"])), idle(Network(), "attacker")
    with server("0.0.0.0"), server("192.0.2.1", port=7778), web, attacker as attacker:
        found = inside(attacker, "bash", "-c", scan).stdout.splitlines()
        assert found == ["10.77.0.1 8080", "192.0.2.1 8080"]
        subprocess.run(["nft", "flush", "chain", "inet", real("minidocker"), "to_host"], check=True)
        assert len(inside(attacker, "bash", "-c", scan).stdout.splitlines()) == 5


def test_who_is_next_to_the_host_reaches_only_what_is_published_there(host, lan):
    """They may send packets for the containers, or for 127.0.0.1, through this host; it forwards, after all."""
    net = Network(root=ROOT, ports=["127.0.0.1:8080:80"])
    with serving(net):
        for words in (
            ["route", "add", "10.77.0.0/22", "via", "192.0.2.1"],
            ["addr", "del", "127.0.0.1/8", "dev", "lo"],
        ):
            assert lan.run("ip", *words).returncode == 0
        lan.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet", check=True)
        lan.run("ip", "route", "add", "127.0.0.1", "via", "192.0.2.1", "src", "192.0.2.2", check=True)
        lan.run("ip", "-6", "route", "add", f"{net.addresses[1]}/128", "via", "2001:db8::1", check=True)
        for url in (f"{net.addresses[0]}:80", f"[{net.addresses[1]}]:80", "127.0.0.1:8080"):
            assert lan.run("curl", "-s", "-m", "1", f"http://{url}/web").returncode == 28, url
        assert get("http://127.0.0.1:8080/web") == "web"


def test_a_container_that_removes_its_limit_gains_nothing(host, lan):
    sink = lan.start(sys.executable, "-c", SINK)
    try:
        assert sink.stdout.readline() == "ready\n"
        with idle(Network(root=ROOT, egress="10M")) as attacker:
            assert inside(attacker, "tc", "qdisc", "del", "dev", "eth0", "root").exit_code == 0
            with start([sys.executable, "-c", SEND, "192.0.2.2"], Join(attacker.pid, "net")):
                time.sleep(1)
                begin, before = time.monotonic(), counters("eth0")[1]  # a pause between the two makes it no faster
                time.sleep(6)  # long beside the burst that the fence lets through, which is what 0.2 s would send
                rate = 8 * (counters("eth0")[1] - before) / (time.monotonic() - begin)
                assert 1e6 < rate <= 1.15 * 10e6, rate
    finally:
        sink.kill()
        sink.communicate()


# Hostile images


@pytest.fixture
def image(tmp_path):
    """A root of one program, in which a test may do what it likes."""
    root = tmp_path / "root"
    for name in ("bin", "etc", "proc", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(pathlib.Path(ROOT, "bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    return root


def shown(image, path="/etc/hosts"):
    """What a container of the image sees."""
    walls_here = [Namespaces("pid mount uts ipc"), Network(root=image, dns=["192.0.2.53"]), PivotRoot(image)]
    return run(["/bin/busybox", "cat", path], *walls_here, name="seen")


@pytest.mark.parametrize("link", ["/outside", "../../../../../../outside", "/proc/self/root/outside"])
def test_a_link_in_the_image_leads_nowhere_else(host, image, tmp_path, link):
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    target = link.replace("/outside", str(outside))
    (image / "etc/hosts").symlink_to(target)
    with contextlib.suppress(ContainerError):
        shown(image)
    assert outside.read_text() == "untouched"
    assert "outside" not in pathlib.Path("/proc/self/mountinfo").read_text()
    inside_root = image / str(outside).lstrip("/")
    assert not inside_root.exists() or inside_root.read_text() == ""  # the place of a mount, below the root


def test_a_dangling_link_is_followed_below_the_root(host, image):
    """As distributions have it: /etc/resolv.conf leads into the /run of a running system."""
    (image / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    assert shown(image, "/etc/resolv.conf").stdout == "nameserver 192.0.2.53\n"
    assert (image / "run/systemd/resolve/stub-resolv.conf").read_text() == ""


def test_what_is_missing_is_made_and_a_directory_in_the_way_is_an_error(host, image):
    assert "seen" in shown(image).stdout
    assert (image / "etc/hosts").read_text() == ""
    (image / "etc/hosts").unlink()
    (image / "etc/hosts").mkdir()
    with pytest.raises(ContainerError, match="/etc/hosts"):
        shown(image)
    assert not ours() or until(lambda: not ours())


def test_a_container_cannot_poison_the_names_of_others(host):
    with idle(Network(root=ROOT), "victim") as victim:
        script = "echo 10.77.0.3 bank.example >> /etc/hosts"
        result = run(["sh", "-c", script], *walls(Network(root=ROOT)))
        assert result.exit_code != 0
        assert "Read-only" in result.stderr
        assert "bank" not in run(["cat", "/etc/hosts"], Join(victim.pid)).stdout


def test_a_name_that_is_none_is_refused_and_leaves_nothing(host):
    for name in ("two words", "a\n10.0.0.1 bank", "x" * 90):
        with pytest.raises(ContainerError, match="Network"):
            run(["true"], Network(), name=name)
    assert not ours()
    assert "minidocker" not in ruleset()


# Faults


STEPS = [
    (firewall, "restore"),
    (firewall, "add"),
    (firewall, "open_doors"),
    (networks, "write"),
    (network, "resolv_conf"),
    (Bridge, "connect"),
    (Bridge, "take"),
    (Bridge, "introduce"),
    (Network, "_elements"),
    (Network, "attach"),
    (links, "card"),
]


@pytest.mark.parametrize(("place", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("kept", [False, True])
def test_a_step_that_fails_leaves_nothing(host, monkeypatch, place, name, kept):
    def fails(*_, **__):
        raise OSError(28, "No space left on device", name)

    network.create("web") if kept else None
    before = ruleset()
    fds = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setattr(place, name, fails)
        net = Network("web" if kept else "bridge", root=ROOT, ports=["8080:80"])
        if kept and name in ("restore", "open_doors"):  # where all is as it was left, only an end takes these steps
            with pytest.raises(ContainerError, match=name):
                run(["true"], *walls(net))
        elif name == "add" and not kept:
            assert run(["true"], *walls(net)).exit_code == 0  # a new network takes no such step
        else:
            with pytest.raises(ContainerError, match="no space left on device|No space left on device"):
                run(["true"], *walls(net))
    if kept and name in ("restore", "open_doors"):
        assert network.prune() == ["address web 10.77.0.2"]  # what could not be said at the end
    assert until(lambda: ours() == ({"md-web"} if kept else set()))
    assert ruleset() == before
    assert len(os.listdir("/proc/self/fd")) == fds
    assert network.prune() == []
    with serving(Network("web" if kept else "bridge", root=ROOT, ports=["8080:80"])):
        assert get("http://127.0.0.1:8080/web") == "web"
    network.remove("web") if kept else None


HOST_SIDE = """
import os, sys, threading, time
from tests.helpers.isolators import Pauses
from minidocker.namespaces import Namespaces
from minidocker.network import Network
from minidocker.process import start
from minidocker.rootfs import PivotRoot

how, moment, place, fifo, root, network = sys.argv[1:]
if how == "launcher":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
net = Network(network, root=root, ports=["8080:80", "127.0.0.1:9000:9000/udp"], egress="10M")
isolators = [Namespaces("pid mount uts ipc"), net, PivotRoot(root)]
isolators.insert(len(isolators) if place == "last" else 0, Pauses(moment, fifo))
with start(["sleep", "60"], *isolators, name="killed") as process:
    if moment == "running":
        os.write(os.open(fifo, os.O_WRONLY), b"running")
        time.sleep(60)
"""


def locked_ports():
    """Whether a port of the killed host side is still held: by its child, which dies a moment later."""
    try:
        for kind, number in ((socket.SOCK_STREAM, 8080), (socket.SOCK_DGRAM, 9000)):
            with socket.socket(socket.AF_INET, kind) as trial:
                trial.bind(("127.0.0.1", number))
    except OSError:
        return True
    return False


@pytest.mark.parametrize("how", ["fork", "launcher"])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("moment", ["__enter__", "attach", "inside", "running", "__exit__"])
@pytest.mark.parametrize("found_by", ["prune", "the next start"])
@pytest.mark.parametrize("kept", [False, True])
def test_the_host_side_is_killed(host, tmp_path, how, place, moment, found_by, kept):
    name = "web" if kept else "bridge"
    network.create(name) if kept else None
    before = ruleset()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reached = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOST_SIDE, how, moment, place, str(fifo), ROOT, name], env=env
    ) as victim:
        try:
            assert select.select([reached], [], [], 20)[0], "the moment never came"
        finally:
            victim.kill()
    os.close(reached)
    assert until(lambda: not locked_ports()), "somebody outlived the host side and holds its ports"
    if found_by == "prune":
        network.prune()
    else:
        with serving(Network(name, root=ROOT, ports=["8080:80", "127.0.0.1:9000:9000/udp"])):
            assert get("http://127.0.0.1:8080/web") == "web"
            assert [*network.inspect(name)["containers"]] == ["web"]
    assert ruleset() == before
    assert until(lambda: ours() == ({"md-web"} if kept else set()))
    assert network.prune() == []
    network.remove(name) if kept else None


def test_prune_leaves_the_living_alone(host):
    with serving(Network(root=ROOT, ports=["8080:80"])):
        assert network.prune() == []
        assert get("http://127.0.0.1:8080/web") == "web"


def test_prune_removes_the_files_of_hosts_that_are_no_more(host, tmp_path, monkeypatch):
    with two_hosts() as (other, _):
        with other.entered():
            network.create("web")
            number = os.stat("/proc/thread-self/ns/net").st_ino
        kept = os.open(f"/proc/{other.keeper.pid}/ns/net", os.O_RDONLY)
        assert network.prune() == []  # it is there, though not here
    with monkeypatch.context() as named:  # and so is one without processes, if it has a name
        named.setattr(networks, "NAMED", str(tmp_path / "netns"))
        (tmp_path / "netns").mkdir()
        (tmp_path / "netns/other").symlink_to(f"/proc/self/fd/{kept}")
        assert network.prune() == []
    os.close(kept)
    assert until(network.prune) == [f"files of network namespace {number}"]


BUSY = """
import os, sys
from minidocker.namespaces import Namespaces
from minidocker.network import Network
from minidocker.process import run

print("ready", flush=True)
while True:
    run(["true"], Network(ports=["8080:80"]))
"""


def test_the_host_side_is_killed_at_any_moment(host):
    env, chance = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, random.Random(7)
    for _ in range(int(os.environ.get("MINIDOCKER_KILLS", "15"))):
        with subprocess.Popen([sys.executable, "-c", BUSY], env=env, stdout=subprocess.PIPE) as victim:
            victim.stdout.readline()
            time.sleep(chance.random() / 5)
            victim.kill()
        assert until(lambda: not locked_ports())
    network.prune()
    assert "minidocker" not in ruleset()
    assert until(lambda: not ours())


def test_a_thousand_starts_leave_nothing(host):
    """One stands by for the others, so that the network stays: what they leave would be seen in it."""
    with idle(Network(root=ROOT), "stays"):
        before, files = packets(), tree()
        fds = len(os.listdir("/proc/self/fd"))
        for _ in range(int(os.environ.get("MINIDOCKER_STARTS", "100"))):
            assert run(["true"], *walls(Network(root=ROOT, ports=["8080:80"]))).exit_code == 0
        assert packets() == before
        assert tree() == files
        assert len(os.listdir("/proc/self/fd")) == fds
        assert until(lambda: ours() == {"md-bridge", "mv0a4d0002"}, 30)
    assert until(lambda: not ours())


def packets():
    """The rules about packets; those about frames know the addresses that come next, and these go on."""
    return ruleset().partition("table bridge")[0]


def tree():
    """The state directory: all names in it."""
    return sorted(str(path) for path in pathlib.Path(os.environ["MINIDOCKER_HOME"]).rglob("*"))

"""Chapter 7: what others do to the firewall, to a switch of the host, or from another home, is looked at again."""

import contextlib
import os
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from hosts import get, ours, real, ruleset, sysctl, until

from minidocker import network
from minidocker.network import Network, networks
from minidocker.process import start
from tests.helpers.networks import ROOT, get_inside, idle, serving

pytestmark = pytest.mark.chapter(7)


def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text.replace("OURS", real("minidocker")), text=True, check=True)


def rules():
    """All rules and sets of this host, without what is in the sets."""
    return subprocess.run(["nft", "-t", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


DAMAGES = {
    "all is flushed": "flush ruleset",
    "the table of packets is gone": "delete table inet OURS",
    "the table of frames is gone": "delete table bridge OURS",
    "its chains are flushed": "flush table inet OURS",
    "one chain is flushed": "flush chain bridge OURS guard",
    "a rule stands before ours": "insert rule inet OURS through accept",
    "a rule stands behind ours": "add rule inet OURS loopback counter",
    "published ports are forgotten": "flush map inet OURS published4",
    "guests are forgotten": "flush set bridge OURS guests4\nflush set bridge OURS guests6",
    "neighbours are forgotten": "flush set bridge OURS neighbours",
    "a port leads to another": """flush map inet OURS published4
        add element inet OURS published4 { 0.0.0.0/0 . tcp . 8080 : 10.77.0.99 . 80 }""",
    "a foreign table has the name": """delete table inet OURS
        table inet OURS { chain through { type filter hook forward priority 0; accept
        }
        }""",
    "the policy is another": "add chain inet OURS to_host { policy drop; }",
    "the walls sleep": "add table inet OURS { flags dormant; }\nadd table bridge OURS { flags dormant; }",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_next_start_mends_what_others_did(host, damage):
    network.create("red")
    network.create("blue")
    reds = Network("red", root=ROOT, ports=["8080:80"])
    with serving(reds) as web, idle(Network("blue", root=ROOT), "stranger") as stranger:
        before = rules()
        nft(damage)
        with idle(Network("red", root=ROOT), "next") as friend:
            assert rules() == before
            for client, answer in ((friend, "web"), (web, "web"), (stranger, 28)):
                assert get_inside(client, f"http://{reds.addresses[0]}/web", patience=1) == answer
            assert get("http://127.0.0.1:8080/web") == "web"
            assert get_inside(stranger, "http://192.0.2.1:8080/web") == "web"
    network.remove("red")
    network.remove("blue")
    assert real("minidocker") not in ruleset()


@pytest.mark.parametrize("name", ["inet OURS same", "bridge OURS egress"])
def test_a_set_that_was_emptied_is_filled_for_all_networks(host, name):
    """The next start is in another network, so what it adds of its own says nothing of theirs."""
    show = ["nft", "list", "set" if "egress" not in name else "map", *name.replace("OURS", real("minidocker")).split()]

    def elements():
        shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        return {*shown.partition("elements = {")[2].replace(",", "\n").replace("}", "").replace("\t", "").split("\n")}

    network.create("red")
    network.create("blue")
    with idle(Network("red", root=ROOT, egress="10M"), "first"):
        before = elements()
        nft(f"flush {show[2]} {name}")
        with idle(Network("blue", root=ROOT), "next"):
            assert before <= elements()
    network.remove("red")
    network.remove("blue")


def test_an_end_after_a_flush_leaves_the_others_as_they_should_be(host):
    """Not only a start: who ends has to take elements away, and finds that they, and more, are gone already."""
    with serving(Network(root=ROOT, ports=["8080:80"])):
        with serving(Network(root=ROOT, ports=["8081:80"]), "other"):
            nft("flush ruleset")
        assert get("http://127.0.0.1:8080/web") == "web"
        assert get("http://127.0.0.1:8081/other") == 7


def test_starts_at_once_do_not_lose_each_other_s_elements(host):
    nets = [Network(ports=["80"]) for _ in range(20)]

    def begin(net):
        nft("flush ruleset")
        return start(["sleep", "1000"], net)

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(10, initializer=host.enter) as pool:
        for process in pool.map(begin, nets):
            stack.callback(process.__exit__)
        with idle(Network(root=ROOT), "last"):
            shown = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
            assert [net.addresses[0] for net in nets if f": {net.addresses[0]} . 80" not in shown] == []
    assert real("minidocker") not in ruleset()


# A firewall that comes after our network

LATER = {
    "policy": "table inet theirs { chain forward { type filter hook forward priority 0; policy drop;\n}\n}",
    "last rule": "table ip x { chain f { type filter hook forward priority 9; tcp dport 9 accept; counter drop\n}\n}",
    "reject": "table inet x { chain f { type filter hook forward priority 9; reject with icmpx admin-prohibited\n}\n}",
    "frames": "table bridge theirs { chain f { type filter hook forward priority 0; policy drop;\n}\n}",
}


@pytest.mark.parametrize("theirs", LATER.values(), ids=LATER)
def test_a_firewall_that_comes_after_the_network_is_opened_at_the_next_start(host, lan, theirs):
    network.create("web")
    with serving(Network("web", root=ROOT, ports=["8080:80"])):
        assert lan.get("http://192.0.2.1:8080/web") == "web"
        nft(theirs)
        later = Network("web", root=ROOT, ports=["8081:80"])
        with serving(later, "later") as process:
            assert later.warnings == []
            for port, name in ((8080, "web"), (8081, "later")):
                assert lan.get(f"http://192.0.2.1:{port}/{name}") == name
            assert get_inside(process, f"http://{os.path.basename(later.bridge.living[0])}/web") == "web"
    network.remove("web")
    assert "md" not in rules()  # nor our rules in the chains of others


def test_one_rule_more_that_does_not_drop_all_is_left_alone(host):
    nft("table inet theirs { chain f { type filter hook forward priority 10; ip daddr 10.77.0.9 drop\n}\n}")
    before = rules()
    with idle(Network(root=ROOT)):
        assert rules().startswith(before) or before in rules()
    assert rules() == before


def test_a_firewall_that_nobody_else_may_change_is_a_warning_of_one_line(host):
    """A table with an owner, as a firewall that runs has it, takes rules of its owner only."""
    table = "add table inet theirs { flags owner; }\n"
    chain = "add chain inet theirs f { type filter hook forward priority 0; policy drop; }\n"
    with subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as owner:
        owner.stdin.write(table + chain)
        owner.stdin.flush()
        assert until(lambda: "policy drop" in rules())
        net = Network(root=ROOT)
        with idle(net):
            (warning,) = net.warnings
        owner.stdin.close()
    assert "the firewall's chain inet theirs f drops what is for containers" in warning
    assert "\n" not in warning


def test_forwarding_that_goes_away_is_looked_at_again(host):
    network.create("web")
    with serving(Network("web", root=ROOT, ports=["8080:80"])):
        sysctl("net.ipv4.ip_forward", 0)
        assert host.lan.get("http://192.0.2.1:8080/web") != "web"
        net = Network("web", root=ROOT)
        with idle(net, "next"):
            assert host.lan.get("http://192.0.2.1:8080/web") == "web"
            assert ["eth0 forwards" in text for text in net.warnings] == [True]
    network.remove("web")


def test_a_bridge_that_somebody_switched_off_is_mended_at_the_next_start(host):
    with serving(Network(root=ROOT, ports=["8080:80"])):
        for words in (["set", real("md-bridge"), "down"], ["set", real("md-bridge"), "up"]):
            subprocess.run(["ip", "link", *words], check=True)
        subprocess.run(["ip", "addr", "flush", "dev", real("md-bridge")], check=True)
        assert get("http://127.0.0.1:8080/web") != "web"
        with idle(Network(root=ROOT), "next"):
            assert get("http://127.0.0.1:8080/web") == "web"


# Two homes on one host


def test_two_homes_do_not_meet(host, tmp_path, monkeypatch):
    """The same names of networks in both: other bridges, other subnets, other tables, and nobody takes the other's."""
    homes = [str(tmp_path / "home"), str(tmp_path / "second")]

    @contextlib.contextmanager
    def at(home):
        with monkeypatch.context() as there:
            there.setenv("MINIDOCKER_HOME", home)
            yield

    with contextlib.ExitStack() as stack:
        nets = []
        for number, home in enumerate(homes):
            with at(home):
                network.create("web")
                nets.append(Network("web", root=ROOT, ports=[f"808{number}:80"]))
                web = stack.enter_context(serving(nets[-1], f"web{number}"))
                assert ours() == {"md-web", f"mv{nets[-1].number:08x}"}
        assert nets[0].addresses != nets[1].addresses
        assert get_inside(web, f"http://{nets[0].addresses[0]}/web0", patience=1) == 28  # strangers
        assert get_inside(web, "http://192.0.2.1:8080/web0") == "web0"
        with at(homes[1]):
            network.create("other")
            network.remove("other")
            assert network.prune() == []
            web.__exit__()
            network.remove("web")
            assert not ours()
            assert real("minidocker") not in ruleset()
        assert get("http://127.0.0.1:8080/web0") == "web0"
    with at(homes[0]):
        network.remove("web")


def test_the_names_of_homes_and_networks_fit(host, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(tmp_path / "a" / "link"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to(tmp_path)
    assert real("minidocker") != "minidocker"
    names = {network.create(name).interface for name in ("twelveletter", "twelveletteR", "short")}
    assert len(names) == 3
    assert {len(name) <= 15 for name in names} == {True}
    for name in network.listed():
        network.remove(name)


def test_a_namespace_with_the_number_of_a_dead_one_has_none_of_its_networks(host):
    """The kernel uses inode numbers again; a directory of the same number is another one's, and goes with prune."""
    network.create("ghost")
    place = pathlib.Path(os.environ["MINIDOCKER_HOME"], "network", networks.namespace())
    inode, cookie, boot = place.name.split(".")
    place.rename(place.with_name(f"{inode}.{int(cookie, 16) ^ 1:016x}.{boot}"))
    assert network.listed() == []
    assert network.prune() == [f"files of network namespace {inode}"]
    subprocess.run(["ip", "link", "del", real("md-ghost")], check=True)
    nft("flush ruleset")

"""A network by default: what `minidocker run` and `build` have without --network, on hosts of their own."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.images import REPO

pytestmark = pytest.mark.chapter(10)

# A host with an uplink, eth0, and a peer behind it; it is no router, and `md` is the command
HOST = """
ip link set lo up
unshare --net sleep 60 & outside=$!
until [ "$(readlink /proc/$outside/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
ip link add eth0 type veth peer name eth0 netns $outside
ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up
nsenter --net=/proc/$outside/ns/net sh -c 'ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up'
sysctl -qw net.ipv4.ip_forward=0
peer() { nsenter --net=/proc/$outside/ns/net "$@"; }
until_there() { for i in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; }
"""


@pytest.fixture
def host(home):
    """Run a script there: (what it printed, what it complained of)."""

    def script(text, path=""):
        head = f'md() {{ {sys.executable} -m minidocker "$@"; }}\n{HOST}'
        environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
        argv = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]
        argv = [*argv, head + textwrap.dedent(text)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
        for said in (home / "ready").glob("said=*"):
            said.unlink()
        return done.stdout, done.stderr

    return script


SERVER = "'echo it works >/index.html; exec httpd -f -p 80 -h /'"


def test_a_published_port_answers_here_by_both_families_and_outside(host):
    """With the host's forwarding, which is switched on for eth0, said, and taken back."""
    out, err = host(f"""
        md run -d --name web -p 8080:80 busybox sh -c {SERVER} >/dev/null
        until_there curl -s http://127.0.0.1:8080/
        for address in 127.0.0.1 [::1] localhost 192.0.2.1; do curl -sm5 http://$address:8080/; done
        peer curl -sm5 http://192.0.2.1:8080/
        sysctl -n net.ipv4.ip_forward net.ipv4.conf.eth0.forwarding
        md rm -f web >/dev/null
        until_there sh -c '! ip link show md-bridge'
        sysctl -n net.ipv4.conf.eth0.forwarding; curl -sm5 http://[::1]:8080/ || echo $?
        """)
    assert out == "it works\n" * 5 + "0\n1\n0\n7\n", err


def test_a_container_finds_others_by_name_and_the_world(host):
    out, err = host(f"""
        id=$(md run -d --name web -p 80:80 busybox sh -c {SERVER})
        until_there curl -s http://127.0.0.1/
        peer busybox httpd -p 80 -h /etc
        for name in web ${{id:0:12}}; do md run --rm busybox wget -qO- http://$name/; done
        md run --rm busybox wget -qO- http://192.0.2.2/hostname | cmp - /etc/hostname && echo outside
        md run --rm --network container:$id busybox wget -qO- http://127.0.0.1/
        md rm -f web >/dev/null
        """)
    assert out == "it works\nit works\noutside\nit works\n", err


def test_none_is_really_none(host):
    out, err = host("md run --rm --network none busybox sh -c 'ls /sys/class/net; ip route'")
    assert out == "lo\n", err
    assert err == ""


BUILD = """
mkdir context; printf 'FROM busybox\\nRUN wget -qO /page http://10.77.0.1:8080/\\n' >context/Dockerfile
"""


def test_run_in_a_build_reaches_what_is_published_at_its_gateway(host, tmp_path):
    out, err = host(f"""
        cd {tmp_path}; {BUILD}
        md run -d --name web -p 8080:80 busybox sh -c {SERVER} >/dev/null
        until_there curl -s http://127.0.0.1:8080/
        md build -q --no-cache -t page context >/dev/null && md run --rm page cat /page
        md run --rm page ls /etc/hosts
        md build -q --no-cache --network none context >/dev/null 2>&1 || echo refused
        md rm -f web >/dev/null
        """)
    assert out == "it works\n/etc/hosts\nrefused\n", err


def test_forwarding_is_said_once(host):
    out, err = host("for i in 1 2 3; do md run --rm busybox echo $i; done")
    assert out == "1\n2\n3\n"
    assert err == "minidocker: warning: eth0 forwards what is for containers, until the last network is gone\n"


# A host that has no nft: what is mounted there cannot be executed
WITHOUT = "for place in $(type -ap nft); do mount --bind /dev/null $place; done;"


def test_a_host_without_a_firewall_runs_images_without_a_network_and_says_so_once(host):
    out, err = host(f"""
        unshare --mount bash -c '{WITHOUT} exec sleep 60' & sleep 0.3
        without() {{ nsenter --mount=/proc/$!/ns/mnt {sys.executable} -m minidocker "$@"; }}
        for i in 1 2; do without run --rm busybox ls /sys/class/net; done
        without run --rm -p 80 busybox true; echo $?
        """)
    assert out == "lo\nlo\n125\n"
    warning, error = err.splitlines()
    assert warning == "minidocker: warning: containers have no network: " + error.removeprefix("minidocker: ")
    assert error.endswith("apt install nftables, or --network none or host")

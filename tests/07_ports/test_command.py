"""Chapter 7, the command: -p, --network and their like, and the verbs about networks. In a network of their own."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.images import REPO

pytestmark = pytest.mark.chapter(7)


def host(home, script):
    """Run a shell script on a host of its own: a new network namespace, with `md` for the command."""
    head = f"web=web{os.getpid()}\nip link set lo up\n"
    head += f'md() {{ {sys.executable} -m minidocker "$@"; }}\n'
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    argv = ["unshare", "--net", "bash", "-c", head + script]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)


SERVE = """
serve='echo it works >/index.html; echo ready; exec httpd -f -h /'
python -m minidocker run --rm --name $web -p 127.0.0.1:8080:80 busybox sh -c "$serve" >log &
server=$!
until grep -q ready log; do sleep 0.05; done
until curl -s http://127.0.0.1:8080/; do sleep 0.05; done
"""


def test_a_published_port_a_name_and_the_verbs(home, tmp_path):
    script = f"cd {tmp_path}\n{SERVE.replace('python', sys.executable)}\n" + (
        "md run --network bridge busybox wget -qO- http://$web/ 2>/dev/null\n"
        "md network inspect bridge >inspected\n"
        "md network rm bridge\n"
        "kill -9 $server; wait\n"
        "md prune >pruned; md network ls -q; ip -br link | grep -c 'md.*-'\n"
    )
    result = host(home, script)
    assert result.stdout.split("\n")[:2] == ["it works", "it works"]
    assert f"web{os.getpid()}" in json.loads((tmp_path / "inspected").read_text())[0]["containers"]
    assert "in use by web" in result.stderr
    assert result.stdout.split("\n")[2:] == ["0", ""]


def test_networks_are_made_and_removed(home):
    result = host(
        home, "md network create --subnet 10.9.0.0/24 blue; md network ls -q; md network rm blue; md network ls -q"
    )
    assert result.stdout == "blue\nblue\nblue\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("run -p 99999:80 busybox true", "99999"),
        ("run -p 127.0.0.1:80-81:80-82 busybox true", "80-81:80-82"),
        ("run --network nosuch busybox true", "network create nosuch"),
        ("run --network container:nosuch busybox true", "nosuch"),
        ("run --network host -p 1:1 busybox true", "network of our own"),
        ("run --network bridge --egress fast busybox true", "fast"),
        ("network create --subnet 10.9.0.0/33 x", "10.9.0.0/33"),
        ("network rm nosuch", "nosuch"),
    ],
)
def test_a_mistake_is_one_line(home, words, text):
    result = host(home, f"md {words}")
    assert text in result.stderr
    assert result.returncode
    assert len(result.stderr.splitlines()) == 1


LOCALHOST = """127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
fe00:: ip6-localnet
ff00:: ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


@pytest.mark.parametrize(
    ("words", "name", "line"),
    [
        ("--name called", "called", "10.77.0.2 called"),
        ("--name called --network none", "called", "127.0.0.1 called"),
        ("--name called -h host.example", "host.example", "10.77.0.2 called host.example"),
        ("--net none -h host.example", "host.example", "127.0.0.1 host.example"),
        ("--name called --net bridge -h inner", "inner", "10.77.0.2 called inner"),
    ],
)
def test_the_files_of_etc_are_the_container_s(home, words, name, line):
    script = "cat /etc/hostname; hostname; sed 's/\\t/ /' /etc/hosts | grep -v ^fd; ls -A /dev | grep host"
    result = host(home, f'md run --rm {words} busybox sh -c "{script}"')
    assert result.stdout == f"{name}\n{name}\n{LOCALHOST}{line}\n", result.stderr


def test_a_container_without_a_network_may_write_its_files_and_a_volume_lies_on_top(home, tmp_path):
    (tmp_path / "hosts").write_text("192.0.2.9 mine\n")
    script = "echo 192.0.2.7 gate >> /etc/hosts; tail -n 1 /etc/hosts"
    assert host(home, f'md run --network none busybox sh -c "{script}"').stdout == "192.0.2.7 gate\n"
    for network in ("none", "bridge"):
        result = host(home, f"md run --network {network} -v {tmp_path}/hosts:/etc/hosts busybox cat /etc/hosts")
        assert result.stdout == "192.0.2.9 mine\n"


@pytest.mark.parametrize("etc", ["rm -rf /etc && ln -s /../../../nowhere /etc", "ln -sf /root/x /etc/hosts"])
def test_an_image_without_a_place_for_the_files_runs_without_them(home, tmp_path, etc):
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN --network=none {etc}\n")
    result = host(home, f"md build -q -t odd {tmp_path} >/dev/null && md run odd echo runs")
    assert result.stdout == "runs\n", result.stderr


def test_docker_s_spellings(home):
    script = "cat /etc/hosts | grep gate | tr '\\t' ' '"
    result = host(home, f'md run --net bridge --add-host gate:host-gateway -p 127.0.0.1:0:80 busybox sh -c "{script}"')
    assert result.stdout == "10.77.0.1 gate\n", result.stderr

"""Claim C9: one volume in several containers at once; then on two hosts, over a network file system that is cut."""

import collections
import os
import pathlib
import shutil

import cluster
import pytest
import servers

from minidocker import files
from minidocker.namespaces import Join
from minidocker.process import run, start
from minidocker.volumes import store
from tests.helpers import HOME, need, until

pytestmark = [pytest.mark.chapter(6), pytest.mark.usefixtures("own_home")]
assert str(HOME) in servers.BUSYBOX  # the roots of this machine, read before a test names another home


@pytest.fixture
def layer(tmp_path):
    need(shutil.which("nginx", path="/usr/sbin:/usr/bin"), "needs nginx: apt-get install nginx-light")
    need(shutil.which("curl"), "needs curl: apt-get install curl")
    return servers.make_layer(str(tmp_path / "layer"))


@pytest.fixture
def hosts(tmp_path):
    for program in ("sshfs", "sshd", "ip"):
        path = "/usr/local/bin:/usr/bin:/usr/sbin:/sbin:/bin"
        need(shutil.which(program, path=path), f"needs {program}: apt-get install sshfs openssh-server iproute2")
    need(os.access("/dev/fuse", os.W_OK), "needs /dev/fuse: modprobe fuse")
    with cluster.Cluster(str(tmp_path / "cluster")) as pair:
        yield pair


def test_three_servers_share_pages_and_logs_and_no_request_is_lost(layer):
    sent = {"web1": 120, "web2": 70, "web3": 10}
    with (
        start(*servers.web_server("web1", layer)) as web1,
        start(*servers.web_server("web2", layer)) as web2,
        start(*servers.web_server("web3", layer)) as web3,
        start(*servers.log_processor()) as counter,
    ):
        machines, seen = {"web1": web1, "web2": web2, "web3": web3}, {}
        lines = counter.lines()

        def count(number):
            for _ in range(number):
                name, so_far = next(lines).split()
                seen[name] = int(so_far)

        servers.requests(web1, 5)
        count(5)  # as they happen: nobody has been asked for more yet
        assert seen == {"web1": 5}
        clients = {
            name: start(
                ["curl", "-s", "--retry", "20", "--retry-connrefused", f"http://127.0.0.1/?[1-{number}]"],
                Join(machines[name].pid, "net"),
            )
            for name, number in {**sent, "web1": 115}.items()
        }
        for name, client in clients.items():
            assert client.wait(60).stdout == "the page of the image\n" * (115 if name == "web1" else sent[name])
        count(195)
        assert seen == sent
        counter.kill()
        assert [*lines] == []

        # one file, whoever looks at it, and a new page is seen by all at once
        identity = {
            name: run(["stat", "-c", "%d %i", "/var/www/index.html"], Join(machine.pid)).stdout
            for name, machine in machines.items()
        }
        assert len({*identity.values()}) == 1
        pathlib.Path(store.inspect("pages")["Mountpoint"], "index.html").write_text("a new page\n")
        assert {servers.requests(machine, 1) for machine in machines.values()} == {"a new page"}
        assert run(["sh", "-c", "echo mine > /var/www/index.html"], Join(web1.pid)).exit_code != 0
    log = pathlib.Path(store.inspect("logs")["Mountpoint"], "access.log").read_text().splitlines()
    assert collections.Counter(line.split()[0] for line in log) == {name: number + 1 for name, number in sent.items()}
    assert {len(line.split()) for line in log} == {3}, "a line was torn"


def test_the_log_goes_on_while_servers_come_and_go(layer):
    """A server that is killed loses nothing that it has answered; its successor appends to the same log."""
    answered = 0
    for _ in range(3):
        with start(*servers.web_server("web", layer)) as server:
            servers.requests(server, 20)
            answered += 20
            server.kill()
    log = pathlib.Path(store.inspect("logs")["Mountpoint"], "access.log").read_text().splitlines()
    assert len(log) == answered


def test_servers_that_share_need_no_more_disk(layer):
    pathlib.Path(layer, "var/www/film").write_bytes(os.urandom(2 << 20))
    processes = [start(*servers.web_server(f"web{number}", layer)) for number in range(3)]
    shared = files.usage([store.inspect("pages")["Mountpoint"]])
    copies = [store.create(f"copy{number}") for number in range(3)]
    for name in copies:
        run(*servers.container(["true"], "filler", [layer, servers.BUSYBOX], f"{name}:/var/www"))
    assert 2 << 20 <= shared < 2.1 * (1 << 20)
    assert files.usage(store.inspect(name)["Mountpoint"] for name in copies) == 3 * shared
    for process in processes:
        process.kill()
        process.wait()


# Two hosts


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def test_two_hosts_share_a_volume_over_the_network(hosts, tmp_path):
    one, other = hosts
    assert one.run("-v", "shared:/shared", "sh", "-c", "echo from one > /shared/file").exit_code == 0
    done = other.run(
        "-v", "shared:/shared", "sh", "-c", "cat /shared/file; mount | grep -c fuse.sshfs; echo > /shared/new"
    )
    assert done.stdout == "from one\n1\n"
    assert (tmp_path / "cluster/files/new").exists()
    assert one.run("-v", "shared:/shared:ro", "ls", "/shared").stdout == "file\nnew\n"
    assert "Read-only" in other.run("-v", "shared:/shared:ro", "sh", "-c", "echo > /shared/x").stderr
    # they are two: neither state directory has the other's volumes, and two networks have nothing else in common
    assert not (tmp_path / "cluster/one/volumes/shared/_data/file").exists()
    assert other.command("ip", "-o", "link").stdout.count("\n") == 2


def test_what_was_acknowledged_survives_a_cut_of_the_network(hosts, tmp_path):
    one, other = hosts
    written = tmp_path / "cluster/files/log"
    other.env["MINIDOCKER_ROOT"] = "debian"  # whose dd knows fsync(2) and O_APPEND
    acknowledged, refusals, cut, mended = [], [], 0, 0
    with other.start("-v", "shared:/shared", "sh", "-c", cluster.APPENDS) as writer:
        for line in writer.lines():
            word, _, rest = line.partition(" ")
            (acknowledged if word == "acknowledged" else refusals).append(rest)
            if len(acknowledged) == 20 and not cut:
                other.link("down")
                cut = 20
            elif cut and not mended and len(refusals) >= 2:
                other.link("up")
                mended = len(acknowledged)
            if mended and len(acknowledged) >= mended + 20:
                break
    assert all("dd:" in text for text in refusals)
    assert any("Input/output error" in text or "not connected" in text for text in refusals), refusals
    there = lines_of(written)
    assert [number for number in acknowledged if number not in there] == []
    refused = {text.split(":")[0] for text in refusals}
    others = {number for number in there if int(number) <= int(acknowledged[-1])} - {*acknowledged}
    assert others <= refused, "what is neither acknowledged nor refused was never written"
    reader = one.run("-v", "shared:/shared:ro", "cat", "/shared/log").stdout.splitlines()
    assert [number for number in acknowledged if number not in reader] == []


def test_a_server_that_is_not_there_is_a_clear_error(hosts):
    one, other = hosts
    one.link("down")
    done = other.run("-v", "shared:/shared", "true")
    assert done.exit_code == 125
    assert done.stderr.count("\n") == 1
    assert "volume shared: mount -t fuse.sshfs" in done.stderr
    assert "Connection" in done.stderr or "No route" in done.stderr, done.stderr
    one.link("up")
    assert until(lambda: other.run("-v", "shared:/shared", "true").exit_code == 0)


def test_sshfs_ends_with_its_last_user_also_a_killed_one(hosts):
    _, other = hosts
    with other.start("-v", "shared:/shared", "sh", "-c", "echo ready; sleep 1000") as process:
        assert next(process.lines()) == "ready"
        assert other.run("-v", "shared:/shared", "true").exit_code == 0
        assert sshfs_in(other)
        process.kill()
    assert until(lambda: not sshfs_in(other))


def sshfs_in(host):
    """The sshfs processes in the network namespace of a host."""
    home = os.stat(f"/proc/{host.keeper.pid}/ns/net").st_ino
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.stat(path / "ns/net").st_ino == home and (path / "comm").read_text().strip() in ("sshfs", "ssh"):
                found.append(path.name)
        except OSError:
            pass  # it has ended
    return found

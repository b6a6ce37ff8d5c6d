"""Chapter 11: Podman over our runtime: containers, pods, and what Kubernetes would be told, from a file."""

import json
import os

import pytest
from machines import Machine, podman, until, write

from tests.helpers.standard import Client, needs, needs_room, runtime

pytestmark = [pytest.mark.chapter(11), needs_room]
SLEEP = ["busybox", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"]
# Where there is a hierarchy of systemd's beside others, Podman 4.3 leaves the group of a pod in it
FORGOTTEN = ["sh", "-c", "rmdir /sys/fs/cgroup/systemd/libpod_parent/[0-9a-f]* 2>/dev/null || true"]
# Its image names no PATH, and Podman gives a pod's containers none
KUBE = """
apiVersion: v1
kind: Pod
metadata:
  name: shop
spec:
  containers:
  - name: web
    image: docker.io/library/busybox:latest
    imagePullPolicy: Never
    command: [/bin/httpd, -f, -h, /etc]
    resources:
      limits:
        memory: 64Mi
  - name: visitor
    image: docker.io/library/busybox:latest
    imagePullPolicy: Never
    command: [/bin/sh, -c, "until wget -qO- http://localhost/hostname; do sleep 0.1; done; sleep 600"]
"""


@pytest.fixture(scope="module")
def engine():
    """A Podman whose runtime is ours; its containers have no network."""
    needs("podman", "conmon")
    with Machine("engine") as host, podman(host, runtime(host)) as words:
        client = Client(host, words)
        client.ask("run", "--rm", "--network=none", "busybox", "true")
        yield client


@pytest.fixture
def box(engine):
    """A container that ends with 3 when it is asked to; its name."""
    name = f"box-{os.urandom(4).hex()}"
    engine.ask("run", "-d", "--name", name, "--network=none", "--memory=64m", *SLEEP)
    assert until(lambda: engine.ask("logs", name) == "up")
    yield name
    engine.removed(name)


def test_run_returns_the_exit_code_and_both_streams(engine):
    done = engine.code("run", "--rm", "--network=none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert done == (7, "out\n", "err\n")
    assert engine.code("run", "--rm", "--network=none", "busybox", "/nothing")[0] == 127
    assert engine.code("run", "--rm", "--network=none", "busybox", "/etc")[0] == 126


def test_a_terminal_is_one(engine):
    words = ["run", "--rm", "-t", "--network=none", "busybox", "sh", "-c", "test -t 0 && test -t 1 && echo yes"]
    assert engine.ask(*words) == "yes"


def test_it_names_the_runtime(engine, box):
    path = engine.ask("inspect", "--format", "{{.OCIRuntime}}", box)
    assert path in " ".join(engine.words)


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [
        (["--hostname=web"], "hostname", "web"),
        (["--user=1000:100"], "id -u; id -g", "1000 100"),
        (["--read-only", "--read-only-tmpfs=false"], "touch /x 2>/dev/null || echo no", "no"),
        (["--tmpfs=/t:size=1m"], "df -k /t | tail -n1 | awk '{print $2}'", "1024"),
        (["--cap-drop=all", "--cap-add=chown"], "grep CapEff /proc/self/status", "CapEff: 0000000000000001"),
        ([], "grep Seccomp: /proc/self/status", "Seccomp: 2"),
        (["--volume=/etc:/host:ro"], "touch /host/x 2>/dev/null || echo ro", "ro"),
        (["--sysctl=kernel.msgmax=9999"], "cat /proc/sys/kernel/msgmax", "9999"),
        (["--uidmap=0:100000:1000", "--gidmap=0:100000:1000"], "id -u; cat /proc/self/uid_map", "0 0 100000 1000"),
    ],
)
def test_an_option_of_run_is_a_part_of_config_json(engine, options, script, said):
    assert engine.ask("run", "--rm", "--network=none", *options, "busybox", "sh", "-c", script).split() == said.split()


def test_exec_logs_stop_start_kill(engine, box):
    assert engine.code("exec", box, "sh", "-c", "echo in; exit 5")[:2] == (5, "in\n")
    assert engine.code("exec", "-i", box, "cat", stdin=b"typed")[1] == "typed"
    assert engine.ask("exec", "-t", box, "sh", "-c", "test -t 1 && echo yes") == "yes"
    engine.ask("stop", "-t", "5", box)
    assert engine.ask("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", box) == "exited 3"
    engine.ask("start", box)
    assert until(lambda: engine.ask("logs", box).split() == ["up", "up"])
    engine.ask("kill", box)
    assert engine.ask("wait", box) == "137"


def test_pause_top_and_stats(engine, box):
    engine.ask("pause", box)
    assert engine.ask("inspect", "--format", "{{.State.Status}}", box) == "paused"
    engine.ask("unpause", box)
    assert "sleep" in engine.ask("exec", box, "ps")
    (used,) = json.loads(engine.ask("stats", "--no-stream", "--format", "json", box))
    assert used["mem_usage"].endswith("67.11MB") and int(used["pids"]) >= 1


def test_update_changes_a_limit_while_it_runs(engine, box):
    engine.ask("update", "--memory=48m", box)
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert engine.code("exec", box, "sh", "-c", read)[1].split() == [str(48 << 20)]


def test_the_containers_of_a_pod_share_network_and_host_name(engine):
    engine.ask("pod", "create", "--name=shop", "--network=none")
    engine.ask("run", "-d", "--pod=shop", "--name=web", "busybox", "httpd", "-f", "-h", "/etc")
    name = engine.ask("run", "--rm", "--pod=shop", "busybox", "wget", "-qO-", "http://localhost/hostname")
    assert name == engine.ask("exec", "web", "hostname")
    spaces = [
        engine.ask("run", "--rm", "--pod=shop", "busybox", "readlink", f"/proc/self/ns/{kind}")
        == engine.ask("exec", "web", "readlink", f"/proc/self/ns/{kind}")
        for kind in ("net", "uts", "ipc", "mnt", "pid")
    ]
    assert spaces == [True, True, True, False, False]
    engine.ask("pod", "rm", "-f", "-t", "0", "shop")
    engine.host.do(*FORGOTTEN)


def test_kube_play_makes_what_a_kubelet_would(engine):
    file = write(engine.host, "/run/kube.yaml", KUBE)
    try:
        engine.ask("kube", "play", "--network=none", file)
        name = engine.ask("exec", "shop-web", "/bin/hostname")
        assert until(lambda: engine.ask("logs", "shop-visitor") == name)
        read = "/bin/cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
        assert engine.code("exec", "shop-web", "/bin/sh", "-c", read)[1].split() == [str(64 << 20)]
    finally:
        engine.ask("kube", "down", file)
        engine.host.do(*FORGOTTEN)
    assert engine.ask("ps", "-aq") == ""

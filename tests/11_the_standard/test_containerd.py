"""Chapter 11: containerd over our runtime: by its own client, and as a node of Kubernetes asks it, by the CRI."""

import pytest
from cri import CTR, Kubelet, containerd, decode, encode, varint
from machines import IMAGE, Machine, until

from tests.helpers.standard import Client, needs, needs_room, runtime

pytestmark = [pytest.mark.chapter(11), needs_room]
POD = {
    "metadata": {"name": "shop", "uid": "1", "namespace": "default"},
    "hostname": "shop",
    "log_directory": "/run/logs",
}
POD |= {"port_mappings": [{"container_port": 80, "host_port": 8080}], "linux": {}}


@pytest.fixture(scope="module")
def node():
    """A machine with containerd; its runtime, and a kubelet that talks to it."""
    needs("containerd", "ctr")
    with Machine("node") as host:
        path = runtime(host)
        with containerd(host, path) as kubelet:
            host.do(*CTR, "run", "--rm", "--runc-binary", path, IMAGE, "first", "true")
            pod = kubelet.RunPodSandbox(config=POD | {"metadata": POD["metadata"] | {"uid": "0"}})["pod_sandbox_id"]
            kubelet.RemovePodSandbox(pod_sandbox_id=pod)
            yield host, path, kubelet


@pytest.fixture
def ctr(node):
    """containerd's client: `ctr.run(...)` has our runtime."""
    host, path, _ = node
    client = Client(host, CTR)
    client.run = lambda *words: client.code("run", "--runc-binary", path, *words)
    return client


def test_ctr_run_returns_the_exit_code_and_both_streams(ctr):
    assert ctr.run("--rm", IMAGE, "box", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")


def test_ctr_exec_pause_metrics_kill_delete(ctr):
    assert ctr.run("-d", "--memory-limit", str(64 << 20), IMAGE, "box", "sleep", "600")[0] == 0
    try:
        assert ctr.ask("task", "exec", "--exec-id=1", "box", "sh", "-c", "cat /proc/1/comm") == "sleep"
        assert ctr.code("task", "exec", "--exec-id=2", "box", "sh", "-c", "exit 5")[0] == 5
        assert "sleep" in ctr.host.do("ps", "-eo", "args")
        ctr.ask("task", "pause", "box")
        assert "PAUSED" in ctr.ask("task", "ls")
        ctr.ask("task", "resume", "box")
        assert "RUNNING" in ctr.ask("task", "ls")
        assert "memory" in ctr.ask("task", "metrics", "box")
        assert len(ctr.ask("task", "ps", "box").splitlines()) == 2
    finally:
        ctr.ask("task", "kill", "-s", "SIGKILL", "box")
        assert until(lambda: "STOPPED" in ctr.ask("task", "ls"))
        ctr.code("task", "delete", "box")
        ctr.ask("container", "delete", "box")


@pytest.fixture
def pod(node):
    """A pod of Kubernetes; its ID."""
    host, _, kubelet = node
    host.do("mkdir", "-p", "/run/logs")
    made = kubelet.RunPodSandbox(config=POD)["pod_sandbox_id"]
    yield made
    kubelet.StopPodSandbox(pod_sandbox_id=made)
    kubelet.RemovePodSandbox(pod_sandbox_id=made)


def container(kubelet, pod, name, *command, **more):
    config = {"metadata": {"name": name}, "image": {"image": IMAGE}, "command": [*command], "log_path": f"{name}.log"}
    made = kubelet.CreateContainer(pod_sandbox_id=pod, config=config | {"linux": {}} | more, sandbox_config=POD)
    kubelet.StartContainer(container_id=made["container_id"])
    return made["container_id"]


def test_a_pod_as_a_kubelet_makes_it(node, pod):
    host, _, kubelet = node
    assert kubelet.Version()["runtime_name"] == "containerd"
    serve = "echo up; echo oh >&2; mkdir /www; echo page >/www/index.html; exec httpd -f -h /www"
    limit = {"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_period": 100000, "cpu_quota": 50000}}
    web = container(kubelet, pod, "web", "sh", "-c", serve, envs=[{"key": "A", "value": "b c"}], linux=limit)
    asked = "until wget -qO- localhost; do sleep 0.1; done; echo $A; hostname; exit 3"
    answer = kubelet.ExecSync(container_id=web, cmd=["sh", "-c", asked], timeout=20)
    assert answer["stdout"].split() == ["page", "b", "c", "shop"] and answer["exit_code"] == 3
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert kubelet.ExecSync(container_id=web, cmd=["sh", "-c", read])["stdout"].split() == [str(64 << 20)]
    lines = [line.split(" ", 1)[1] for line in host.do("cat", "/run/logs/web.log").splitlines()]
    assert sorted(lines) == ["stderr F oh", "stdout F up"]
    address = kubelet.PodSandboxStatus(pod_sandbox_id=pod)["status"]["network"]["ip"]
    for place in (f"{address}:80", "127.0.0.1:8080"):
        assert host.do("curl", "-s", "--noproxy", "*", "-m", "5", f"http://{place}/") == "page"
    kubelet.StopContainer(container_id=web, timeout=1)
    status = kubelet.ContainerStatus(container_id=web)["status"]
    assert status["state"] == 2 and status["exit_code"] in (137, 143)
    kubelet.RemoveContainer(container_id=web)
    assert kubelet.ListContainers() == {}


@pytest.mark.parametrize("processes", [0, 1])  # those of the pod, or of each container, which is Kubernetes' default
def test_containers_of_a_pod_share_network_ipc_and_host_name(node, pod, processes):
    kubelet, linux = node[2], {"security_context": {"namespace_options": {"pid": processes}}}
    both = [container(kubelet, pod, name, "sleep", "600", linux=linux) for name in ("one", "two")]
    links = ["sh", "-c", "cd /proc/self/ns; for kind in net ipc uts pid mnt; do readlink $kind; done"]
    first, second = (kubelet.ExecSync(container_id=one, cmd=links)["stdout"].split() for one in both)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, True, processes == 0, False]


def test_a_volume_is_a_mount_of_a_directory(node, pod):
    host, _, kubelet = node
    host.do("sh", "-c", "mkdir -p /run/volume; echo page >/run/volume/page")
    mount = [{"container_path": "/data", "host_path": "/run/volume", "readonly": 1}]
    box = container(kubelet, pod, "box", "sleep", "600", mounts=mount)
    answer = kubelet.ExecSync(container_id=box, cmd=["sh", "-c", "cat /data/page; touch /data/x"])
    assert answer["stdout"] == "page\n" and "Read-only" in answer["stderr"] and answer["exit_code"] == 1


def test_the_walls_that_a_pod_asks_for(node, pod):
    walls = {"security_context": {"readonly_rootfs": 1, "no_new_privs": 1, "seccomp": {"profile_type": 0}}}
    box = container(node[2], pod, "box", "sleep", "600", linux=walls)
    asked = "touch /x 2>/dev/null || echo read-only; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"
    answer = node[2].ExecSync(container_id=box, cmd=["sh", "-c", asked])
    assert answer["stdout"].split() == ["read-only", "NoNewPrivs:", "1", "Seccomp:", "2"]


def test_an_error_of_the_node_is_one_here(node):
    with pytest.raises(RuntimeError, match="StartContainer: .*not found"):
        node[2].StartContainer(container_id="nothing")


def test_a_container_that_cannot_start_says_why(node, pod):
    with pytest.raises(RuntimeError, match="/nothing"):
        container(node[2], pod, "wrong", "/nothing")


# The messages


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 32, (1 << 63) - 1])
def test_a_number_is_read_as_it_was_written(number):
    assert decode("ExecSyncResponse", b"\x18" + varint(number)) == {"exit_code": number}


def test_a_message_is_read_as_it_was_written():
    values = {"pod_sandbox_id": "a", "config": {"command": ["sh", "-c"], "envs": [{"key": "A", "value": "ü"}]}}
    assert decode("CreateContainerRequest", encode("CreateContainerRequest", values)) == values


def test_the_example_of_the_documentation():
    assert encode("ExecSyncResponse", {"exit_code": 150}) == b"\x18\x96\x01"  # protobuf.dev, Encoding
    assert decode("ExecSyncResponse", b"\x12\x07testing\xfa\x06\x02??\x18\x03") == {"stderr": "testing", "exit_code": 3}


def test_nobody_listens(tmp_path):
    with pytest.raises(FileNotFoundError):
        Kubelet(str(tmp_path / "socket")).Version()

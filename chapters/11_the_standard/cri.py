"""What a kubelet says to containerd, for the lab and the tests of chapter 11: the Container Runtime Interface, CRI.

    with Machine("node") as node, containerd(node, RUNTIME) as kubelet:
        pod = kubelet.RunPodSandbox(config={"metadata": {"name": "shop", "uid": "1", "namespace": "default"}})

The calls are gRPC: HTTP/2 requests to a Unix socket, with one message each way. A message is a series of fields: a
number, a type, the value: protobuf.dev, "Encoding". PROTO has those that we use, from Kubernetes' cri-api, api.proto.
"""

import contextlib
import json
import os
import re
import socket
import sys

import h2.connection
import h2.events
from machines import ENV, archive, daemon, write

# Message field=number, and ":Type" if the field is a message, "*" if there are several
PROTO = """\
VersionResponse runtime_name=2 runtime_version=3 runtime_api_version=4
RunPodSandboxRequest config=1:PodSandboxConfig runtime_handler=2
RunPodSandboxResponse pod_sandbox_id=1
PodSandboxConfig metadata=1:Metadata hostname=2 log_directory=3 port_mappings=5:PortMapping* linux=8:LinuxPod
Metadata name=1 uid=2 namespace=3 attempt=4
PortMapping protocol=1 container_port=2 host_port=3
LinuxPod cgroup_parent=1 security_context=2:PodSecurity
PodSecurity namespace_options=1:Spaces
Spaces network=1 pid=2 ipc=3
PodSandboxStatusRequest pod_sandbox_id=1
PodSandboxStatusResponse status=1:PodSandboxStatus
PodSandboxStatus id=1 metadata=2:Metadata state=3 network=5:Network
Network ip=1
StopPodSandboxRequest pod_sandbox_id=1
RemovePodSandboxRequest pod_sandbox_id=1
CreateContainerRequest pod_sandbox_id=1 config=2:ContainerConfig sandbox_config=3:PodSandboxConfig
CreateContainerResponse container_id=1
ContainerConfig metadata=1:Name image=2:Image command=3* args=4* working_dir=5 envs=6:Variable* mounts=7:Mount* \
log_path=11 linux=15:Linux
Name name=1 attempt=2
Image image=1
Variable key=1 value=2
Mount container_path=1 host_path=2 readonly=3
Linux resources=1:Resources security_context=2:Security
Security privileged=2 namespace_options=3:Spaces readonly_rootfs=7 no_new_privs=11 seccomp=15:Profile
Profile profile_type=1
Resources cpu_period=1 cpu_quota=2 cpu_shares=3 memory_limit_in_bytes=4 oom_score_adj=5
StartContainerRequest container_id=1
StopContainerRequest container_id=1 timeout=2
RemoveContainerRequest container_id=1
ContainerStatusRequest container_id=1
ContainerStatusResponse status=1:ContainerStatus
ContainerStatus id=1 state=3 exit_code=7 reason=10
ListContainersResponse containers=1:Container*
Container id=1 pod_sandbox_id=2 metadata=3:Name state=6
ExecSyncRequest container_id=1 cmd=2* timeout=3
ExecSyncResponse stdout=1 stderr=2 exit_code=3
"""
MESSAGES = {
    line.split()[0]: {
        name: (int(number), kind, bool(several))
        for name, number, kind, several in re.findall(r"(\w+)=(\d+):?(\w*)(\*?)", line)
    }
    for line in PROTO.splitlines()
}


def varint(number):
    """Seven bits in each byte, the lowest first; the eighth says that more follow."""
    head = bytes([number & 127 | 128 * (number > 127)])
    return head + (varint(number >> 7) if number > 127 else b"")


def encode(message, values):
    """A dict as the bytes of this message."""
    made = b""
    for name, value in values.items():
        number, kind, _ = MESSAGES[message][name]
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                made += varint(number << 3) + varint(one)
            else:
                data = encode(kind, one) if kind else one.encode()
                made += varint(number << 3 | 2) + varint(len(data)) + data
    return made


def decode(message, data):
    """The bytes of this message as a dict. What PROTO does not name is left out."""
    found, names = {}, {number: (name, *rest) for name, (number, *rest) in MESSAGES.get(message, {}).items()}
    data = iter(data)

    def number():
        value = place = 0
        for byte in data:
            value |= (byte & 127) << place
            place += 7
            if byte < 128:
                return value
        return None

    while (tag := number()) is not None:
        value = number() if tag & 7 == 0 else bytes(next(data) for _ in range(number()))
        name, kind, several = names.get(tag >> 3, ("", "", False))
        if not isinstance(value, int):
            value = decode(kind, value) if kind else value.decode(errors="replace")
        if several:
            found.setdefault(name, []).append(value)
        elif name:
            found[name] = value
    return found


class Kubelet:
    """Each call of the interface is a method, `kubelet.StartContainer(container_id=...)`; its answer is a dict."""

    def __init__(self, path):
        self.path = path

    def __getattr__(self, method):
        return lambda **values: self.call(method, values)

    def call(self, method, values):
        """One request. In front of a message stand five bytes: not compressed, and its length."""
        body = encode(f"{method}Request", values) if values else b""
        head = [(":method", "POST"), (":scheme", "http"), (":path", f"/runtime.v1.RuntimeService/{method}")]
        head += [(":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")]
        connection, answer, trailers = h2.connection.H2Connection(), b"", {}
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(60)
            wire.connect(self.path)
            connection.initiate_connection()
            connection.send_headers(1, head)
            connection.send_data(1, b"\0" + len(body).to_bytes(4, "big") + body, end_stream=True)
            while "grpc-status" not in trailers:  # the last that comes
                wire.sendall(connection.data_to_send())
                if not (data := wire.recv(65536)):
                    break
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        answer += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, 1)
                    elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        trailers |= {os.fsdecode(name): os.fsdecode(text) for name, text in event.headers}
        if trailers.get("grpc-status") != "0":
            raise RuntimeError(f"{method}: {trailers.get('grpc-message', 'no answer')}")
        return decode(f"{method}Response", answer[5:])


CONFIG = """
version = 2
root = "/run/containerd-data"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:latest"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/run/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "%s"
"""
# A bridge for the pods of this node, addresses for them, and a way for ports of the node to them
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


@contextlib.contextmanager
def containerd(host, runtime):
    """containerd with its CRI plugin, whose containers are of this runtime: a Kubelet that talks to it."""
    host.do("mkdir", "/run/cni")
    write(host, "/run/cni/10-pods.conflist", json.dumps(NETWORK))
    config = write(host, "/run/containerd.toml", CONFIG % runtime)
    with daemon(host, [*CTR, "version"], "containerd", "--config", config):
        host.do(*CTR, "images", "import", archive(host))
        # The container that holds a pod's namespaces: it sleeps. Kubernetes' own is called pause, too.
        ours, env = [sys.executable, "-m", "minidocker"], ENV | {"PYTHONPATH": ":".join(filter(None, sys.path))}
        env["MINIDOCKER_HOME"] = "/run/minidocker"
        host.do(*ours, "load", "-q", "-i", "/run/image.tar", env=env)
        pause = b'FROM busybox\nCMD ["sleep", "2147483647"]\n'
        host.do(*ours, "build", "-q", "-t", "pause", "-", env=env, stdin=pause)
        host.do(*ours, "save", "-o", "/run/pause.tar", "pause", env=env)
        host.do(*CTR, "images", "import", "/run/pause.tar")
        yield Kubelet(host.path("/run/containerd.sock"))


CTR = ["ctr", "--address=/run/containerd.sock", "--namespace=k8s.io"]

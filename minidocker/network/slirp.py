"""Chapter 9: a network without root: slirp4netns(1), a program of the user, is the router of the container.

Slirp("bridge", ports=["8080:80"], root=root)                   # what `Network` is for root
"""

from __future__ import annotations

import json
import os
import socket
import subprocess

from minidocker import state
from minidocker.cgroups.hierarchy import read
from minidocker.images.inside import LOCALHOST
from minidocker.network import Network, resolv_conf
from minidocker.network.networks import DEFAULT, write
from minidocker.network.ports import reserve
from minidocker.outcome import ContainerError

GATEWAY, SERVER, ADDRESS = "10.0.2.2", "10.0.2.3", "10.0.2.100"  # slirp4netns(1)


class Slirp(Network):
    """What the container sends, that program sends as its own; where a port is published, it listens."""

    def _plug_in(self) -> None:
        """The program will bind the ports itself: here it is seen whether they are free, and which ones they are."""
        self._bridged = False  # in the end there is nothing to put right: neither the firewall nor addresses are used
        if self.network != DEFAULT or self.egress or self.ingress:
            raise ContainerError(f"Network: {self.network}: this needs root; without it: none, host, bridge, no limits")
        for port in self.published:
            os.close(reserve(port))
        self.lease, self.addresses = state.directory(self.container), [ADDRESS]
        write(f"{self.lease}/elements", self._elements([]))  # no firewall reads them, but `minidocker port`
        extra = self.extra.replace("host-gateway\t", f"{GATEWAY}\t")
        write(f"{self.lease}/hosts", f"{LOCALHOST}{ADDRESS}\t{' '.join(self._called())}\n{extra}")
        write(f"{self.lease}/resolv.conf", resolv_conf(self.dns or [SERVER]))

    def attach(self, pid: int) -> None:
        """Start it, and wait until it is ready. It ends when nobody holds our end of a socket, however that happens.
        The loopback interface of the host stays closed to the container."""
        if not self.lease:
            return
        self.router, theirs = socket.socketpair()
        path = f"{self.lease}/slirp"
        argv = ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox"]
        argv += ["--enable-seccomp", "--exit-fd=0", f"--ready-fd={theirs.fileno()}", f"--api-socket={path}"]
        argv += ["--netns-type=path", f"/proc/{pid}/ns/net", "tap0"]
        with open(f"{path}.log", "wb") as log, theirs:
            subprocess.Popen(argv, stdin=theirs.fileno(), stdout=log, stderr=log, pass_fds=[theirs.fileno()])
        if not self.router.recv(1):
            raise ContainerError(f"Network: slirp4netns: {' '.join(read(f'{path}.log').split())}")
        for port in self.published:
            where = {"host_addr": port.address or "0.0.0.0", "host_port": port.number}
            where |= {"proto": port.protocol, "guest_addr": ADDRESS, "guest_port": port.container}
            with socket.socket(socket.AF_UNIX) as api:
                api.connect(path)
                api.sendall(json.dumps({"execute": "add_hostfwd", "arguments": where}).encode())
                if b"error" in (answer := api.recv(4096)):
                    raise ContainerError(f"Network: slirp4netns: port {port}: {answer.decode()}")

"""The part of `make bench` about chapter 7, and a program of its own: python -m tools.bench.network [RUNS=41].

    network.add       what a network adds to a start: cable, addresses, route; against ip(8), told all at once
    start.networked   a whole `minidocker run -p` of busybox; against the same with podman
    port.latency      a request and its answer through a published port; against the loopback interface, and podman's
    port.throughput   64 MiB through a published port, until the other side has them all; against the same

What is equal. For `network.add` the bridge is there before, and both make a pair of interfaces with one end in the
network namespace of a process that waits, and give that two addresses, two routes and `lo`. Ours chooses the address,
keeps it in a file, and writes the names. ip(8) gets two batches, one for each side. For the ports the server is always
the same busybox in the same root, and the client is this process, which calls 127.0.0.1: one connection for each round
of latency, one for each 64 MiB. Podman has its own default bridge (netavark).

Everything happens in a mount namespace and a network namespace of its own, in which nobody else is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from minidocker import network, state
from minidocker.namespaces import Namespaces
from minidocker.network import Network
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot
from tools.bench import measure, sandbox
from tools.bench.engines import archive, podman_client
from tools.bench.images import seconds
from tools.bench.sandbox import checked, minidocker, own_home

SUBJECT = "minidocker"
ECHO, SINK = 9000, 9001  # ports of the server
SERVER = ["sh", "-c", f"nc -ll -p {ECHO} -e cat & nc -ll -p {SINK} -e sh -c 'cat >/dev/null; echo all'"]
REQUESTS, AMOUNT = 200, 64 << 20
PAUSE = 0.05  # seconds in which the namespace of the run before ends
OUTSIDE = """link add v{0} type veth peer name eth0 netns {0}
link set v{0} master {1} up
link set v{0} type bridge_slave hairpin on
"""
INSIDE = """link set lo up
addr add 10.77.3.200/22 dev eth0
addr add fd00:77::200/64 dev eth0 nodad
link set eth0 up
route add default via 10.77.0.1
route add default via fd00:77::1
"""


class Timed(Network):
    """A network that says how long its moments before the start took; the one inside writes it to standard output."""

    seconds = 0.0

    def _timed(self, moment: Callable[..., object], *arguments: object) -> None:
        begin = time.perf_counter()
        moment(*arguments)
        self.seconds += time.perf_counter() - begin

    def __enter__(self) -> Timed:
        self.seconds = 0.0
        self._timed(super().__enter__)
        return self

    def attach(self, pid: int) -> None:
        self._timed(super().attach, pid)

    def inside(self) -> None:
        begin = time.perf_counter()
        super().inside()
        os.write(1, f"{time.perf_counter() - begin}".encode())


def add(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """The samples of network.add. Its network is its own."""
    os.environ["MINIDOCKER_HOME"] = str(scratch)
    bridge = network.create("bench").interface

    def ours() -> float:
        net = Timed("bench")
        printed = run(["true"], Namespaces("net"), net).stdout
        return net.seconds + float(printed)

    def ip_batch() -> float:
        with start(["sleep", "60"], Namespaces("net")) as process:
            inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", "-batch", "-"]
            begin = time.perf_counter()
            subprocess.run(["ip", "-batch", "-"], input=OUTSIDE.format(process.pid, bridge).encode(), check=True)
            subprocess.run(inside, input=INSIDE.encode(), check=True)
            return time.perf_counter() - begin

    samples = measure.interleaved({SUBJECT: ours, "ip -batch": ip_batch}, runs, pause=PAUSE, progress=progress)
    network.remove("bench")
    return {"network.add": samples}


@contextlib.contextmanager
def loopback(_scratch: Path) -> Iterator[tuple[int, int]]:
    """The server without a network of its own."""
    with start(SERVER, PivotRoot(ROOT)):
        yield ECHO, SINK


@contextlib.contextmanager
def ours(_scratch: Path) -> Iterator[tuple[int, int]]:
    """The server behind two published ports."""
    net = Network(ports=[f"127.0.0.1::{ECHO}", f"127.0.0.1::{SINK}"], root=ROOT)
    with start(SERVER, Namespaces("pid mount uts ipc"), net, PivotRoot(ROOT)):
        yield net.published[0].number, net.published[1].number


@contextlib.contextmanager
def podman(scratch: Path) -> Iterator[tuple[int, int]]:
    """The same with podman's default bridge, its store in memory."""
    client, ports = podman_image(scratch), [f"-p=127.0.0.1:9100:{ECHO}", f"-p=127.0.0.1:9101:{SINK}"]
    checked([*client, "run", "-d", "--name=bench", *ports, "bench", *SERVER])
    try:
        yield 9100, 9101
    finally:
        checked([*client, "rm", "-f", "-t", "0", "bench"])


def podman_image(scratch: Path) -> list[str]:
    """Podman, which has the busybox root as the image `bench`."""
    client = podman_client(scratch, scratch / "podman")
    checked([*client, "import", "-q", str(archive(scratch, Path(ROOT))), "bench"])
    return client


def networked(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """The samples of start.networked: whole commands that publish a port, from posix_spawn(3) to their end."""
    words = ["run", "--rm", "-p", "127.0.0.1:9200:80", "--pull=never"]
    commands = {SUBJECT: minidocker([*words, "busybox", "echo", "up"], own_home(scratch))}
    if client := measure.attempt("podman", partial(podman_image, scratch)):
        commands["podman"] = [*client, *words, "bench", "echo", "up"]
    timed = {name: partial(seconds, argv) for name, argv in commands.items()}
    return {"start.networked": measure.interleaved(timed, runs, warm_up=2, pause=PAUSE, progress=progress)}


def latency(port: int) -> float:
    """Seconds for a request of one byte and its answer: the mean of many on one connection."""
    with connected(port) as connection:
        begin = time.perf_counter()
        for _ in range(REQUESTS):
            connection.send(b"x")
            connection.recv(1)
        return (time.perf_counter() - begin) / REQUESTS


def throughput(port: int) -> float:
    """Seconds until the server has said that it has all of it."""
    data = bytes(1 << 20)
    with connected(port) as connection:
        begin = time.perf_counter()
        for _ in range(AMOUNT >> 20):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(10) != b"all\n":
            raise measure.Missing(f"the server at port {port} did not say that it has everything")
        return time.perf_counter() - begin


def connected(port: int) -> socket.socket:
    """A connection, when somebody listens there."""
    until = time.monotonic() + 10
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def ports(runs: int, scratch: Path, progress: Callable[[int], object] = str) -> dict[str, measure.Samples]:
    """The samples of port.latency and port.throughput; all servers run all the time."""
    os.environ["MINIDOCKER_HOME"] = str(scratch)
    servers, found = {SUBJECT: ours, "loopback": loopback, "podman": podman}, {}
    with contextlib.ExitStack() as stack:
        tried = {name: measure.attempt(name, partial(stack.enter_context, at(scratch))) for name, at in servers.items()}
        places = {name: place for name, place in tried.items() if place}
        for which, measured in enumerate((latency, throughput)):
            timed = {name: partial(measured, place[which]) for name, place in places.items()}
            found[f"port.{measured.__name__}"] = measure.interleaved(timed, runs, progress=progress)
    return found


ROOT = f"{state.home()}/roots/busybox"
PARTS = {networked: ("start.networked",), add: ("network.add",), ports: ("port.latency", "port.throughput")}

if __name__ == "__main__":
    sys.exit(sandbox.program(sys.argv[1:], SUBJECT, PARTS))

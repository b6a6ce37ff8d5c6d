"""Chapter 8: a server that exists only while it serves one request. A small front waits, nothing else does.

    with Front(in_container) as front:          # in_container(connection) makes one for it, and throws it away
        latencies(front.port, 100)              # seconds for each of 100 requests, one after the other

The front waits at a port, like inetd(8) in 1986. With a connection it starts a container whose standard input and
output *are* the connection, so the container needs no network at all. The server in it reads one request, answers and
ends, and everything that it did to its file system ends with it. The same server is measured standing, and in a virtual
machine for each request.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from bench.machine import boot
from minidocker import state
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run, start
from minidocker.rootfs import PivotRoot
from minidocker.union import Union

SERVER = ["httpd", "-h", "/"]  # busybox's; with -i it serves its standard input, with -f it stands
REQUEST = b"GET /etc/hostname HTTP/1.0\r\n\r\n"
TIMEOUT = 60.0  # seconds that a client waits: an emulated machine takes some before it answers


class Front:
    """Threads that accept connections at a port of 127.0.0.1 and call `serve(connection)` for each. `port` is free.

    A start by several threads is the launcher's work, so they do not fork. `workers` is how many are served at once.
    """

    def __init__(self, serve: Callable[[socket.socket], object], workers: int = 2) -> None:
        self.serve = serve
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def _work(self) -> None:
        """Accept, serve, close, until the listener is shut."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ContainerError):  # who asked reads an answer that is empty
                self.serve(connection)

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes those that wait in accept
        for thread in self.threads:
            thread.join()
        self.listener.close()


def walls(namespaces: str = "pid mount uts ipc net") -> list[Isolator]:
    """Behind which the server stands: a file system of its own above the busybox root, which all share."""
    union = Union([os.path.join(state.home(), "roots", "busybox")])
    return [Namespaces(namespaces), union, PivotRoot(union.root)]


def in_container(connection: socket.socket) -> None:
    """Serve one request by a container that is made for it and thrown away. Needs root."""
    run([*SERVER, "-i"], *walls(), stdin=connection.fileno(), stdout=connection.fileno())


def in_machine(connection: socket.socket) -> None:
    """Serve one request by a virtual machine that is booted for it and thrown away.

    Its serial line is a terminal until `stty` has made it a plain one, and loses what comes before: so the request
    waits until the guest says that it is ready.
    """
    ours, theirs = socket.socketpair()
    serve = f"stty raw -echo; echo ready; {' '.join(SERVER)} -i"
    with boot("minimal", serve, stdin=theirs.fileno(), stdout=theirs.fileno()) as machine, ours:
        theirs.close()
        console = ours.makefile("rb", buffering=0)
        if console.readline() != b"ready\n":
            raise ContainerError(f"the guest ended before it was ready: {machine.wait().stderr}")
        ours.sendall(connection.recv(4096))
        while data := console.read(4096):
            connection.sendall(data)


@contextlib.contextmanager
def standing() -> Iterator[int]:
    """The same server, in a container that was there before and stays: yields its port. It uses this host's network."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with start([*SERVER, "-f", "-p", f"127.0.0.1:{port}"], *walls("pid mount uts ipc")) as process:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.alive(), process.wait()
                time.sleep(0.01)
        yield port


def latency(port: int) -> float:
    """The seconds of one request, from the connection to the end of the answer, which must be a good one."""
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(REQUEST)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    if b" 200 OK\r\n" not in answer:
        raise AssertionError(f"port {port} answered {answer[:200]!r}")
    return time.perf_counter() - begin


def latencies(port: int, number: int) -> list[float]:
    """Of so many requests, one after the other."""
    return [latency(port) for _ in range(number)]


def rate(port: int, seconds: float, clients: int = 2) -> float:
    """Requests per second that are answered when so many clients ask all the time."""
    begin = time.monotonic()

    def ask(_: int) -> int:
        done = 0
        while time.monotonic() < begin + seconds:
            latency(port)
            done += 1
        return done

    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(ask, range(clients))) / (time.monotonic() - begin)

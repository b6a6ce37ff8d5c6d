"""Exercise 1: two servers, one port."""

from minidocker.namespaces import Join, Namespaces
from minidocker.process import run, start

ASK = ["busybox", "sh", "-c", "until busybox nc 127.0.0.1 8080; do :; done"]


def server(word):
    """A server for one word, alone in its network and PID namespace."""
    loop = f"while :; do echo {word} | busybox nc -l -p 8080; done"
    return start(["busybox", "sh", "-c", loop], Namespaces("net pid"))


def two_servers():
    """A client joins the network of its server: nobody else can reach that loopback."""
    with server("one") as one, server("two") as two:
        return [run(ASK, Join(process.pid, "net"), timeout=20).stdout for process in (one, two)]

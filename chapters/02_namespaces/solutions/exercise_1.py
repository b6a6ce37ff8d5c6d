"""Exercise 1: two servers, one port."""

from minidocker.namespaces import Namespaces
from minidocker.process import start


def server(word):
    """Alone in its network namespace, where port 8080 is free; and in a PID namespace, so that all of it ends."""
    loop = f"while :; do echo {word} | busybox nc -l -p 8080; done"
    return start(["busybox", "sh", "-c", loop], Namespaces("net pid"))

"""Exercise 2: a port without a firewall: the proxy in user space."""

import socket
import threading


def proxy(server, address, port):
    """Each connection has two threads, one for each direction. This is what docker-proxy does."""
    while True:
        client, _ = server.accept()
        behind = socket.create_connection((address, port))
        for source, target in ((client, behind), (behind, client)):
            threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source, target):
    """Copy until the end, and tell the other side that there is no more."""
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

"""Hosts for the tests of chapter 7: network namespaces of this machine, with a cable between two of them.

What the engine does to a host's network, it does there: a test enters the first one, and the machine's own network is
left alone. 192.0.2.0/24 and 2001:db8::/32 are addresses for documentation; nothing in the world has them.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import time

from minidocker import syscalls


class Host:
    """A network namespace called `name`, with its loopback interface up."""

    def __init__(self, name):
        self.name = name
        self.ip("netns", "add", name)
        self.ip("-n", name, "link", "set", "lo", "up")

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    def run(self, *argv, **options):
        """Run a command there; the result of subprocess.run, with text captured."""
        options = {"capture_output": True, "text": True, "timeout": 60} | options
        return subprocess.run(["ip", "netns", "exec", self.name, *argv], **options)

    def start(self, *argv):
        """Start one there that runs meanwhile: a Popen, whose output can be read."""
        argv = ["ip", "netns", "exec", self.name, *argv]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def enter(self):
        """Move the calling thread there."""
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
        os.close(descriptor)

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is there meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.enter()
        try:
            yield self
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
            os.close(home)

    def get(self, url):
        """What curl gets from there, or its exit status: 7 refused, 28 no answer."""
        return fetched(self.run(*CURL, url))

    def remove(self):
        """It ends when nobody is in it any more."""
        self.ip("netns", "del", self.name)


CURL = ["curl", "-s", "--noproxy", "*", "-m", "5"]


def fetched(result):
    """The text, or the exit status of curl."""
    return result.stdout.strip() if result.returncode == 0 else result.returncode


def get(url):
    """The same from where the calling thread is."""
    return fetched(subprocess.run([*CURL, url], capture_output=True, text=True, timeout=30))


@contextlib.contextmanager
def two_hosts():
    """One to be the engine's, which forwards, and another one beside it, without a router: (host, lan)."""
    number = os.urandom(3).hex()
    hosts = []
    try:
        for role in ("host", "lan"):
            hosts.append(Host(f"md-{role}-{number}"))
        host, lan = hosts
        Host.ip("-n", host.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", lan.name)
        for place, last in ((host, "1"), (lan, "2")):
            Host.ip("-n", place.name, "addr", "add", f"192.0.2.{last}/24", "dev", "eth0")
            Host.ip("-n", place.name, "addr", "add", f"2001:db8::{last}/64", "dev", "eth0", "nodad")
            Host.ip("-n", place.name, "link", "set", "eth0", "up")
        with host.entered():
            sysctl("net.ipv4.ip_forward", 1)
            sysctl("net.ipv6.conf.all.forwarding", 1)
        yield host, lan
    finally:
        for host in hosts:
            host.remove()


def sysctl(name, value=None):
    """Read or write a switch of the network namespace that the calling thread is in."""
    path = pathlib.Path("/proc/sys", *name.split("."))
    if value is not None:
        path.write_text(f"{value}")
    return path.read_text().strip()


def ruleset():
    """All rules of the network namespace that the calling thread is in."""
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def ours():
    """The interfaces there that are ours."""
    return {name for _, name in socket.if_nameindex() if name.startswith(("md-", "mv"))}


def counters(name):
    """The bytes that an interface there has received and sent."""
    for line in pathlib.Path("/proc/thread-self/net/dev").read_text().splitlines():
        interface, _, rest = line.partition(":")
        if interface.strip() == name:
            return int(rest.split()[0]), int(rest.split()[8])
    raise KeyError(name)


def until(condition, seconds=10):
    """Wait for something that happens soon; its last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer

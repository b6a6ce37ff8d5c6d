"""Two hosts for the lab and the tests of chapter 7: network namespaces of this machine, with a cable between them.

    with two_hosts() as (host, lan), host.entered():
        ...                                 # this thread is on the first now; lan.get(url) asks from the other

What the engine does to a host's network, it does there, and the machine's own is left alone. 192.0.2.0/24 and
2001:db8::/32 are addresses for documentation: nothing in the world has them.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from minidocker import syscalls
from minidocker.namespaces import Namespaces
from minidocker.network import links
from minidocker.process import start


class Host:
    """A network namespace, kept by a process that sleeps, with its loopback interface up."""

    def __init__(self):
        self.keeper = start(["sleep", "infinity"], Namespaces("net"))
        self.thread = ThreadPoolExecutor(1, initializer=self.enter)  # it begins when it is needed

    def run(self, *argv, **options):
        """Run a command there; the result of subprocess.run, with text captured."""
        options = {"capture_output": True, "text": True, "timeout": 60} | options
        return subprocess.run([*self._door(), *argv], **options)

    def _door(self):
        return ["nsenter", f"--net=/proc/{self.keeper.pid}/ns/net"]

    def start(self, *argv):
        """Start one there that runs meanwhile: a Popen, whose output can be read."""
        return subprocess.Popen([*self._door(), *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def enter(self):
        """Move the calling thread there."""
        descriptor = os.open(f"/proc/{self.keeper.pid}/ns/net", os.O_RDONLY)
        syscalls.call("setns", descriptor, syscalls.CLONE_NEWNET)
        os.close(descriptor)

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is there meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.enter()
        try:
            yield self
        finally:
            syscalls.call("setns", home, syscalls.CLONE_NEWNET)
            os.close(home)

    def do(self, function, *arguments, **options):
        """Call a function in a thread that is there, and return its value: a notebook's kernel stays where it is."""
        return self.thread.submit(function, *arguments, **options).result()

    def get(self, url):
        """What curl gets from there, or its exit status: 7 refused, 28 no answer."""
        return fetched(self.run(*CURL, url))


# Takes what comes to port 9000, and sends as fast as it can to port 9000 of an address
SINK = """
import socket
server = socket.create_server(("", 9000))
print("ready", flush=True)
connection, _ = server.accept()
while connection.recv(1 << 16):
    pass
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 9000)) as connection:
    while True:
        connection.send(bytes(1 << 16))
"""

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
    host, lan = Host(), Host()
    with host.keeper, lan.keeper:
        host.run(*f"ip link add eth0 type veth peer name eth0 netns {lan.keeper.pid}".split(), check=True)
        for place, last in ((host, "1"), (lan, "2")):
            place.run(*f"ip addr add 192.0.2.{last}/24 dev eth0".split(), check=True)
            place.run(*f"ip addr add 2001:db8::{last}/64 dev eth0 nodad".split(), check=True)
            place.run(*["ip", "link", "set", "eth0", "up"], check=True)
        with host.entered():
            sysctl("net.ipv4.ip_forward", 1)
            sysctl("net.ipv6.conf.all.forwarding", 1)
        yield host, lan
        host.thread.shutdown()


def sysctl(name, value=None):
    """Read or write a switch of the network namespace that the calling thread is in."""
    path = pathlib.Path("/proc/sys", *name.split("."))
    if value is not None:
        path.write_text(f"{value}")
    return path.read_text().strip()


def ruleset():
    """All rules of the network namespace that the calling thread is in."""
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def real(name):
    """What is called md-NAME, mv... or minidocker in the default home: in another one its name has a digest of it."""
    mark = links.tag()
    if name == "minidocker":
        return f"minidocker_{mark}" if mark else name
    return f"md{mark}{name[2:]}" if name.startswith("md") else f"m{mark}{name[1:]}"


def ours():
    """The interfaces there that are ours, by the names that they have in the default home."""
    heads = {real(head): head for head in ("md-", "mv")}
    found = [(name, head) for _, name in socket.if_nameindex() for head in heads if name.startswith(head)]
    return {heads[head] + name.removeprefix(head) for name, head in found}


def counters(name):
    """The bytes that an interface there has received and sent."""
    name = real(name) if name.startswith(("md-", "mv")) else name
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

"""Chapter 7: names. How containers find each other: what they see as /etc/hosts and /etc/resolv.conf.

There is no name server. Each container has a file of the host's mounted as its /etc/hosts, read-only, and the host side
of each writes its names into the files of all others. It is the file itself that is mounted, not a copy, so everybody
sees the change at once; so it is written in place, by one write(2), and never replaced.
"""

from __future__ import annotations

import errno
import os

from minidocker.cgroups.hierarchy import read
from minidocker.images.inside import LOCALHOST as LOCALHOST
from minidocker.network.links import family_of
from minidocker.outcome import ContainerError
from minidocker.volumes import Bind

LONGEST = 87  # letters of all names of a container: one line of a file that everybody reads
RESOLV_CONF = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"  # systemd's own, where the first names its stub


def checked(names: list[str]) -> list[str]:
    """The names, if each can stand in a hosts file, hosts(5)."""
    for name in names:
        if not name.isascii() or not name or not all(letter.isalnum() or letter in "-_." for letter in name):
            raise ContainerError(f"Network: {name!r} cannot be the name of a host: use letters, digits, - and .")
    if len(" ".join(names)) >= LONGEST:
        raise ContainerError(f"Network: too many names, or too long: {' '.join(names)}")
    return names


def _address(text: str, otherwise: str) -> str:
    """An address, without brackets; or an error in these words."""
    try:
        family_of(text.strip("[]"))
    except OSError:
        raise ContainerError(f"Network: {otherwise}") from None
    return text.strip("[]")


def extra_host(text: str) -> str:
    """A line of the hosts file from NAME:ADDRESS, as after docker run --add-host; host-gateway is for the bridge."""
    name, _, address = text.partition(":")
    if address != "host-gateway":
        address = _address(address, f"{text!r}: write NAME:ADDRESS, such as db:192.0.2.7 or host:host-gateway")
    return f"{address}\t{checked([name])[0]}\n"


def write(path: str, text: str) -> None:
    """Write a file in place: who has it mounted sees the same file, and at no time an empty one."""
    descriptor, data = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC), text.encode()
    try:
        os.fchmod(descriptor, 0o644)
        if os.pwrite(descriptor, data, 0) < len(data):  # what was there before is not cut off then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def resolv_conf(servers: list[str]) -> str:
    """What a container asks for names of the world: these servers, or the host's, resolv.conf(5).

    A server on the host's loopback interface is of no use to a container, which has another one.
    """
    if servers:
        checked_servers = [_address(server, f"name server {server!r} is no address") for server in servers]
        return "".join(f"nameserver {server}\n" for server in checked_servers)
    for path in RESOLV_CONF:
        useless = ("nameserver 127.", "nameserver ::1", "#")
        lines = [line for line in read(path).splitlines(keepends=True) if not line.startswith(useless)]
        if any(line.startswith("nameserver") for line in lines):
            return "".join(lines)
    return "# the host's name servers listen on its loopback interface only: name one with dns\n"


def show(root: str, source: str, target: str) -> None:
    """Let the container see the host's file `source` as its `target`, read-only. Run inside, before the root changes.

    The image may have a link there, perhaps a hostile one: chapter 6 follows it below the root, and never out of it.
    Some have one that leads to nothing, into the /run of a running system: then what it leads to is made.
    """
    try:
        Bind(source, target, root, readonly=True).inside()
    except FileNotFoundError:
        leads_to = os.path.join(os.path.dirname(target), os.readlink(root + target))
        Bind(source, leads_to, root, readonly=True).inside()

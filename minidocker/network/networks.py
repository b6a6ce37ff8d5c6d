"""Chapter 7: the networks of a host: made, found, listed, removed, and cleaned of what dead owners left.

    create("web", "10.90.0.0/24")       # one that stays until remove("web"): docker network create
    listed(), inspect("web"), prune()

One that was not created but only used, the default one, is made with its first container and removed with its last. All
of this is the host side, as root; what changes something holds the `Lock`, or wants its caller to.
"""

from __future__ import annotations

import os

from minidocker.network import firewall
from minidocker.network.bridge import Bridge, network_names, taken
from minidocker.network.pool import Lock, Subnet, dotted
from minidocker.outcome import ContainerError
from minidocker.state import remove_tree

DEFAULT = "bridge"
NAMED = "/run/netns"


def opened(name: str) -> Bridge:
    """The network of a container that starts. The default one is made when it is not there. Wants the `Lock`."""
    clean()
    found = Bridge(name)
    if not os.path.exists(found.settings) and name != DEFAULT:
        raise ContainerError(f"Network: no network is called {name!r}: minidocker network create {name}")
    if not found.exists():
        found.make()
    return found


def restore() -> None:
    """Somebody flushed the firewall: write our rules again, for all networks. Ports that were published stay lost."""
    for found in map(Bridge, network_names()):
        found.write_rules()


def find(wanted: str) -> tuple[int, dict[str, str]]:
    """The pid of the container with this name or pid, and the files that it sees; `ContainerError` if there is none.

    One that is in no network of ours is known by its pid only, and the files are its own affair.
    """
    with Lock():
        for found in map(Bridge, network_names()):
            for address, (owner, pid) in found.pool.living().items():
                if pid and wanted in (owner, str(pid)):
                    return pid, found.views(address)
    if wanted.isdecimal():
        return int(wanted), {}
    raise ContainerError(f"Network: no running container is called {wanted!r}")


def clean() -> list[str]:
    """Take away what dead owners left: published ports, names, addresses. Returns "NETWORK ADDRESS" of each."""
    dead = [(found, lease) for found in map(Bridge, network_names()) for lease in found.pool.dead()]
    if dead:
        firewall.clean({text for found, lease in dead for text in found.traces(lease.number)})
    for found, lease in dead:
        found.release(lease)
    return [f"{found.name} {lease.address}" for found, lease in dead]


def create(name: str, subnet: str | None = None) -> Bridge:
    """Make a network that stays; `ContainerError` if there is one of this name, or one where this one would be."""
    wanted = Subnet(subnet) if subnet else None
    with Lock():
        found = Bridge(name)
        if os.path.exists(found.settings):
            raise ContainerError(f"Network: there is a network called {name!r} already")
        for begin, end in taken():
            if wanted and wanted.overlaps(begin, end):
                other = f"{dotted(begin)}-{dotted(end)}, which this host can reach already"
                raise ContainerError(f"Network: subnet {wanted} overlaps with {other}")
        found.make(wanted, kept=True)
        return found


def remove(name: str) -> None:
    """Remove a network; refused while a container is in it."""
    with Lock():
        clean()
        found = _existing(name)
        if found.pool.living():
            users = ", ".join(sorted(owner for owner, _ in found.pool.living().values()))
            raise ContainerError(f"Network: {name} is in use by {users}: stop them first")
        found.remove()


def _existing(name: str) -> Bridge:
    """The network, or an error."""
    found = Bridge(name)
    if not os.path.exists(found.settings):
        raise ContainerError(
            f"Network: no network is called {name!r}: there are {', '.join(network_names()) or 'none'}"
        )
    return found


def listed() -> list[str]:
    """The names of all networks of this host."""
    with Lock():
        return network_names()


def inspect(name: str) -> dict[str, object]:
    """What there is to know about a network, with {container: address} of those that are in it."""
    with Lock():
        found = _existing(name)
        users = {owner: address for address, (owner, _) in found.pool.living().items()}
    plain = {"name": name, "interface": found.interface, "subnet": str(found.subnet), "gateway": found.subnet.gateway}
    subnet6 = f"{found.prefix6}::/64" if found.prefix6 else ""
    return {**plain, "subnet6": subnet6, "kept": found.kept, "containers": users}


def prune() -> list[str]:
    """Remove what dead owners left, networks that were not created and are not used, and the files of hosts that are no
    more; return a line for each.
    """
    with Lock():
        removed = [f"address {text}" for text in clean()]
        for found in map(Bridge, network_names()):
            if not found.kept and not found.pool.living():
                found.remove()
                removed.append(f"network {found.name}")
        homes = os.path.dirname(Lock.place)
        for name in {name for name in os.listdir(homes) if name.isdecimal()} - _namespaces():
            remove_tree(os.path.join(homes, name))
            removed.append(f"files of network namespace {name}")
        return removed


def _namespaces() -> set[str]:
    """The network namespaces of this machine: of its processes, and those that `ip netns` keeps."""
    found = {os.path.basename(Lock.place)}
    for path in [*(f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdecimal()), *_kept_namespaces()]:
        try:
            found.add(str(os.stat(path).st_ino))
        except OSError:
            pass  # it ended meanwhile
    return found


def _kept_namespaces() -> list[str]:
    """Those that `ip netns add` has mounted, which may be without processes."""
    return [os.path.join(NAMED, name) for name in os.listdir(NAMED)] if os.path.isdir(NAMED) else []

"""The verbs that nouns have in common: create, ls, inspect, rm and prune, of volumes and networks."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from minidocker import network
from minidocker.cli.options import Options
from minidocker.cli.show import each, pruned, table
from minidocker.outcome import ContainerError
from minidocker.volumes import store as volume

COLUMNS = {  # noun -> title -> key of what inspect says of one
    "volume": {"DRIVER": "Driver", "VOLUME NAME": "Name"},
    "network": {"NAME": "name", "INTERFACE": "interface", "SUBNET": "subnet"},
}


def volume_create(options: Options, name: str = "") -> None:
    """volume create [OPTIONS] [NAME]: make a volume

    -o, --opt NAME=VALUE...    type, device, o: a file system to mount, as mount(8) takes them
    -d, --driver NAME          local, which is the only one
    """
    if options.driver not in ("", "local"):
        raise ContainerError(f"no volume driver is called {options.driver!r}: there is local")
    print(volume.create(name, dict(word.partition("=")[::2] for word in options.opt)))


def network_create(options: Options, name: str) -> None:
    """network create [OPTIONS] NAME: make a network that stays until it is removed

    --subnet ADDRESS/BITS  its addresses, by default some that this host does not use
    """
    print(network.create(name, options.subnet or None).name)


def volume_prune(options: Options) -> None:
    """volume prune [OPTIONS]: remove the volumes without a name of their own that no container uses

    -a, --all  those with a name as well
    -f, --force  do not ask (it never does)
    """
    pruned(lambda: volume.prune(options.all), say="")


def network_prune(_: Options) -> None:
    """network prune [OPTIONS]: remove networks that nobody made by name and nobody uses, and what dead owners left

    -f, --force  do not ask (it never does)
    """
    pruned(network.prune)


def _ls(noun: str, options: Options) -> None:
    """{0} ls [OPTIONS]: list the {0}s

    -q, --quiet  only their names
    """
    names, keys = VERBS[noun][0](), COLUMNS[noun].values()
    if options.quiet:
        print(*names, sep="\n", end="\n" if names else "")
    else:
        table([[*COLUMNS[noun]], *([str(VERBS[noun][1](name)[key]) for key in keys] for name in names)])


def _inspect(noun: str, _: Options, *names: str) -> None:
    """{0} inspect {1}...: print all that is known of {0}s, as JSON"""
    print(json.dumps([VERBS[noun][1](name) for name in names], indent=4))


def _rm(noun: str, options: Options, *names: str) -> int:
    """{0} rm [OPTIONS] {1}...: remove {0}s that no container uses, with what is in them

    -f, --force  one that is not there is no error
    """
    there = VERBS[noun][0]() if options.force else names
    return each([name for name in names if name in there], VERBS[noun][2])


VERBS: dict[str, tuple[Callable[[], list[str]], Callable[[str], Any], Callable[[str], None]]] = {
    "volume": (volume.names, volume.inspect, volume.remove),
    "network": (network.listed, network.inspect, network.remove),
}
for _noun in VERBS:
    for _verb in (_ls, _inspect, _rm):
        _function = functools.partial(_verb, _noun)
        _function.__doc__ = (_verb.__doc__ or "").format(_noun, _noun.upper())
        globals()[f"{_noun}{_verb.__name__}"] = _function

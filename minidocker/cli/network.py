"""The verbs about networks, and what `-p`, `--network` and their like of `minidocker run` become."""

from __future__ import annotations

import json

from minidocker.cli.options import Options, parse
from minidocker.network import Network, create, inspect, listed, prune, remove


def network(options: Options, root: str) -> Network:
    """The container's network. Where none is named and a port is to be published, that is the bridge."""
    return Network(
        options.network or "bridge",
        ports=options.publish,
        root=root,
        aliases=[*options.network_alias, *([options.hostname] if options.hostname else [])],
        dns=options.dns,
        hosts=options.add_host,
        egress=options.egress or None,
        ingress=options.ingress or None,
    )


def network_create(arguments: list[str]) -> int:
    """network create [OPTIONS] NAME: make a network that stays until it is removed

    --subnet ADDRESS/BITS  its addresses, by default some that this host does not use
    """
    options, (name,) = parse(network_create.__doc__, arguments, 1, 1)
    print(create(name, options.subnet or None).name)
    return 0


def network_ls(arguments: list[str]) -> int:
    """network ls [OPTIONS]: list the networks

    -q, --quiet  only their names
    """
    options, _ = parse(network_ls.__doc__, arguments, 0, 0)
    names = listed()
    if options.quiet:
        for name in names:
            print(name)
    else:
        from minidocker.cli.image import table

        found = [inspect(name) for name in names]
        rows = [[str(one[key]) for key in ("name", "interface", "subnet")] for one in found]
        table([["NAME", "INTERFACE", "SUBNET"], *rows])
    return 0


def network_inspect(arguments: list[str]) -> int:
    """network inspect NETWORK...: print all that is known of networks, as JSON"""
    _, names = parse(network_inspect.__doc__, arguments, 1)
    print(json.dumps([inspect(name) for name in names], indent=4))
    return 0


def network_rm(arguments: list[str]) -> int:
    """network rm NETWORK...: remove networks that no container is in"""
    _, names = parse(network_rm.__doc__, arguments, 1)
    for name in names:
        remove(name)
        print(name)
    return 0


def network_prune(arguments: list[str]) -> int:
    """network prune [OPTIONS]: remove networks that nobody made by name and nobody uses, and what dead owners left

    -f, --force  do not ask (it never does)
    """
    parse(network_prune.__doc__, arguments, 0, 0)
    for line in prune():
        print("removed", line)
    return 0

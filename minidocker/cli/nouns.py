"""Verbs about what is on this host: volumes and networks, which have the same five, and all of it together."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any, NoReturn

from minidocker import network
from minidocker.cli import complain
from minidocker.cli.options import Options
from minidocker.files import NotRemoved, usage
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


def prune(_: Options) -> None:
    """prune: remove what containers left behind whose owner was killed"""
    from minidocker import state
    from minidocker.cgroups import prune as cgroups

    pruned(cgroups, state.prune, volume.prune, network.prune)


def system_prune(options: Options) -> None:
    """system prune [OPTIONS]: the same, and images without a name, and the build cache

    -a, --all  all images, not only those without a name
    -f, --force  do not ask (it never does)
    """
    from minidocker.cli.image import image_prune
    from minidocker.images.store import Store

    try:
        prune(options)
    finally:
        Store().forget_steps()
        image_prune(options)


def system_df(_: Options) -> None:
    """system df: how much of the disk images, their unpacked layers and containers take"""
    from minidocker.images import image
    from minidocker.images.image import Image
    from minidocker.images.store import Store

    store = Store()
    containers = os.path.join(store.home, "containers")
    names = os.listdir(containers) if os.path.isdir(containers) else []
    found, steps = image.images(store), list(store.steps().values())
    shared = {digest for one in found for digest in [*one.digests(), *one.diff_ids]}
    made = {digest for entry in steps for one in [Image(store, entry)] for digest in [*one.digests(), *one.diff_ids]}
    where = [f"{store.layout}/blobs/sha256", f"{store.unpacked}/sha256"]
    cached = [f"{top}/{digest[7:]}" for digest in made - shared for top in where]
    everything = [f"{top}/{name}" for top in where for name in os.listdir(top)]
    layers = [path for path in everything if path.startswith(store.unpacked)]
    blobs = [path for path in everything if not path.startswith(store.unpacked)]
    kinds: dict[str, tuple[Sized, Iterable[str]]] = {
        "Images": (found, [path for path in blobs if path not in cached]),
        "Layers": (layers, [path for path in layers if path not in cached]),
        "Containers": (names, [f"{containers}/{name}" for name in names]),
        "Build cache": (steps, filter(os.path.exists, cached)),
    }
    rows = [[kind, str(len(what)), human(usage(paths))] for kind, (what, paths) in kinds.items()]
    table([["TYPE", "TOTAL", "SIZE"], *rows])


def doctor(_: Options) -> int:
    """doctor: say what this machine can do, and how to mend what it cannot"""
    from minidocker.doctor import main

    return main()


def reset(_: Options) -> NoReturn:
    """reset: remove every trace of minidocker from this machine, as make reset does"""
    script = os.path.join(os.path.dirname(__file__), "..", "..", "vagrant", "reset.sh")
    if not os.path.exists(script):
        raise ContainerError(f"{script} is not there: run it from a checkout of the repository")
    os.execv("/bin/sh", ["sh", script])


def table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, with three blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def human(size: float) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them."""
    power = next((power for power in range(4) if size < 1000 ** (power + 1)), 4)
    return f"{size / 1000**power:.3g}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def each(words: Iterable[str], remove: Callable[[str], object]) -> int:
    """Remove each, and say so; one that cannot be removed is a line, and the exit status."""
    status = 0
    for word in words:
        try:
            print(remove(word) or word)
        except ContainerError as failure:
            status = complain(failure, 1)
    return status


def pruned(*prunes: Callable[[], Iterable[object]], say: str = "removed ") -> None:
    """Call all of them, and say what is gone. What resists is told at the end, and keeps nobody from the rest."""
    failures = list[Exception]()
    for prune in prunes:
        try:
            gone = prune()
        except NotRemoved as left:
            gone = left.removed
            failures += left.failures
        for what in gone:
            print(f"{say}{what}")
    if failures:
        raise NotRemoved(failures)

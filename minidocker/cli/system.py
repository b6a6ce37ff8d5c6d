"""The verbs about all of it: what it takes, what can go, what this machine can do."""

from __future__ import annotations

import os

from minidocker.cli.options import parse
from minidocker.files import NotRemoved
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def prune(arguments: list[str]) -> int:
    """prune: remove what containers left behind whose owner was killed"""
    parse(prune.__doc__, arguments, 0, 0)
    from minidocker import state
    from minidocker.cgroups import prune as prune_cgroups
    from minidocker.network import prune as prune_networks
    from minidocker.volumes import store as volumes

    _each(prune_cgroups, state.prune, volumes.prune, prune_networks)
    return 0


def _each(*prunes: Callable[[], Iterable[object]]) -> None:
    """Call all of them. What one cannot remove is told at the end, and does not keep the others from theirs."""
    failures = list[Exception]()
    for one in prunes:
        try:
            removed = one()
        except NotRemoved as left:
            removed = left.removed
            failures += left.failures
        for what in removed:
            print("removed", what)
    if failures:
        raise NotRemoved(failures)


def system_prune(arguments: list[str]) -> int:
    """system prune [OPTIONS]: the same, and images without a name, and the build cache

    -a, --all  all images, not only those without a name
    -f, --force  do not ask (it never does)
    """
    options, _ = parse(system_prune.__doc__, arguments, 0, 0)
    from minidocker.cli.image import image_prune
    from minidocker.images.store import Store

    try:
        prune([])
    finally:
        Store().forget_steps()
        image_prune(["--all"] if options.all else [])
    return 0


def system_df(arguments: list[str]) -> int:
    """system df: how much of the disk images, their unpacked layers and containers take"""
    parse(system_df.__doc__, arguments, 0, 0)
    from minidocker.cli.image import human, table
    from minidocker.files import usage
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
    rows = [["TYPE", "TOTAL", "SIZE"]]
    rows.append(["Images", str(len(found)), human(usage(path for path in blobs if path not in cached))])
    rows.append(["Layers", str(len(layers)), human(usage(path for path in layers if path not in cached))])
    rows.append(["Containers", str(len(names)), human(usage(os.path.join(containers, name) for name in names))])
    rows.append(["Build cache", str(len(steps)), human(usage(path for path in cached if os.path.exists(path)))])
    table(rows)
    return 0


def doctor(arguments: list[str]) -> int:
    """doctor: say what this machine can do, and how to mend what it cannot"""
    parse(doctor.__doc__, arguments, 0, 0)
    from minidocker.doctor import main

    return main()


def reset(arguments: list[str]) -> int:
    """reset: remove every trace of minidocker from this machine, as make reset does"""
    parse(reset.__doc__, arguments, 0, 0)
    script = os.path.join(os.path.dirname(__file__), "..", "..", "vagrant", "reset.sh")
    if not os.path.exists(script):
        raise ContainerError(f"{script} is not there: run it from a checkout of the repository")
    os.execv("/bin/sh", ["sh", script])

"""The verbs about all of it: what it takes, what can go, what this machine can do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sized
from typing import NoReturn

from minidocker.cli.options import Options
from minidocker.cli.show import human, pruned, table
from minidocker.outcome import ContainerError


def prune(_: Options) -> None:
    """prune: remove what containers left behind whose owner was killed"""
    from minidocker import state
    from minidocker.cgroups import prune as cgroups
    from minidocker.network import prune as networks
    from minidocker.volumes import store as volumes

    pruned(cgroups, state.prune, volumes.prune, networks)


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

"""The verbs about all of it: what it takes, what can go, what this machine can do."""

from __future__ import annotations

import os

from minidocker.cli.options import parse
from minidocker.outcome import ContainerError


def prune(arguments: list[str]) -> int:
    """prune: remove what containers left behind whose owner was killed"""
    parse(prune.__doc__, arguments, 0, 0)
    from minidocker import state
    from minidocker.cgroups import prune as prune_cgroups

    for removed in [*prune_cgroups(), *state.prune()]:
        print("removed", removed)
    return 0


def system_prune(arguments: list[str]) -> int:
    """system prune [OPTIONS]: the same, and images without a name, and the build cache

    -a, --all  all images, not only those without a name
    -f, --force  do not ask (it never does)
    """
    options, _ = parse(system_prune.__doc__, arguments, 0, 0)
    from minidocker.cli.image import image_prune
    from minidocker.images import cache
    from minidocker.images.store import Store

    prune([])
    cache.forget(Store())
    return image_prune(["--all"] if options.all else [])


def system_df(arguments: list[str]) -> int:
    """system df: how much of the disk images, their unpacked layers and containers take"""
    parse(system_df.__doc__, arguments, 0, 0)
    from minidocker.cli.image import human, table
    from minidocker.images import cache, image
    from minidocker.images.garbage import disk_usage
    from minidocker.images.store import Store

    store = Store()
    containers = os.path.join(store.home, "containers")
    names = os.listdir(containers) if os.path.isdir(containers) else []
    rows = [["TYPE", "TOTAL", "SIZE"]]
    rows.append(["Images", str(len(image.images(store))), human(disk_usage([store.layout]))])
    rows.append(["Layers", str(len(os.listdir(f"{store.unpacked}/sha256"))), human(disk_usage([store.unpacked]))])
    rows.append(["Containers", str(len(names)), human(disk_usage([os.path.join(containers, name) for name in names]))])
    rows.append(["Build cache", str(len(cache.remembered(store))), human(disk_usage([f"{store.home}/build"]))])
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

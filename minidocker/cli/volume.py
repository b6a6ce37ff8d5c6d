"""The verbs about volumes, and what `-v`, `--mount` and `--tmpfs` of `minidocker run` become."""

from __future__ import annotations

import os

from minidocker.cli.options import Options, parse
from minidocker.files import NotRemoved
from minidocker.outcome import ContainerError
from minidocker.volumes import Named, Volume, ordered, store
from minidocker.volumes.spelling import from_mount, from_tmpfs, from_v

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def mounts(options: Options, image: Iterable[str], root: str) -> list[Volume]:
    """The volumes of a container; those that the image's config names and nobody mounted get one without a name."""
    asked = [from_v(text, root) for text in options.volume]
    asked += [from_mount(text, root) for text in options.mount] + [from_tmpfs(text, root) for text in options.tmpfs]
    taken = {volume.target for volume in asked}
    wanted = ("/" + os.path.normpath(path).strip("/") for path in image)  # some images write `data` and mean /data
    return ordered([*asked, *(Named("", path, root) for path in wanted if path not in taken)])


def volume_create(arguments: list[str]) -> int:
    """volume create [OPTIONS] [NAME]: make a volume

    -o, --opt NAME=VALUE...    type, device, o: a file system to mount, as mount(8) takes them
    -d, --driver NAME          local, which is the only one
    """
    options, names = parse(volume_create.__doc__, arguments, 0, 1)
    if options.driver not in ("", "local"):
        raise ContainerError(f"no volume driver is called {options.driver!r}: there is local")
    print(store.create(names[0] if names else "", dict(word.partition("=")[::2] for word in options.opt)))
    return 0


def volume_ls(arguments: list[str]) -> int:
    """volume ls [OPTIONS]: list the volumes

    -q, --quiet  only their names
    """
    options, _ = parse(volume_ls.__doc__, arguments, 0, 0)
    from minidocker.cli.image import table

    names = store.names()
    if options.quiet:
        for name in names:
            print(name)
    else:
        table([["DRIVER", "VOLUME NAME"], *(["local", name] for name in names)])
    return 0


def volume_inspect(arguments: list[str]) -> int:
    """volume inspect VOLUME...: print all that is known of volumes, as JSON"""
    import json

    _, names = parse(volume_inspect.__doc__, arguments, 1)
    print(json.dumps([store.inspect(name) for name in names], indent=4))
    return 0


def volume_rm(arguments: list[str]) -> int:
    """volume rm [OPTIONS] VOLUME...: remove volumes, with their data

    -f, --force  one that is not there is no error
    """
    options, names = parse(volume_rm.__doc__, arguments, 1)
    failures = list[str]()
    for name in names:
        try:
            store.remove(name, options.force)
            print(name)
        except ContainerError as failure:
            failures.append(str(failure))
    if failures:
        raise ContainerError("; ".join(failures))
    return 0


def volume_prune(arguments: list[str]) -> int:
    """volume prune [OPTIONS]: remove the volumes without a name of their own that no container uses

    -a, --all  those with a name as well
    -f, --force  do not ask (it never does)
    """
    options, _ = parse(volume_prune.__doc__, arguments, 0, 0)
    try:
        removed = store.prune(options.all)
    except NotRemoved as left:
        print(*left.removed, sep="\n")
        raise
    print(*removed, sep="\n", end="\n" if removed else "")
    return 0

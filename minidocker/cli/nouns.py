"""Verbs about what is on this host: images; volumes and networks, which have the same five; and all of it together."""

from __future__ import annotations

import datetime
import functools
import glob
import json
import operator
import os
from collections.abc import Sequence

from minidocker import cgroups, network, state
from minidocker.cli import VERBS, Options, call, complain, each, function, nearest
from minidocker.engine import records
from minidocker.files import usage
from minidocker.images import image
from minidocker.images.image import Image, find
from minidocker.images.manifest import parse
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.volumes import store as volume

SHORT = slice(len("sha256:"), len("sha256:") + 12)  # of an ID: what is shown of it
UNITS = {"year": 31536000, "month": 2592000, "week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1}
VOLUME = {"DRIVER": "Driver", "VOLUME NAME": "Name"}  # title of a column -> key of what is known
NETWORK = {"NAME": "name", "INTERFACE": "interface", "SUBNET": "subnet"}
NOUNS = {  # noun -> all names, what is known of one, how to remove one, its columns
    "volume": (volume.names, volume.inspect, volume.remove, VOLUME),
    "network": (network.listed, network.inspect, network.remove, NETWORK),
}


def help_(words: list[str]) -> int:
    """`help`, alone or with a verb; a noun alone; and what is no verb at all."""
    words = [word for word in words if word not in ("help", "-h", "--help")]
    verb = " ".join(words[:2])
    if verb in VERBS:
        return call(verb, ["--help"])
    verbs = [one for one in VERBS if one.startswith(f"{verb} ") or not verb]
    if not verbs:
        verb = verb if any(one.startswith(f"{words[0]} ") for one in VERBS) else words[0]
        return complain(f"'{verb}' is not a minidocker command{nearest(verb, VERBS)}; see minidocker help", 1)
    print("usage: minidocker VERB [OPTIONS]\n")
    for one in verbs:
        print(f"  {one:<15} {function(one).__doc__.partition(chr(10))[0].partition(': ')[2]}")
    print("\nminidocker VERB --help says more of each; --explain says what it does while it does it")
    return 0


def images(options: Options, *words: str) -> None:
    """images [OPTIONS] [NAME]: list the images

    -q, --quiet    only their IDs
        --digests  and the digest of the manifest, which `pull NAME@DIGEST` takes
        --no-trunc  IDs in full
    """
    rows = [["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]]
    wanted = parse(words[0]) if words else None
    for one in sorted(image.images(Store()), key=lambda one: one.config.get("created") or "", reverse=True):
        identity = one.id if options.no_trunc else one.id[SHORT]
        columns = [one.descriptor["digest"], identity, _age(one.config.get("created")), _human(one.size)]
        names = [(name.name, name.tag) for name in map(parse, one.names())] or [("<none>", "<none>")]
        for name, tag in names:
            if wanted is None or (name == wanted.name and (tag == wanted.tag or ":" not in words[0])):
                rows.append([name, tag, *columns])
    if options.quiet:
        print(end="".join(f"{identity}\n" for identity in dict.fromkeys(row[3] for row in rows[1:])))
    else:
        _table([row if options.digests else row[:2] + row[3:] for row in rows])


def history(options: Options, name: str) -> None:
    """history [OPTIONS] IMAGE: show the steps that made an image, the last one first

    --no-trunc  commands in full
    """
    found = find(Store(), name)
    sizes = iter(layer["size"] for layer in found.manifest["layers"])
    rows = list[list[str]]()
    for step in found.config.get("history") or []:
        size = 0 if step.get("empty_layer") else next(sizes, 0)
        command = " ".join((step.get("created_by") or "").split())
        command = command if len(command) < 46 or options.no_trunc else f"{command[:44]}…"
        rows.insert(0, ["<missing>", _age(step.get("created")), command, _human(size), step.get("comment") or ""])
    if rows:
        rows[0][0] = found.id[SHORT]
    _table([["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], *rows])


def inspect(_: Options, *words: str) -> None:
    """inspect IMAGE...: print all that is known of images, as JSON"""
    store = Store()
    print(json.dumps([_description(find(store, word)) for word in words], indent=4))


def _description(found: Image) -> dict[str, object]:
    """The keys that Docker's has, as far as they mean something here."""
    names = [parse(full) for full in found.names()]
    return {
        "Id": found.id,
        "RepoTags": [name.familiar for name in names],
        "RepoDigests": [f"{name.name}@{found.descriptor['digest']}" for name in names],
        "Created": found.config.get("created"),
        "Author": found.config.get("author", ""),
        "Config": found.config["config"],
        "Architecture": found.config.get("architecture"),
        "Os": found.config.get("os"),
        "Size": found.size,
        "RootFS": {"Type": "layers", "Layers": found.diff_ids},
    }


def tag(_: Options, old: str, new: str) -> None:
    """tag IMAGE NAME[:TAG]: give an image another name"""
    store = Store()
    store.tag(new, find(store, old).descriptor)


def rmi(options: Options, *words: str) -> int:
    """rmi [OPTIONS] IMAGE...: remove names of images, and with its last name the image

    -f, --force  remove an image by its ID with all its names
    """
    return each(words, lambda word: image.remove(Store(), word, options.force))


def image_prune(options: Options) -> None:
    """image prune [OPTIONS]: remove images without a name, and what nothing needs

    -a, --all  all images that no container uses
    -f, --force  do not ask (it never does)
    """
    print("Total reclaimed space:", _human(image.prune(Store(), options.all)))


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


def volume_prune(options: Options) -> int:
    """volume prune [OPTIONS]: remove the volumes without a name of their own that no container uses

    -a, --all  those with a name as well
    -f, --force  do not ask (it never does)
    """
    return each([options.all], volume.prune)


def network_prune(_: Options) -> int:
    """network prune [OPTIONS]: remove networks that nobody made by name and nobody uses, and what dead owners left

    -f, --force  do not ask (it never does)
    """
    return each([network.prune], operator.call, "removed ")


def _ls(noun: str, options: Options) -> None:
    """{0} ls [OPTIONS]: list the {0}s

    -q, --quiet  only their names
    """
    listed, known, _, columns = NOUNS[noun]
    if options.quiet:
        print(end="".join(f"{name}\n" for name in listed()))
    else:
        _table([[*columns], *([str(known(name)[key]) for key in columns.values()] for name in listed())])


def _inspect(noun: str, _: Options, *names: str) -> None:
    """{0} inspect {1}...: print all that is known of {0}s, as JSON"""
    print(json.dumps([NOUNS[noun][1](name) for name in names], indent=4))


def _rm(noun: str, options: Options, *names: str) -> int:
    """{0} rm [OPTIONS] {1}...: remove {0}s that no container uses, with what is in them

    -f, --force  one that is not there is no error
    """
    listed, _, remove, _ = NOUNS[noun]
    there = listed() if options.force else names
    return each([name for name in names if name in there], lambda name: [remove(name) or name])


for _noun in NOUNS:  # volume_ls, network_ls, ...: each with a help of its own, from which its options are read
    for _verb in (_ls, _inspect, _rm):
        _function_of = functools.partial(_verb, _noun)
        _function_of.__doc__ = (_verb.__doc__ or "").format(_noun, _noun.upper())
        globals()[f"{_noun}{_verb.__name__}"] = _function_of


def prune(_: Options) -> int:
    """prune: remove what containers left behind whose owner was killed"""
    kinds = [cgroups.prune, state.prune, records.prune, volume.prune, network.prune]
    return each(kinds, operator.call, "removed ")


def system_prune(options: Options) -> int:
    """system prune [OPTIONS]: the same, and images without a name, and the build cache

    -a, --all  all images, not only those without a name
    -f, --force  do not ask (it never does)
    """
    status = prune(options)
    Store().forget_steps()
    image_prune(options)
    return status


def system_df(_: Options) -> None:
    """system df: how much of the disk images, their unpacked layers and containers take"""
    store = Store()
    found, steps = image.images(store), image.images(store, store.steps())
    needed, made = ({digest for one in some for digest in [*one.digests(), *one.diff_ids]} for some in (found, steps))
    places = (f"{store.layout}/blobs/sha256", f"{store.unpacked}/sha256", f"{store.home}/containers")
    blobs, layers, containers = ({*glob.glob(glob.escape(place) + "/*")} for place in places)
    cached = {path for path in blobs | layers if f"sha256:{os.path.basename(path)}" in made - needed}
    kinds = [
        ("Images", len(found), blobs - cached),
        ("Layers", len(layers), layers - cached),
        ("Containers", len(containers), containers),
        ("Build cache", len(steps), cached),
    ]
    _table([["TYPE", "TOTAL", "SIZE"], *([kind, str(total), _human(usage(paths))] for kind, total, paths in kinds)])


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, with three blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(map(str.ljust, row, widths)).rstrip())


def _human(size: float) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them."""
    power = next((power for power in range(4) if size < 1000 ** (power + 1)), 4)
    return f"{size / 1000**power:.3g}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _age(created: str | None) -> str:
    """How long ago a time of RFC 3339 is. Images that are made reproducibly have none."""
    try:
        then = datetime.datetime.fromisoformat(created or "")
        seconds = (datetime.datetime.now(datetime.UTC) - then).total_seconds()
    except (ValueError, TypeError):
        return "N/A"
    return next(
        (f"{seconds // length:.0f} {unit}s ago" for unit, length in UNITS.items() if seconds >= 2 * length), "Just now"
    )

"""Verbs about what is on this host: images; volumes and networks, which have the same five; and all of it together."""

import fnmatch
import functools
import glob
import json
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any

from minidocker import cgroups, network, state
from minidocker.cli import Options, each
from minidocker.cli.lists import Predicates, ago, filtered, human, labelled, parsed, render, show
from minidocker.cli.words import nearest
from minidocker.engine import records
from minidocker.files import usage
from minidocker.images import image
from minidocker.images.manifest import parse
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.volumes import store as volume

SHORT = slice(len("sha256:"), len("sha256:") + 12)  # of an ID: what is shown of it
YES = ("true", "1")


def images(options: Options, *words: str) -> None:
    """images [OPTIONS] [NAME]: list the images

    -a, --all      those without a name, too (they always are)
    -q, --quiet    only their IDs
        --digests  and the digest of the manifest, which `pull NAME@DIGEST` takes
        --no-trunc  IDs in full
    -f, --filter KEY=VALUE...  dangling, reference (a pattern for the name), label, before, since (an image)
        --format TEMPLATE      what is shown of each, e.g. '{{.ID}} {{.Size}}'
    """
    store, wanted, pairs = Store(), parse(words[0]) if words else None, list[tuple[image.Image, dict[str, str]]]()
    for one in sorted(image.images(store), key=_created, reverse=True):
        row = {"ID": one.id if options.no_trunc else one.id[SHORT], "Digest": one.descriptor["digest"]}
        row |= {"CreatedSince": ago(_created(one)), "CreatedAt": _created(one), "Size": human(one.size)}
        for name, tag in [(name.name, name.tag) for name in map(parse, one.names())] or [("<none>", "<none>")]:
            if wanted is None or (name == wanted.name and (tag == wanted.tag or ":" not in words[0])):
                pairs.append((one, row | {"Repository": name, "Tag": tag}))
    known: Predicates = {
        "dangling": lambda of, text: (of[1]["Tag"] == "<none>") == (text in YES),
        "reference": lambda of, text: fnmatch.filter([name := of[1]["Repository"], f"{name}:{of[1]['Tag']}"], text),
        "label": lambda of, text: labelled(of[0].config["config"].get("Labels"), text),
        "before": lambda of, text: _created(of[0]) < _created(image.find(store, text)),
        "since": lambda of, text: _created(of[0]) > _created(image.find(store, text)),
    }
    rows = [row for _, row in filtered(pairs, options.filter, known)]
    columns = f"Repository Tag{' Digest' * options.digests} ID CreatedSince Size"
    show(options, rows, columns, "CreatedAt Digest", ID="IMAGE ID")


def _created(one: image.Image) -> str:
    return one.config.get("created") or ""


def history(options: Options, name: str) -> None:
    """history [OPTIONS] IMAGE: show the steps that made an image, the last one first

    -q, --quiet     only their IDs
        --no-trunc  commands in full
        --format TEMPLATE  what is shown of each, e.g. '{{.CreatedBy}}'
    """
    found = image.find(Store(), name)
    sizes = iter(layer["size"] for layer in found.manifest["layers"])
    rows = list[dict[str, str]]()
    for step in found.config.get("history") or []:
        size = 0 if step.get("empty_layer") else next(sizes, 0)
        command = " ".join((step.get("created_by") or "").split())
        command = command if len(command) < 46 or options.no_trunc else f"{command[:44]}…"
        row = {"ID": "<missing>", "CreatedSince": ago(step.get("created")), "CreatedAt": step.get("created") or ""}
        rows.insert(0, row | {"CreatedBy": command, "Size": human(size), "Comment": step.get("comment") or ""})
    if rows:
        rows[0]["ID"] = found.id if options.no_trunc else found.id[SHORT]
    show(options, rows, "ID CreatedSince CreatedBy Size Comment", "CreatedAt", ID="IMAGE")


def inspect(options: Options, *words: str) -> int:
    """inspect [OPTIONS] NAME...: print all that is known of these, as JSON

    -f, --format TEMPLATE  only this of it, e.g. '{{.Id}}' or '{{json .Config.Env}}'
    -s, --size             of a container with its size
        --type KIND        container, image, volume or network, if two have the same name
        --draw             a picture of running containers instead: what their walls are now
    """
    if options.draw:
        return each(words, _drawn)
    if options.type and options.type not in KINDS:
        raise ContainerError(f"--type {options.type}{nearest(options.type, KINDS)}: it is {', '.join(KINDS)}")
    parts, found = parsed(options.format), list[Mapping[str, Any]]()

    def one(word: str) -> list[str]:
        for kind in [options.type] if options.type else KINDS:
            try:
                thing = KINDS[kind](word, options)
            except ContainerError:
                if options.type:
                    raise
                continue
            found.append(thing)
            return [render(parts, {".": thing, "$": thing})] if options.format else []
        raise ContainerError(f"no such object: {word}: see ps -a, images, volume ls, network ls")

    status = each(words, one)
    if not options.format:
        print(json.dumps(found, indent=4))
    return status


def _drawn(word: str) -> list[object]:
    from minidocker.look import look

    known = records.find(word).state()
    if not known["pid"]:
        raise ContainerError(f"{word}: this container is {known['status']}: only one that is running can be drawn")
    return [look(known["pid"])]


def _container(word: str, options: Options) -> dict[str, Any]:
    from minidocker.cli.show import Seen

    return Seen(records.find(word)).document(options.size)


def _image(word: str, _: Options) -> dict[str, Any]:
    """The keys that Docker's has, as far as they mean something here."""
    found = image.find(Store(), word)
    names, config = [parse(full) for full in found.names()], found.config
    inner: dict[str, Any] = dict.fromkeys(("Env", "Cmd", "Entrypoint", "Volumes", "ExposedPorts", "Labels"))
    inner |= dict.fromkeys(("User", "WorkingDir", "StopSignal"), "") | config["config"]
    known: dict[str, Any] = {"Id": found.id, "RepoTags": [name.familiar for name in names]}
    known |= {"RepoDigests": [f"{name.name}@{found.descriptor['digest']}" for name in names], "Parent": ""}
    known |= {"Created": config.get("created"), "Author": config.get("author", ""), "Config": inner}
    known |= {"Architecture": config.get("architecture"), "Os": config.get("os"), "Size": found.size}
    known |= {"Comment": (config.get("history") or [{}])[-1].get("comment", "")}
    return known | {"RootFS": {"Type": "layers", "Layers": found.diff_ids}}


def tag(_: Options, old: str, new: str) -> None:
    """tag IMAGE NAME[:TAG]: give an image another name"""
    store = Store()
    store.tag(new, image.find(store, old).descriptor)


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
    print("Total reclaimed space:", human(image.prune(Store(), options.all)))


def volume_create(options: Options, name: str = "") -> None:
    """volume create [OPTIONS] [NAME]: make a volume

    -o, --opt NAME=VALUE...    type, device, o: a file system to mount, as mount(8) takes them
    -d, --driver NAME          local, which is the only one
        --label NAME[=VALUE]...  a note for `volume ls --filter label=`, and for people
    """
    if options.driver not in ("", "local"):
        raise ContainerError(f"no volume driver is called {options.driver!r}: there is local")
    settings, labels = (dict(word.partition("=")[::2] for word in some) for some in (options.opt, options.label))
    print(volume.create(name, settings, labels))


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


def _network(name: str, _: Options) -> dict[str, Any]:
    """The keys that Docker's has, and chapter 7's."""
    known: dict[str, Any] = network.inspect(name)
    inside = {who: {"Name": who, "IPv4Address": address} for who, address in known["containers"].items()}
    pool = {"Driver": "default", "Config": [{"Subnet": known["subnet"], "Gateway": known["gateway"]}]}
    fixed = {"Name": name, "Id": known["interface"], "Driver": "bridge", "Scope": "local", "Labels": {}}
    return {**fixed, "EnableIPv6": bool(known["subnet6"]), "IPAM": pool, "Containers": inside, **known}


def _used(one: dict[str, Any]) -> bool:
    held = "Mountpoint" in one and (state.wanted(one["Name"]) or volume.users(one["Name"]))
    return bool(one.get("Containers") or held)


KINDS: dict[str, Callable[[str, Options], Mapping[str, Any]]] = {  # of inspect, in the order of its search
    "container": _container,
    "image": _image,
    "volume": lambda name, _: volume.inspect(name),
    "network": _network,
}
NOUNS: dict[str, Any] = {  # noun -> all names, how to remove one, the columns of a list, and what else can be shown
    "volume": (volume.names, volume.remove, "Driver Name", "Scope Mountpoint Labels"),
    "network": (network.listed, network.remove, "ID Name Driver Scope Subnet", "Interface Labels"),
}


def _ls(noun: str, options: Options) -> None:
    """{0} ls [OPTIONS]: list the {0}s

    -q, --quiet  only their names
    -f, --filter KEY=VALUE...  name (a part of it), driver, label, dangling (true: nobody uses it)
        --format TEMPLATE      what is shown of each, e.g. '{{{{.Name}}}}'
    """
    listed, _, columns, others = NOUNS[noun]
    predicates: Predicates = {
        "name": lambda one, text: text in one["Name"],
        "driver": lambda one, text: text == one["Driver"],
        "label": lambda one, text: labelled(one["Labels"], text),
        "dangling": lambda one, text: _used(one) != (text in YES),
    }
    rows = list[dict[str, str]]()
    for one in filtered([KINDS[noun](name, options) for name in listed()], options.filter, predicates):
        texts = {key.lower(): str(value) for key, value in one.items()}
        texts["labels"] = ",".join(f"{key}={value}" for key, value in one["Labels"].items())
        rows.append({field: texts[field.lower()] for field in f"{columns} {others}".split()})
    show(options, rows, columns, others, "Name", ID="NETWORK ID", Name="VOLUME NAME" if noun == "volume" else "NAME")


def _rm(noun: str, options: Options, *names: str) -> int:
    """{0} rm [OPTIONS] {1}...: remove {0}s that no container uses, with what is in them

    -f, --force  one that is not there is no error
    """
    listed, remove, *_ = NOUNS[noun]
    there = listed() if options.force else names
    return each([name for name in names if name in there], lambda name: [remove(name) or name])


for _noun in NOUNS:  # volume_ls, network_rm, ...: each with a help of its own, from which its options are read
    for _verb in (_ls, _rm):
        _function_of = functools.partial(_verb, _noun)
        _function_of.__doc__ = (_verb.__doc__ or "").format(_noun, _noun.upper())
        globals()[f"{_noun}{_verb.__name__}"] = _function_of


def builder_prune(_: Options) -> None:
    """builder prune [OPTIONS]: empty the build cache

    -a, --all    all of it (it always does)
    -f, --force  do not ask (it never does)
    """
    Store().forget_steps()
    print("Total reclaimed space:", human(Store().collect()))


def prune(_: Options) -> int:
    """prune: remove what containers left behind whose owner was killed"""
    return each([cgroups.prune, state.prune, records.prune, volume.prune, network.prune], operator.call, "removed ")


def system_prune(options: Options) -> int:
    """system prune [OPTIONS]: the same, and images without a name, and the build cache

    -a, --all  all images, not only those without a name
    -f, --force  do not ask (it never does)
    --volumes  volumes without a name of their own, too (they always are)
    """
    status = prune(options)
    Store().forget_steps()
    image_prune(options)
    return status


def system_df(options: Options) -> None:
    """system df [OPTIONS]: how much of the disk images, their unpacked layers, containers and volumes take

    --format TEMPLATE  what is shown of each, e.g. '{{.Type}} {{.Size}}'
    """
    store = Store()
    found, steps = image.images(store), image.images(store, store.steps())
    needed, made = ({digest for one in some for digest in [*one.digests(), *one.diff_ids]} for some in (found, steps))
    places = [f"{store.layout}/blobs/sha256", f"{store.unpacked}/sha256"]
    places += [f"{store.home}/containers", f"{store.home}/records"]
    blobs, layers, running, kept = ({*glob.glob(glob.escape(place) + "/*")} for place in places)
    cached = {path for path in blobs | layers if f"sha256:{os.path.basename(path)}" in made - needed}
    kinds = [("Images", len(found), blobs - cached), ("Layers", len(layers), layers - cached)]
    kinds += [("Containers", len(records.records()), running | kept), ("Build Cache", len(steps), cached)]
    kinds += [("Local Volumes", len(volume.names()), {*map(volume.directory, volume.names())})]
    rows = [{"Type": kind, "TotalCount": str(total), "Size": human(usage(paths))} for kind, total, paths in kinds]
    show(options, rows, "Type TotalCount Size")

"""Verbs about what a container consists of: its files (cp, diff, commit) and its settings (update)."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from minidocker.cgroups import Cgroup
from minidocker.cgroups.hierarchy import Hierarchy, hierarchies, write
from minidocker.cli import Options, each
from minidocker.cli.asked import restart_policy, volumes
from minidocker.cli.inside import asked
from minidocker.cli.run import settle
from minidocker.engine import records, watch
from minidocker.engine.changes import Inside, Landing, changed, found
from minidocker.engine.records import Record, find
from minidocker.images import image, manifest
from minidocker.images.build.copy import DIRECTORY, Source
from minidocker.images.build.dockerfile import configured, environment
from minidocker.images.container import ready
from minidocker.images.layer.pack import write_layer
from minidocker.images.layer.unpack import unpack
from minidocker.images.store import Store
from minidocker.isolator import Isolator
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.security.devices import NoDevices
from minidocker.security.options import ReadOnly
from minidocker.security.users import FIRST
from minidocker.syscalls import Any
from minidocker.union import Union
from minidocker.volumes import Tmpfs


def cp(options: Options, source: str, target: str) -> None:
    """cp [OPTIONS] SOURCE TARGET: copy files out of a container, or into it: one of the two is CONTAINER:PATH

    A directory that is there takes the source into it. PATH/. is what is in a directory; the other one may be -, a tar.

    -a, --archive      what comes out keeps its owners, as what goes in always does
    -L, --follow-link  of a link as SOURCE, what it leads to
    -q, --quiet        say nothing (it never does)
    """
    (out, path), (into, place) = _split(source), _split(target)
    if bool(out) == bool(into):
        raise ContainerError("cp: one of the two is CONTAINER:PATH, and the other a path here, or -")
    if place == "-" and out and os.isatty(1):
        raise ContainerError("an archive does not belong on a terminal: name a file, or use a pipe")
    with contextlib.ExitStack() as stack:
        walls = _walls(record := find(out or into), stack)
        if out:
            return _receive(stack.enter_context(found(path, walls, options.follow_link)), place, options.archive)
        if path == "-":  # unpacked here first, behind the walls of any archive
            path, place = stack.enter_context(Store().place()), f"{place}/."
            unpack(0, path, what="the archive")
            path += "/."
        here = [Namespaces("mount"), NoDevices()]
        taken = stack.enter_context(found(os.path.join(os.getcwd(), path), here, options.follow_link))
        owner = (FIRST, FIRST) if asked(record).userns == "remap" else None  # root, as it is called outside
        Landing(place, taken, owner, f"{into}:").put(walls)


def _receive(source: Source, place: str, owners: bool) -> None:
    """Write what comes out of a container, to a path here, or as an archive."""
    root, real = f"/proc/self/fd/{source.root}", os.path.realpath(place)
    if place == "-":
        with open(1, "wb", closefd=False) as stream:
            return write_layer(root, stream, True, source.path or ".", os.fsencode(source.name or "."))
    top, name = (real, "") if os.path.isdir(real) else os.path.split(real)
    if not os.path.isdir(top):
        raise ContainerError(f"{place}: there is no directory {top}")
    jail, base = ([PivotRoot(top, proc=False)], top) if top != "/" else ([], "")
    owner = None if owners else (os.geteuid(), os.getegid())
    Landing(f"/{name}{'/' * place.endswith('/')}", source, owner, base).put([Namespaces("mount"), *jail])


def _split(word: str) -> tuple[str, str]:
    """(container, path) of CONTAINER:PATH; ("", path) of a path here, which may have a colon behind a / or a dot."""
    container, colon, path = word.partition(":")
    return (container, path or "/") if colon and "/" not in container and container[:1] != "." else ("", word)


def _walls(record: Record, stack: contextlib.ExitStack) -> list[Isolator]:
    """What a process is behind that sees its files, with its volumes. What does not run cannot start meanwhile."""
    if (lock := records.lock(record)) is None:
        state = record.state()
        if not state["pid"]:
            raise ContainerError(f"{record.name}: this container is {state['status']}: try again")
        return [Inside(state["pid"], "mount")]
    stack.callback(os.close, lock)
    options, its = asked(record), ready(record.config["image_id"])
    union = Union(its["layers"], f"{record.path}/upper", its["held"])
    placed = [volume for volume in volumes(options, {}, union.root)[1:] if not isinstance(volume, Tmpfs)]
    placed += [NoDevices(), PivotRoot(union.root, proc=False), *([ReadOnly()] if options.read_only else [])]
    return [Namespaces("mount"), union, *placed]


def diff(_: Options, word: str) -> None:
    """diff CONTAINER: what a container has changed in its files: A is new, C has changed, D is gone"""
    record, carry = find(word), Isolator()
    its, upper = ready(record.config["image_id"]), os.open(f"{record.path}/upper", DIRECTORY)
    carry.descriptors = (upper,)
    union = Union(its["layers"], held=its["held"])
    run(partial(changed, upper), union, PivotRoot(union.root, proc=False), carry, stdout=1)


def commit(options: Options, word: str, name: str = "") -> None:
    """commit [OPTIONS] CONTAINER [NAME[:TAG]]: make an image of a container: what it has changed is a layer

    -a, --author NAME             who made it
    -c, --change INSTRUCTION...   set a part of its config, as a Dockerfile does: 'CMD ["sh"]'
    -m, --message TEXT            what its history says
    -p, --pause                   freeze it meanwhile (the default); --pause=false does not
    """
    record, store = find(word), Store()
    base = image.find(store, record.config["image_id"])
    if asked(record).userns == "remap":
        raise ContainerError(f"commit: {record.name}: --userns remap has changed the owners of its files: use cp")
    was, types = _as_run(record, base.config["config"]), manifest.DOCKER_LAYERS
    config = configured(options.change, {**was})
    below = [{**one, "mediaType": types.get(one["mediaType"], one["mediaType"])} for one in base.manifest["layers"]]
    about: dict[str, Any] = {"created": watch.now(), "author": options.author}
    event = about | {"created_by": " ".join(was.get("Cmd") or []), "comment": options.message}
    history = [*(base.config.get("history") or [{"comment": "unknown"}] * len(below)), event]
    known: dict[str, Any] = {key: base.config[key] for key in ("architecture", "os", "variant") if key in base.config}
    with store.bringing(name or "commit"), contextlib.ExitStack() as stack:
        if (lock := records.lock(record)) is not None:  # it cannot start meanwhile
            stack.callback(os.close, lock)
        elif (options.pause or "pause" not in options.given) and record.state()["status"] == "running":
            records.freeze(record, True)
            stack.callback(records.freeze, record, False)
        layer, diff_id = store.add_layer(f"{record.path}/upper")
        parts = {"rootfs": {"type": "layers", "diff_ids": [*base.diff_ids, diff_id]}, "history": history}
        made = image.make(store, {**known, **about, "config": config, **parts}, [*below, layer])
        store.tag(name, made.descriptor)
    watch.tell("commit", record.config)
    print(made.id)


def _as_run(record: Record, config: dict[str, Any]) -> dict[str, Any]:
    """The config of the image, with what the container was made with: so does Docker."""
    options, command = asked(record), record.config["command"]
    changed = {"User": options.user, "WorkingDir": options.workdir, "StopSignal": options.stop_signal, "Cmd": command}
    if "entrypoint" in options.given:
        changed |= {"Entrypoint": [*filter(None, [options.entrypoint])]}
        config = {**config, "Cmd": command}
    variables = environment(config) | environment({"Env": options.env})
    labels = {**(config.get("Labels") or {}), **dict(text.partition("=")[::2] for text in options.label)}
    changed |= {"Env": [f"{key}={value}" for key, value in variables.items()], "Labels": labels}
    return config | {key: value for key, value in changed.items() if value}


def update(options: Options, *words: str) -> int:
    """update [OPTIONS] CONTAINER...: change what containers may use, at once if they run, and what follows their end

    -m, --memory BYTES         limit of memory, e.g. 64m
        --memory-swap BYTES    limit of memory and swap together
        --cpus NUMBER          limit of CPU time, e.g. 0.5
        --cpu-weight NUMBER    share among those who want more: 1 to 10000, others have 100
        --pids-limit NUMBER    limit of processes; -1 is none
        --restart POLICY       no, on-failure[:TIMES], always, or unless-stopped
    """
    if not options.given:
        raise ContainerError("update: say what is to change: see minidocker update --help")

    def one(word: str) -> list[str]:
        groups = dict[str, Any]()  # those that its monitor holds, if it runs
        with records.changing():
            record = find(word)
            for place in hierarchies():
                group = Hierarchy(place.version, f"{place.parent}/{record.short}", place.controllers)
                groups |= dict.fromkeys(group.controllers if os.path.isdir(group.path) else (), group)
            made = asked(record)
            made.update({name: options[name] for name in options.given})
            restart_policy(made)
            _, walls, _ = settle(made, ready(record.config["image_id"]), record.config["command"], record.short)
            limits = next(wall.limits for wall in walls if isinstance(wall, Cgroup))
            settings = limits.settings(groups) if groups else []
            for file, text in sorted(settings, key=lambda setting: "/memory." not in setting[0]):  # may be refused
                write(file, text)
            record.write("config", record.config | {"options": {**made}}, sync=True)
        watch.tell("update", record.config)
        return [word]

    return each(words, one)

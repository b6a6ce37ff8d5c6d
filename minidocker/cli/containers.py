"""Verbs about containers that stay, one by one: from create to rm."""

from __future__ import annotations

import os
import sys

from minidocker.cli import Options, each, end_in_order
from minidocker.cli.run import FORWARDED, prepared, settle
from minidocker.cli.run import run as run_verb
from minidocker.engine import attach as client
from minidocker.engine import records
from minidocker.engine.monitor import begin as begin_monitor
from minidocker.engine.records import Record, find
from minidocker.images.container import ready
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, pair, send, signal
from minidocker.volumes import Named, store
from minidocker.volumes.spelling import from_mount, from_v


def kept(options: Options, name: str, image: dict[str, Any], command: tuple[str, ...]) -> Record:
    """A new container, written down with all that it will need; its volumes without a name get one now."""
    paths, anonymous = image["config"].get("Volumes") or {}, list[str]()
    binds, mounts = [from_v(text, "/") for text in options.volume], [from_mount(text, "/") for text in options.mount]
    options["volume"], options["mount"] = [*options.volume], [*options.mount]
    targets = {volume.target for volume in [*binds, *mounts]}
    volumes = [volume.name for volume in [*binds, *mounts] if isinstance(volume, Named) and volume.name]
    settle(options, image, command, "0" * 12)  # what is wrong is said before anything is made
    number_of(options.stop_signal or "TERM")

    def named() -> str:
        anonymous.append(store.create())
        return anonymous[-1]

    for number, volume in enumerate(binds):
        if isinstance(volume, Named) and not volume.name:
            options["volume"][number] = f"{named()}:{options.volume[number]}"
        elif volume.source:  # its monitor is somewhere else
            options["volume"][number] = volume.source + options.volume[number][options.volume[number].index(":") :]
    for number, volume in enumerate(mounts):
        if isinstance(volume, Named) and not volume.name:
            options["mount"][number] += f",source={named()}"
    options["volume"] += [f"{named()}:/{path.lstrip('/')}" for path in paths if f"/{path.lstrip('/')}" not in targets]
    try:
        config = {
            "image": name,
            "image_id": image["id"],
            "command": [*command],
            "options": {**options},
            "given": sorted(options.given),
            "volumes": [*volumes, *anonymous],
            "anonymous": anonymous,
        }
        record = records.create(config, image["layers"][0], options.name)
    except BaseException:
        for volume_name in anonymous:
            store.remove(volume_name)
        raise
    if options.cidfile:
        with open(options.cidfile, "x") as file:
            file.write(record.id)
    return record


def asked(record: Record) -> Options:
    """The options that it was made with."""
    config, options = record.config, Options(run_verb.__doc__ or "")
    options.update(config["options"])
    options.given = {*config["given"]}
    return options


def _make(record: Record) -> tuple[Any, Any, dict[str, Any]]:
    """What its monitor starts: the list of chapter 5, with a writable directory that stays."""
    end_in_order(signal.SIGTERM)  # whoever waits for the start gives up, or somebody ends the monitor
    config, options = record.config, asked(record)
    options["name"] = config["name"]
    return settle(options, ready(config["image_id"]), config["command"], record.short, f"{record.path}/upper")


def _start(record: Record, client: int = -1) -> None:
    for text in begin_monitor(record, _make, client):
        __import__("minidocker.cli.asked", fromlist=["_"]).once(f"warning: {text}")


def begin(options: Options, record: Record) -> int:
    """`run`, of a container that stays: start it, and show what it writes unless it is detached."""
    if options.detach:
        _start(record)
        print(record.id)
        return 0
    return _in_front(record, keyboard=0 if options.interactive else -1, keys=options.detach_keys)


def _in_front(record: Record, keyboard: int, keys: str) -> int:
    """Start it, attached from its first byte on; the exit status."""
    ours, theirs = pair()
    end_in_order(*FORWARDED)
    try:
        _start(record, theirs)
        proxy(record, ours)
    finally:
        os.close(theirs)
    return _followed(ours, keyboard, keys)


def _followed(channel: int, keyboard: int, keys: str) -> int:
    code = client.follow(channel, keyboard, keys or client.KEYS)
    if code is None:
        print("read escape sequence", file=sys.stderr)
    return code or 0


def proxy(record: Record, channel: int) -> None:
    """Signals that reach this command are for the container, as with Docker's --sig-proxy."""
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _: _pass(channel, received))


def _pass(channel: int, number: int) -> None:
    try:
        send(channel, ("signal", number))
    except OSError:
        pass  # it has just ended


def remove(record: Record, volumes: bool = True, force: bool = False) -> None:
    """Remove a container, and its volumes without a name. With `force` it is killed first, if it runs."""
    while (lock := records.lock(record)) is None:
        if not force:
            raise ContainerError(f"{record.name}: this container is running: stop it first, or use -f")
        leaves = isinstance(record, records.Foreground) or record.config["options"]["rm"]
        client.stop(record, signal.SIGKILL)
        if leaves:
            return  # its command, or its monitor, has removed it
    records.delete(record, lock, volumes)


def create(options: Options, name: str, *command: str) -> None:
    """create [OPTIONS] IMAGE [COMMAND...]: make a container, and do not start it: all options of run"""
    print(kept(options, name, prepared(options, name), command).id)


create.__doc__ = (create.__doc__ or "") + (run_verb.__doc__ or "").partition("\n")[2].join(["\n", ""])


def start(options: Options, *words: str) -> int:
    """start [OPTIONS] CONTAINER...: start containers that do not run

    -a, --attach             show what it writes, and exit with its exit code
    -i, --interactive        and give it the standard input
        --detach-keys KEYS   what ends the view of a terminal: ctrl-p,ctrl-q
    """
    if options.attach or options.interactive:
        if len(words) != 1:
            raise ContainerError("start -a and -i are for one container")
        record = find(words[0])
        if record.state()["status"] in records.ALIVE:
            return attach_to(record, options)
        return _in_front(record, 0 if options.interactive and asked(record).interactive else -1, options.detach_keys)

    def one(word: str) -> list[str]:
        _start(find(word))
        return [word]

    return each(words, one)


def attach(options: Options, word: str) -> int:
    """attach [OPTIONS] CONTAINER: see what a running container writes, and type

    --no-stdin           only see
    --detach-keys KEYS   what ends the view of a terminal, and not the container: ctrl-p,ctrl-q
    """
    return attach_to(find(word), options)


def attach_to(record: Record, options: Options) -> int:
    """See what a running container writes, and type; the exit status."""
    channel = client.connect(record)
    proxy(record, channel)
    send(channel, ("attach",))
    stdin = asked(record).interactive and not options.get("no-stdin")
    return _followed(channel, 0 if stdin else -1, options.detach_keys)


def stop(options: Options, *words: str) -> int:
    """stop [OPTIONS] CONTAINER...: end containers: a signal, and after a time SIGKILL

    -t, --time SECONDS   when: by default 10, or what run --stop-timeout said; -1 is never
    -s, --signal SIGNAL  by default SIGTERM, or the image's STOPSIGNAL, or what run --stop-signal said
    """

    def one(word: str) -> list[str]:
        halt(find(word), options)
        return [word]

    return each(words, one)


def halt(record: Record, options: Options) -> None:
    """Stop it, if it runs."""
    if record.state()["status"] not in records.ALIVE:
        return
    made, config = asked(record), ready(record.config["image_id"])["config"]
    number = number_of(options.signal or made.stop_signal or config.get("StopSignal") or "TERM")
    chosen = options if options.time else made
    grace = chosen.number("time" if options.time else "stop-timeout", float)
    grace = grace if options.time or made.stop_timeout else 10
    client.stop(record, number, None if grace < 0 else grace)


def number_of(text: str) -> int:
    """A signal from its name, with or without SIG, or its number."""
    name, _, more = text.upper().removeprefix("SIG").partition("+")
    if name == "RTMIN" and more.isdecimal():  # systemd's is RTMIN+3
        text = str(signal.SIGRTMIN + int(more))
    found = getattr(signal, "SIG" + text.upper().removeprefix("SIG"), None)
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    if not isinstance(found, int) or "_" in text:
        raise ContainerError(f"no signal is called {text!r}: see kill -l")
    return int(found)


def restart(options: Options, *words: str) -> int:
    """restart [OPTIONS] CONTAINER...: stop them, and start them again

    -t, --time SECONDS   when to kill what does not end by itself: by default 10
    -s, --signal SIGNAL  what to send first
    """

    def one(word: str) -> list[str]:
        record = find(word)
        halt(record, options)
        _start(record)
        return [word]

    return each(words, one)


def kill(options: Options, *words: str) -> int:
    """kill [OPTIONS] CONTAINER...: send a signal to the first process of running containers

    -s, --signal SIGNAL  by default KILL
    """
    number = number_of(options.signal or "KILL")

    def one(word: str) -> list[str]:
        record = find(word)
        channel = client.kill(record, number)
        if number == signal.SIGKILL:
            client.ended(record, channel)
        os.close(channel)
        return [word]

    return each(words, one)


def wait(_: Options, *words: str) -> int:
    """wait CONTAINER...: wait until containers end, and print their exit codes"""

    def one(word: str) -> list[str]:
        record = find(word)
        try:
            channel = client.connect(record)
            send(channel, ("wait",))
        except (client.NotRunning, OSError):
            if isinstance(record, records.Foreground):
                raise
            return [str(client.over(record))]
        return [str(client.ended(record, channel))]

    return each(words, one)


def rm(options: Options, *words: str) -> int:
    """rm [OPTIONS] CONTAINER...: remove containers that do not run

    -f, --force    those that run as well: they are killed
    -v, --volumes  with their volumes that have no name
    """

    def one(word: str) -> list[str]:
        try:
            record = find(word)
        except records.NoSuchContainer:
            if options.force:
                return []
            raise
        remove(record, options.volumes, options.force)
        return [word]

    return each(words, one)


def pause(_: Options, *words: str) -> int:
    """pause CONTAINER...: stop all processes of containers where they are"""
    return each(words, lambda word: _frozen(word, True))


def unpause(_: Options, *words: str) -> int:
    """unpause CONTAINER...: let them go on"""
    return each(words, lambda word: _frozen(word, False))


def _frozen(word: str, frozen: bool) -> list[str]:
    record = find(word)
    status = record.state()["status"]
    if status != ("running" if frozen else "paused"):
        raise ContainerError(f"{word}: this container is {status}")
    records.freeze(record, frozen)
    return [word]


def rename(_: Options, word: str, name: str) -> None:
    """rename CONTAINER NAME: give a container another name"""
    records.rename(find(word), name)


def container_prune(options: Options) -> int:
    """container prune [OPTIONS]: remove all containers that do not run

    -f, --force  do not ask (it never does)
    """
    dead = [record for record in records.records() if record.state()["status"] not in records.ALIVE]

    def one(record: Record) -> list[str]:
        remove(record)
        return [record.id]

    return each(dead, one)

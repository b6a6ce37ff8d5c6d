"""Verbs about containers that stay, one by one: from create to rm."""

from __future__ import annotations

import os
import sys
from _collections_abc import Callable

from minidocker.cli import Options, at_signals, each, end_in_order, module
from minidocker.cli.inside import asked
from minidocker.cli.run import FORWARDED, prepared, settle
from minidocker.cli.run import run as run_verb
from minidocker.engine import attach as client
from minidocker.engine import records
from minidocker.engine.monitor import begin as begin_monitor
from minidocker.engine.records import Record, find
from minidocker.engine.watch import suppress
from minidocker.images.container import ready
from minidocker.outcome import ContainerError, warn
from minidocker.syscalls import Any, pair, send, signal
from minidocker.volumes import Named, store
from minidocker.volumes.spelling import from_mount, from_v


def kept(options: Options, name: str, image: dict[str, Any], command: tuple[str, ...]) -> Record:
    """A new container, written down with all that it will need; its volumes without a name get one now."""
    settle(options, image, command, "0" * 12)  # what is wrong is said before anything is made
    number_of(options.stop_signal or "TERM")
    options["security-opt"] = [*map(_absolute, options.security_opt)]
    volumes, anonymous, targets = list[str](), list[str](), set[str]()

    def named() -> str:
        anonymous.append(store.create())
        return anonymous[-1]

    try:
        for kind, read in (("volume", from_v), ("mount", from_mount)):
            texts, options[kind] = options[kind], []
            for text in texts:
                volume = read(text, "/")
                if isinstance(volume, Named) and volume.name:
                    volumes.append(volume.name)
                elif isinstance(volume, Named):
                    text = f"{named()}:{text}" if kind == "volume" else f"{text},source={named()}"
                elif kind == "volume":  # its monitor is somewhere else
                    text = volume.source + text[text.index(":") :]
                elif volume.source:
                    text += ',"source={}"'.format(volume.source.replace('"', '""'))
                options[kind].append(text)
                targets.add(volume.target)
        paths = [f"/{path.lstrip('/')}" for path in image["config"].get("Volumes") or ()]
        options["volume"] += [f"{named()}:{path}" for path in paths if path not in targets]
        config = {"image": name, "image_id": image["id"], "command": [*command], "options": {**options}}
        config |= {"given": sorted(options.given), "volumes": [*volumes, *anonymous], "anonymous": anonymous}
        record = records.create(config, image["layers"][0], options.name)
    except BaseException:
        for volume_name in anonymous:
            store.remove(volume_name)
        raise
    if options.cidfile:
        with open(options.cidfile, "x") as file:
            file.write(record.id)
    return record


def _absolute(word: str) -> str:
    """Where a profile is that --security-opt names, for a monitor, which is somewhere else."""
    path = word.removeprefix("seccomp=")
    return word if path in (word, "", "unconfined") else f"seccomp={os.path.abspath(path)}"


def _make(record: Record) -> tuple[Any, Any, dict[str, Any]]:
    """What its monitor starts: the list of chapter 5, with a writable directory that stays."""
    end_in_order(signal.SIGTERM)  # whoever waits for the start gives up, or somebody ends the monitor
    config, options = record.config, asked(record)
    options["name"] = config["name"]
    return settle(options, ready(config["image_id"]), config["command"], record.short, f"{record.path}/upper")


def _start(record: Record, client: int = -1) -> None:
    for text in begin_monitor(record, _make, client):
        module("cli.asked").once(f"warning: {text}")


def begin(options: Options, record: Record) -> int:
    """`run`, of a container that stays: start it, and show what it writes unless it is detached."""
    if not options.detach:
        return _in_front(record, options.interactive, options.detach_keys)
    _start(record)
    print(record.id)
    return 0


def _in_front(record: Record, stdin: bool, keys: str) -> int:
    """Start it, attached from its first byte on; the exit status."""
    ours, theirs = pair()
    send(ours, ("attach",))
    end_in_order(*FORWARDED)
    _start(record, theirs)
    os.close(theirs)
    return _followed(ours, stdin, keys)


def _followed(channel: int, stdin: bool, keys: str) -> int:
    """Signals that reach this command meanwhile are for the container, as with Docker's --sig-proxy."""

    def passed(number: int, _: object) -> None:
        with suppress(OSError):  # it has just ended
            send(channel, ("signal", number))

    at_signals(FORWARDED, passed)
    code = client.follow(channel, 0 if stdin else -1, keys or client.KEYS)
    if code is None:
        print("read escape sequence", file=sys.stderr)
    return code or 0


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


def _each(words: tuple[str, ...], do: Callable[[Record], str | None]) -> int:
    """Do it with the container that each word means; that is said, or what comes back."""
    return each(words, lambda word: [do(find(word)) or word])


def start(options: Options, *words: str) -> int:
    """start [OPTIONS] CONTAINER...: start containers that do not run

    -a, --attach             show what it writes, and exit with its exit code
    -i, --interactive        and give it the standard input
        --detach-keys KEYS   what ends the view of a terminal: ctrl-p,ctrl-q
    """
    if not options.attach and not options.interactive:
        return _each(words, _start)
    if len(words) != 1:
        raise ContainerError("start -a and -i are for one container")
    record = find(words[0])
    if record.state()["status"] in records.ALIVE:
        return attach(options, words[0])
    return _in_front(record, options.interactive and asked(record).interactive, options.detach_keys)


def attach(options: Options, word: str) -> int:
    """attach [OPTIONS] CONTAINER: see what a running container writes, and type

    --no-stdin           only see
    --detach-keys KEYS   what ends the view of a terminal, and not the container: ctrl-p,ctrl-q
    """
    record = find(word)
    channel = client.connect(record)
    send(channel, ("attach",))
    return _followed(channel, asked(record).interactive and not options.get("no-stdin"), options.detach_keys)


def stop(options: Options, *words: str) -> int:
    """stop [OPTIONS] CONTAINER...: end containers: a signal, and after a time SIGKILL

    -t, --time SECONDS   when: by default 10, or what run --stop-timeout said; -1 is never
    -s, --signal SIGNAL  by default SIGTERM, or the image's STOPSIGNAL, or what run --stop-signal said
    """
    return _each(words, lambda record: _halt(record, options))


def _halt(record: Record, options: Options) -> None:
    """Stop it, if it runs. What an image has as its STOPSIGNAL may be anything; for Docker, then, it is SIGTERM."""
    if record.state()["status"] not in records.ALIVE:
        return
    made, config = asked(record), ready(record.config["image_id"])["config"]
    wanted = options.signal or made.stop_signal
    try:
        number = number_of(wanted or config.get("StopSignal") or "TERM")
    except ContainerError as wrong:
        if wanted:
            raise
        warn(f"{record.name}: {wrong}: that is the STOPSIGNAL of its image, so it gets SIGTERM")
        number = signal.SIGTERM
    grace = options.number("time", float) if options.time else made.number("stop-timeout", float)
    grace = grace if options.time or made.stop_timeout else 10
    client.stop(record, number, None if grace < 0 else grace)


def number_of(text: str) -> int:
    """A signal from its name, with or without SIG, or its number; systemd's is RTMIN+3."""
    name = text.upper().removeprefix("SIG")
    known = {name[3:]: int(number) for name, number in vars(signal).items() if name[:3] == "SIG" and name.isalnum()}
    number = known.get(name, 0) or (int(name) if name.isdecimal() and len(name) < 3 else 0)
    if name[:5] in ("RTMIN", "RTMAX") and name[5:6] in ("+", "-") and name[6:].isdecimal() and len(name) < 9:
        number = known[name[:5]] + int(name[5:])
    if not 0 < number < signal.NSIG:
        raise ContainerError(f"no signal is called {text!r}: see kill -l")
    return number


def restart(options: Options, *words: str) -> int:
    """restart [OPTIONS] CONTAINER...: stop them, and start them again

    -t, --time SECONDS   when to kill what does not end by itself: by default 10
    -s, --signal SIGNAL  what to send first
    """

    def one(record: Record) -> None:
        _halt(record, options)
        _start(record)

    return _each(words, one)


def kill(options: Options, *words: str) -> int:
    """kill [OPTIONS] CONTAINER...: send a signal to the first process of running containers

    -s, --signal SIGNAL  by default KILL
    """
    number = number_of(options.signal or "KILL")

    def one(record: Record) -> None:
        channel = client.kill(record, number)
        if number == signal.SIGKILL:
            client.ended(record, channel)
        os.close(channel)

    return _each(words, one)


def wait(_: Options, *words: str) -> int:
    """wait CONTAINER...: wait until containers end, and print their exit codes"""

    def one(record: Record) -> str:
        try:
            channel = client.connect(record)
            send(channel, ("wait",))
            return str(client.ended(record, channel))
        except (client.NotRunning, OSError):
            if isinstance(record, records.Foreground):
                raise
            return str(client.over(record))

    return _each(words, one)


def rm(options: Options, *words: str) -> int:
    """rm [OPTIONS] CONTAINER...: remove containers that do not run

    -f, --force    those that run as well: they are killed
    -v, --volumes  with their volumes that have no name
    """

    def one(word: str) -> list[str]:
        try:
            remove(find(word), options.volumes, options.force)
        except records.NoSuchContainer:
            if not options.force:
                raise
            return []
        return [word]

    return each(words, one)


def pause(_: Options, *words: str) -> int:
    """pause CONTAINER...: stop all processes of containers where they are"""
    return _each(words, lambda record: _freeze(record, "running"))


def unpause(_: Options, *words: str) -> int:
    """unpause CONTAINER...: let them go on"""
    return _each(words, lambda record: _freeze(record, "paused"))


def _freeze(record: Record, expected: str) -> None:
    if (status := record.state()["status"]) != expected:
        raise ContainerError(f"{record.name}: this container is {status}")
    records.freeze(record, expected == "running")


def rename(_: Options, word: str, name: str) -> None:
    """rename CONTAINER NAME: give a container another name"""
    records.rename(find(word), name)


def container_prune(options: Options) -> int:
    """container prune [OPTIONS]: remove all containers that do not run

    -f, --force  do not ask (it never does)
    """

    def one(record: Record) -> list[str]:
        remove(record)
        return [record.id]

    return each((record for record in records.records() if record.state()["status"] not in records.ALIVE), one)

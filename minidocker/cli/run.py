"""`minidocker run`: a container of an image, in the foreground, with Docker's flags."""

from __future__ import annotations

import os

from minidocker.cli.options import number, parse
from minidocker.images.container import NETWORKS, container, ready
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.syscalls import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidocker.cli.options import Options

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(arguments: list[str]) -> int:
    """run [OPTIONS] IMAGE [COMMAND...]: run a command in a new container

        --rm                    remove the container afterwards: always so, until chapter 10 keeps them
    -i, --interactive           keep the standard input open
    -t, --tty                   give it a terminal of its own
    -e, --env NAME[=VALUE]...   set a variable; without a value, as it is here
    -w, --workdir DIRECTORY     start in this directory
    -u, --user NAME[:GROUP]     run as this user
    -h, --hostname NAME         what the container is called inside
        --name NAME             what it is called outside
        --entrypoint PROGRAM    execute this instead of the image's entrypoint
    -m, --memory BYTES          limit of memory, e.g. 64m
        --memory-swap BYTES     limit of memory and swap together
        --cpus NUMBER           limit of CPU time, e.g. 0.5
        --cpu-weight NUMBER     share among those who want more: 1 to 10000, others have 100
        --pids-limit NUMBER     limit of processes
        --network NAME          none: only itself; host: the host's network
        --init                  a first process that reaps orphans and forwards signals
        --pull WHEN             missing: if it is not here (the default); always; never
    """
    options, (name, *command) = parse(run.__doc__, arguments, 1)
    if options.network and options.network not in NETWORKS:
        raise ContainerError(f"no network is called {options.network!r}: there are {' '.join(NETWORKS)}")
    argv, isolators, settings = container(
        _image(name, options.pull),
        command,
        entrypoint=[options.entrypoint] if options.entrypoint else None,
        env=[*_environment(options.env), *(["TERM=xterm"] if options.tty else [])],
        cwd=options.workdir,
        user=options.user,
        hostname=options.hostname,
        network=options.network or "none",
        limits=_limits(options),
        init=options.init,
    )
    called = options.name or os.urandom(6).hex()
    settings["env"]["HOSTNAME"] = options.hostname or called
    return _attached(argv, isolators, settings, options, called)


def _image(name: str, pull: str) -> dict[str, Any]:
    """The image, fetched first if it is not here, as Docker does."""
    if pull not in ("", "missing", "always", "never"):
        raise ContainerError(f"--pull {pull}: it is missing, always or never")
    if pull != "always":
        try:
            return ready(name)
        except ContainerError as absent:
            if pull == "never" or "no such image" not in str(absent):
                raise
    from minidocker.cli.transfer import fetch

    fetch(name)
    return ready(name)


def _environment(settings: list[str]) -> list[str]:
    """`-e NAME` takes the value that the variable has here, and nothing if it has none."""
    return [
        word if "=" in word else f"{word}={os.environ[word]}" for word in settings if "=" in word or word in os.environ
    ]


def _limits(options: Options) -> dict[str, Any]:
    """The limits by the names that `Cgroup` has for them."""
    limits = {
        "memory": options.memory,
        "memory_swap": options.memory_swap,
        "cpus": number(options, "cpus", float),
        "cpu_weight": number(options, "cpu-weight", int),
        "pids": number(options, "pids-limit", int),
    }
    return {name: limit for name, limit in limits.items() if limit}


def _attached(argv: list[str], isolators: list[Any], settings: dict[str, Any], options: Options, name: str) -> int:
    """Start it with our own streams, or with a terminal.

    The container is in a session of its own, so Ctrl-C reaches us alone, and we pass it on: Docker's --sig-proxy.
    """
    if options.tty:
        from minidocker.terminal import interact

        if options.interactive and not os.isatty(0):
            raise ContainerError("-it wants a terminal, and the standard input is none: leave out -t")
        with start(argv, *isolators, terminal=True, name=name, **settings) as process:
            return interact(process).exit_code
    stdin = 0 if options.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # one that comes meanwhile waits until it can be passed on
    with start(argv, *isolators, stdin=stdin, stdout=1, stderr=2, name=name, **settings) as process:
        for wanted in FORWARDED:
            signal.signal(wanted, lambda received, _: process.send_signal(received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return process.wait().exit_code

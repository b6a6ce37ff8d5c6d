"""`minidocker run`: a container of an image, in the foreground, with Docker's flags."""

from __future__ import annotations

import os
from _collections_abc import Sequence

from minidocker.cli import Options, at_signals, end_in_order, module, variables
from minidocker.engine.signals import pass_on
from minidocker.images.container import container, ready
from minidocker.images.inside import LOCALHOST
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, start
from minidocker.security.capabilities import capabilities
from minidocker.state import directory, home
from minidocker.syscalls import Any, signal

MORE = ("hostname", "workdir", "env-file", "restart", "cidfile", "shm-size", "volumes-from", "platform")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Birth(Isolator):
    """The last in the list: from here until the container runs, a signal waits, so that it can be passed on."""

    def __enter__(self) -> Isolator:
        """Its directory is ours by now, so nobody else gets its name; but a container that stays may have it."""
        if os.path.lexists(f"{home()}/names/{self.container}"):
            records = module("engine.records")
            with records.changing():
                records.refuse(self.container)
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        return self


def run(options: Options, name: str, *command: str) -> int:
    """run [OPTIONS] IMAGE [COMMAND...]: run a command in a new container

    -d, --detach                print its ID, and let it run on
        --rm                    remove the container afterwards
    -i, --interactive           keep the standard input open
    -t, --tty                   give it a terminal of its own
    -e, --env NAME[=VALUE]...   set a variable; without a value, as it is here
    -w, --workdir DIRECTORY     start in this directory
    -u, --user NAME[:GROUP]     run as this user
        --env-file FILE...      the same for each line of a file
    -h, --hostname NAME         what the container is called inside
        --name NAME             what it is called outside
    -l, --label NAME[=VALUE]...  a note for `ps --filter label=`, and for people
        --restart POLICY        no, on-failure[:TIMES], always, or unless-stopped: start it again when it ends
        --stop-signal SIGNAL    what `stop` sends first: the image's STOPSIGNAL, or TERM
        --stop-timeout SECONDS  when `stop` kills: 10
        --cidfile FILE          write its ID there
        --detach-keys KEYS      what ends the view of a terminal, and not the container: ctrl-p,ctrl-q
        --entrypoint PROGRAM    execute this instead of the image's entrypoint
    -m, --memory BYTES          limit of memory, e.g. 64m
        --memory-swap BYTES     limit of memory and swap together
        --cpus NUMBER           limit of CPU time, e.g. 0.5
        --cpu-weight NUMBER     share among those who want more: 1 to 10000, others have 100
        --pids-limit NUMBER     limit of processes
    -v, --volume [SOURCE:]TARGET[:OPTIONS]...  mount a volume, or a directory of the host
        --mount type=TYPE,...   the same in words: bind, volume or tmpfs; source=, target=, readonly
        --tmpfs TARGET[:OPTIONS]...  mount an empty file system in memory
        --read-only             write-protect the root file system; what is mounted on it stays writable
        --volumes-from CONTAINER[:ro]...  mount the volumes of another container, too
        --shm-size BYTES        of /dev/shm: 64m
        --device HOST[:CONTAINER[:rwm]]...  a device of the host that opens; of a directory, all
    -p, --publish [[ADDRESS:]PORT:]PORT[/udp]...  lead a port of the host to a port of the container
    -P, --publish-all           each port that the image exposes
        --net, --network NAME   bridge (the default); none: only itself; host; container:NAME; or one that
                                network create made
        --network-alias NAME...  another name in its network
        --dns ADDRESS...        a name server, instead of the host's
        --add-host NAME:ADDRESS...  one more line in /etc/hosts
        --egress RATE           limit of what it sends, in bits per second, e.g. 10M
        --ingress RATE          limit of what it receives
        --cap-add NAME...       a right of root more, capabilities(7): NET_ADMIN, or ALL
        --cap-drop NAME...      one less
        --privileged            all rights of root, all devices and system calls, a /sys to write to
        --security-opt RULE...  no-new-privileges, seccomp=FILE (or unconfined), systempaths=unconfined
        --ulimit NAME=SOFT[:HARD]...  limit of each process, getrlimit(2), e.g. nofile=1024
        --userns WHO            remap: root inside is nobody outside; host: the same (the default)
        --init                  a first process that reaps orphans and forwards signals
        --pull WHEN             missing: if it is not here (the default); always; never
        --platform PLATFORM     what to pull, e.g. linux/amd64: by default, what this machine can execute
    """
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise ContainerError("-it wants a terminal, and the standard input is none: leave out -t")
    image = prepared(options, name)
    if not options.rm or options.detach:
        containers = module("cli.containers")
        return containers.begin(options, containers.kept(options, name, image, command))  # type: ignore[no-any-return]
    called = options.name or os.urandom(6).hex()
    config = {"image": name, "image_id": image["id"], "command": [*command], "options": {**options}}
    if options.cidfile:
        with open(options.cidfile, "x") as file:
            file.write(called)
    return _attached(*settle(options, image, command, called), options, called, config)


def prepared(options: Options, name: str) -> dict[str, Any]:
    """The image, when the options have been judged, and what they say of this place and moment is in them."""
    if not options.given.isdisjoint(MORE):
        module("cli.asked").more(options)
    options["env"] = variables("-e", options.env)
    image = _image(name, options.pull, options.platform)
    if options.publish_all:
        options["publish"] = [*options.publish, *(image["config"].get("ExposedPorts") or {})]
    return image


def settle(
    options: Options, image: dict[str, Any], command: Sequence[str], called: str, upper: str | None = None
) -> tuple[list[str], list[Any], dict[str, Any]]:
    """(command, isolators, options of `start`) of a container with this name; `upper` keeps what it changes."""
    host = options.hostname
    paths = image["config"].get("Volumes") or {}
    mounted = paths or options.volume or options.mount or options.tmpfs or options.device or options.privileged
    alone = options.network == "none" and not options.publish
    network = "none" if alone else module("cli.asked").network(options)
    files = {"/etc/hostname": f"{host or called}\n"}
    if network == "none":  # its name stands for itself alone
        files["/etc/hosts"] = f"{LOCALHOST}127.0.0.1\t{host or called}\n"
        if options.add_host:
            files["/etc/hosts"] += module("cli.asked").hosts(options)
    cwd = options.workdir or image["config"].get("WorkingDir") or "/"
    opted, terminal = dict[str, Any](), list[Any]()
    if options.security_opt or options.ulimit or options.read_only:
        opted = module("cli.asked").privileges(options.security_opt, options.ulimit, options.read_only and cwd)
    if options.tty:
        tty = module("terminal")
        terminal = [tty.Terminal(tty.size(0 if options.interactive else 1), console=True)]
    argv, isolators, settings = container(
        image,
        command,
        entrypoint=[*filter(None, [options.entrypoint])] if "entrypoint" in options.given else None,
        env=options.env,
        upper=upper,
        defaults={"HOSTNAME": host or called} | ({"TERM": "xterm"} if options.tty else {}),
        cwd=cwd,
        user=options.user,
        hostname=host,
        network=network,
        limits={
            "memory": options.memory or None,
            "memory_swap": options.memory_swap or None,
            "cpus": options.number("cpus", float) or None,
            "cpu_weight": options.number("cpu-weight", int) or None,
            "pids": options.number("pids-limit", int) or None,  # -1 is no limit, as for Docker
        },
        init=options.init,
        mounts=lambda root: module("cli.asked").volumes(options, paths, root) if mounted else [],
        kept=capabilities(options.cap_add, options.cap_drop, options.privileged),
        privileged=options.privileged,
        files=files,
        terminal=terminal,
        **opted,
    )
    if options.userns not in ("", "host"):
        module("security.users").remap(options.userns, isolators)
    return argv, isolators, settings


def _image(name: str, pull: str, platform: str) -> dict[str, Any]:
    """The image, fetched first if it is not here, as Docker does."""
    if pull not in ("", "missing", "always", "never"):
        raise ContainerError(f"--pull {pull}: it is missing, always or never")
    try:
        if pull != "always":
            return ready(name)
    except ContainerError as absent:
        if pull == "never" or not isinstance(absent, module("images.image").NoSuchImage):
            raise
    module("cli.asked").fetch(name, platform)
    return ready(name)


def _attached(
    argv: list[str], isolators: list[Any], settings: dict[str, Any], options: Options, name: str, config: dict[str, Any]
) -> int:
    """Start it. It is in a session of its own, so Ctrl-C reaches us alone; we pass it on, as Docker's --sig-proxy."""
    if not options.tty:
        stdin = 0 if options.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        settings |= {"stdin": stdin, "stdout": 1, "stderr": 2}
    end_in_order(*FORWARDED)  # a volume's server, or a lock, may keep us waiting
    with start(argv, *isolators, Birth(), name=name, **settings) as process:
        try:  # a note in its directory, for `ps` and its like
            with open(f"{directory(name)}/running", "w") as note:
                note.write(repr(config | {"given": sorted(options.given), "pid": process.pid}))
        except OSError:
            pass  # a full disk
        for text in (text for isolator in isolators for text in getattr(isolator, "warnings", ())):
            module("cli.asked").once(f"warning: {text}")
        tell = process.send_signal if options.init else lambda number: pass_on(process, number)
        at_signals(FORWARDED, lambda received, _: tell(received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        if options.tty:
            return int(module("terminal").interact(process, 0 if options.interactive else -1).exit_code)
        return process.wait().exit_code

"""Verbs about what goes on in a container: exec, logs. A user has the rights for them without a new namespace."""

from __future__ import annotations

import os
import sys

from minidocker.child import DEFAULT_PATH
from minidocker.cli import Options, at_signals, module, variables
from minidocker.cli.asked import in_files
from minidocker.cli.run import FORWARDED, run
from minidocker.engine.exec import join, walls_of
from minidocker.engine.records import Record, find
from minidocker.images.container import ready
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.security.options import privileges


def asked(record: Record) -> Options:
    """The options that it was made with."""
    config, options = record.config, Options(run.__doc__ or "")
    options.update(config["options"])
    options.given = {*config["given"]}
    return options


def exec_(options: Options, word: str, *command: str) -> int:
    """exec [OPTIONS] CONTAINER [COMMAND...]: run a command in a running container

    -d, --detach             do not wait for it
    -i, --interactive        keep the standard input open
    -t, --tty                give it a terminal of its own
    -e, --env NAME[=VALUE]...  set a variable
        --env-file FILE...   the same for each line of a file
    -w, --workdir DIRECTORY  start in this directory
    -u, --user NAME[:GROUP]  run as this user
        --privileged         with all rights of root
        --detach-keys KEYS   as for attach
    """
    if not command:
        raise ContainerError("usage: minidocker exec [OPTIONS] CONTAINER COMMAND...: the command is missing")
    record = find(word)
    state, made = record.state(), asked(record)
    if os.geteuid() and state["pid"]:
        pid = join(state["pid"], made.init)
        state = record.state() | {"pid": pid}
    if state["status"] != "running":
        raise ContainerError(f"{word}: this container is {state['status']}: a command needs one that is running")
    config = ready(record.config["image_id"])["config"]
    environment = {"PATH": DEFAULT_PATH, "HOSTNAME": made.hostname or record.short}
    own = variables("-e", [*in_files(options.env_file), *options.env])
    settings = [*(config.get("Env") or []), *made.env, *own]
    environment |= dict(setting.split("=", 1) for setting in settings if "=" in setting)
    terminal = []
    if options.tty:
        tty = module("terminal")
        environment.setdefault("TERM", "xterm")
        terminal = [tty.Terminal(tty.size(0))]
    user = options.user or made.user or config.get("User") or ""
    opted = privileges(made.security_opt, made.ulimit)
    walls = walls_of(state["pid"], record.short, terminal, user, options.privileged, opted)
    cwd = options.workdir or made.workdir or config.get("WorkingDir") or "/"
    null = os.open(os.devnull, os.O_RDWR)
    if options.detach:
        if os.fork():
            return 0
        os.setsid()
        for number in range(3):  # who reads what we write waits for our end otherwise
            os.dup2(null, number)
    streams = {} if options.tty else {"stdin": 0 if options.interactive else null, "stdout": 1, "stderr": 2}
    with start(command, *walls, env=environment, cwd=cwd, name=record.short, **streams) as process:
        if options.tty and not options.detach:
            return int(tty.interact(process, 0 if options.interactive else -1).exit_code)
        at_signals(FORWARDED, lambda received, _: process.send_signal(received))
        return process.wait().exit_code


def logs(options: Options, word: str) -> None:
    """logs [OPTIONS] CONTAINER: what a container has written

    -f, --follow           and what it writes from now on
    -n, --tail NUMBER      the last lines only
        --since TIME       from this time on: RFC 3339, seconds since 1970, or 10m for ten minutes ago
        --until TIME       until this time
    -t, --timestamps       when each line was written
    """
    record, log = find(word), module("engine.log")
    start_at, end_at = (log.moment(text) for text in (options.since, options.until))
    for line in log.lines(record, options.tail, options.follow):
        if start_at <= line["time"] and (not end_at or line["time"] <= end_at):
            stream = sys.stdout if line["stream"] == "stdout" else sys.stderr
            print(f"{line['time']} " * options.timestamps + line["log"], end="", file=stream, flush=options.follow)

"""The command `minidocker`: a thin table of verbs, with Docker's names, flags and columns.

    minidocker run --rm -it -m 64m debian bash

Each verb arrives with the chapter that explains it, and is a function in a module of this package that is imported when
the verb is used: starting a container is mostly starting Python. A verb's docstring is its help, and what its options
are read from (see `options`). The exit status is the container's own; 125 if the engine failed, 1 for all else.
"""

from __future__ import annotations

import os
import sys

from minidocker.descriptors import fill_streams
from minidocker.outcome import ContainerError
from minidocker.syscalls import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

VERBS = {  # verb -> the module of this package that has a function of that name
    "run": "run",
    "build": "build",
    "images": "image",
    "history": "image",
    "inspect": "image",
    "tag": "image",
    "rmi": "image",
    "image prune": "image",
    "pull": "transfer",
    "push": "transfer",
    "save": "archive",
    "load": "archive",
    "import": "archive",
    "export": "archive",
    "volume create": "volume",
    "volume ls": "volume",
    "volume inspect": "volume",
    "volume rm": "volume",
    "volume prune": "volume",
    "network create": "network",
    "network ls": "network",
    "network inspect": "network",
    "network rm": "network",
    "network prune": "network",
    "system df": "system",
    "system prune": "system",
    "prune": "system",
    "doctor": "system",
    "reset": "system",
}


def command() -> NoReturn:
    """The whole program: call a verb with the words that were typed, and end this process.

    Python's own end would give back all that it holds, piece by piece, which takes a tenth of the time of a start. The
    kernel gives it back at once, and what is to outlive us, or must not, is the business of the verb.
    """
    _begin()
    status = main(sys.argv[1:])
    try:
        print(end="", file=sys.stderr, flush=True)
        print(end="", flush=True)  # what was written before a failure
    except OSError:
        pass  # nobody is there to read it
    os._exit(status)


def _begin() -> None:
    """Forget what the caller may have left in a strange state: closed streams, umask, ignored and blocked signals."""
    fill_streams()
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(arguments: list[str]) -> int:
    """Call one verb. Runs as whoever typed it; most verbs need root and say so."""
    verb, rest = _verb(arguments)
    try:
        status = _called(verb, rest)
        print(end="", flush=True)  # now, when a reader who has gone, or a full disk, is still an exit status
        return status
    except ContainerError as failure:
        return complain(str(failure), failure.exit_code if verb in ("run", "build") else 1)
    except PermissionError as refused:
        return complain(f"{refused}: are you root?", 125 if verb == "run" else 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `minidocker images | head`
        return 141
    except OSError as failure:  # a full disk, a file that is not there: a line, and no traceback
        return complain(f"{failure.filename or verb}: {failure.strerror or failure}", 125 if verb == "run" else 1)


def _called(verb: str, words: list[str]) -> int:
    """The exit status of a verb, or of help."""
    if verb in ("", "help", "-h", "--help"):
        print(usage())
        return 0
    if verb not in VERBS:
        return complain(f"'{verb}' is not a minidocker command; see minidocker help", 1)
    function = _function(verb)
    if words[:1] in (["-h"], ["--help"]):
        print("usage: minidocker", function.__doc__)
        return 0
    return int(function(words))


def _verb(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb and what follows; some verbs are two words."""
    two = " ".join(arguments[:2])
    if two in VERBS:
        return two, arguments[2:]
    return (arguments[0], arguments[1:]) if arguments else ("", [])


def _function(verb: str):  # type: ignore[no-untyped-def]
    """The function behind a verb. A verb that is a word of Python's own has an underscore behind it there."""
    module = __import__(f"minidocker.cli.{VERBS[verb]}", fromlist=["_"])
    name = verb.replace(" ", "_")
    return getattr(module, name, None) or getattr(module, f"{name}_")


def usage() -> str:
    """One line for each verb, from its docstring."""
    summaries = {verb: _function(verb).__doc__.partition("\n")[0].partition(": ")[2] for verb in VERBS}
    lines = [f"  {verb:<15} {summary}" for verb, summary in summaries.items()]
    return "\n".join(["usage: minidocker VERB [OPTIONS]", "", *lines, "", "minidocker VERB --help says more of each"])


def complain(problem: str, status: int) -> int:
    """One line on standard error, and the exit status that goes with it."""
    print(f"minidocker: {problem}", file=sys.stderr)
    return status

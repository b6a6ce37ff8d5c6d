"""The command `minidocker`: a thin table of verbs, with Docker's names, flags and columns.

    minidocker run --rm -it -m 64m debian bash

Each verb arrives with the chapter that explains it, and is a function in a module of this package that is imported when
the verb is used: starting a container is mostly starting Python. A verb's docstring is its help, and what its options
are read from (see `options`). The exit status is the container's own; 125 if the engine failed, 1 for all else.
"""

from __future__ import annotations

import os
import sys

from minidocker.cli.options import HelpWanted, nearest, parse
from minidocker.descriptors import fill_streams
from minidocker.outcome import ContainerError
from minidocker.syscalls import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MODULES = {  # module of this package -> its verbs, each a function; spaces are underscores there
    "run": ("run",),
    "image": ("images", "history", "inspect", "tag", "rmi", "image prune"),
    "transfer": ("build", "pull", "push", "save", "load", "import", "export"),
    "nouns": (
        *(f"{noun} {verb}" for noun in ("volume", "network") for verb in ("create", "ls", "inspect", "rm", "prune")),
        *("system df", "system prune", "prune", "doctor", "reset"),
    ),
}
VERBS = {verb: module for module, verbs in MODULES.items() for verb in verbs}
WITHOUT_ROOT = ("doctor", "reset")  # they say themselves what needs it


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
    """Call one verb; whatever goes wrong in it is one line, and an exit status."""
    verb = next((verb for verb in (" ".join(arguments[:2]), *arguments[:1]) if verb in VERBS), "")
    engine = 125 if verb in ("run", "build") else 1
    try:
        status = _called(verb, arguments[len(verb.split()) :]) if verb else _help(arguments)
        print(end="", flush=True)  # now, when a reader who has gone, or a full disk, is still an exit status
        return status
    except ContainerError as failure:
        return complain(failure, failure.exit_code if engine == 125 else engine)
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:  # a signal said so
        return int(ended.code or 0)
    except BrokenPipeError:  # `minidocker images | head`
        return 141
    except OSError as failure:  # a full disk, a file that is not there
        what = f"{failure.filename or verb or 'help'}: {failure.strerror or failure}"
        return complain(what, 125 if verb == "run" else 1)
    except UnicodeError:
        return complain(f"{verb}: a word, or a name in what is read, is not UTF-8", 125)
    except Exception as unforeseen:
        return complain(f"{verb}: {unforeseen}: nobody foresaw that, so please report it", 125)


def _called(verb: str, words: list[str]) -> int:
    """The exit status of a verb, or of its help. Containers and what they are made of belong to root."""
    if os.geteuid() and verb not in WITHOUT_ROOT and not {"-h", "--help"} & {*words}:
        raise ContainerError(f"this needs root: sudo minidocker {verb}")
    function = _function(verb)
    try:
        options, others = parse(function.__doc__, words)
    except HelpWanted:
        print("usage: minidocker", function.__doc__)
        return 0
    return function(options, *others) or 0


def _function(verb: str):  # type: ignore[no-untyped-def]
    """The function behind a verb. A verb that is a word of Python's own has an underscore behind it there."""
    module = __import__(f"minidocker.cli.{VERBS[verb]}", fromlist=["_"])
    name = verb.replace(" ", "_")
    return getattr(module, name, None) or getattr(module, f"{name}_")


def _help(words: list[str]) -> int:
    """`help`, alone or with a verb; a noun alone; and what is no verb at all."""
    asked = words[:1] in ([], ["help"], ["-h"], ["--help"])
    words = words[1:] if asked else [word for word in words if word not in ("-h", "--help")]
    verb = " ".join(words[:2])
    if verb in VERBS:
        return _called(verb, ["--help"])
    verbs = [one for one in VERBS if one.startswith(f"{verb} ") or not verb]
    if not verbs:
        verb = verb if any(one.startswith(f"{words[0]} ") for one in VERBS) else words[0]
        return complain(f"'{verb}' is not a minidocker command{nearest(verb, VERBS)}; see minidocker help", 1)
    print("usage: minidocker VERB [OPTIONS]\n")
    for one in verbs:
        print(f"  {one:<15} {_function(one).__doc__.partition(chr(10))[0].partition(': ')[2]}")
    print("\nminidocker VERB --help says more of each")
    return 0


def end_in_order(*numbers: int) -> None:
    """From now on these signals end us as an error does: what holds something lets go of it, once and undisturbed."""

    def ended(number: int, _: object) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1) is respected
            signal.signal(number, ended)


def complain(problem: object, status: int) -> int:
    """One line on standard error, without the name of a class that it may begin with, and the exit status."""
    head, _, text = str(problem).partition(": ")
    text = text if head.isalpha() and head[0].isupper() and head != "Dockerfile" else str(problem)
    try:
        print("minidocker:", " ".join(text.split()), file=sys.stderr, flush=True)
    except OSError:
        pass  # a window that was closed, a full disk: the exit status is all that can be said
    return status

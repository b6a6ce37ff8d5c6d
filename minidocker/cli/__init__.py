"""The command `minidocker`: a thin table of verbs, with Docker's names, flags and columns.

    minidocker run --rm -it -m 64m debian bash

Each verb arrives with the chapter that explains it, and is a function in a module of this package that is imported when
the verb is used: starting a container is mostly starting Python. A verb's docstring is its help, and what its options
are read from (see `options`). The exit status is the container's own; 125 if the engine failed, 1 for all else.
"""

from __future__ import annotations

import os
import sys

from minidocker.cli.options import HelpWanted, parse
from minidocker.outcome import ContainerError
from minidocker.syscalls import fill_streams, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

MODULES = (  # (module of this package, its verbs), each a function; spaces are underscores there
    ("run", ("run",)),
    ("nouns", ("images", "history", "inspect", "tag", "rmi", "image prune")),
    ("transfer", ("build", "pull", "push", "save", "load", "import", "export")),
    (
        "nouns",
        [f"{noun} {verb}" for noun in ("volume", "network") for verb in ("create", "ls", "inspect", "rm", "prune")],
    ),
    ("nouns", ("system df", "system prune", "prune", "doctor", "reset")),
)
VERBS = {verb: module for module, verbs in MODULES for verb in verbs}
WITHOUT_ROOT = ("doctor", "reset")  # they say themselves what needs it


def command() -> None:
    """The whole program: call a verb with the words that were typed, and end this process.

    The caller may have left a strange state: closed streams, a umask, ignored and blocked signals. And Python's own end
    would give back all that it holds, piece by piece, which takes a tenth of the time of a start. The kernel gives it
    back at once, and what is to outlive us, or must not, is the business of the verb.
    """
    fill_streams()
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    status = main(sys.argv[1:])
    try:
        print(end="", file=sys.stderr, flush=True)
        print(end="", flush=True)  # what was written before a failure
    except OSError:
        pass  # nobody is there to read it
    os._exit(status)


def main(arguments: list[str]) -> int:
    """Call one verb; whatever goes wrong in it is one line, and an exit status."""
    verb = next((verb for verb in (" ".join(arguments[:2]), *arguments[:1]) if verb in VERBS), "")
    engine = 125 if verb in ("run", "build") else 1
    try:
        status = _called(verb, arguments[len(verb.split()) :])
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
    if not verb:
        from minidocker.cli.nouns import help_

        return help_(words)
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


def end_in_order(*numbers: int, undisturbed: tuple[str, ...] = ()) -> None:
    """From now on these signals end us as an error does: what holds something lets go of it, once.

    Nobody is stopped half-way in letting go, in an import, or in a function that `undisturbed` names, as long as nobody
    knows yet what there is to let go of. Then we ask again some milliseconds later.
    """

    def ended(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        while frame and frame.f_code.co_name not in ("__exit__", "_leave", "_find_and_load", "claim", *undisturbed):
            frame = frame.f_back
        if frame is None:
            raise SystemExit(128 + number)
        signal.signal(signal.SIGALRM, lambda _, later: ended(number, later))
        signal.setitimer(signal.ITIMER_REAL, 0.01)

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

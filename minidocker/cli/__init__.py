"""The command `minidocker`: a thin table of verbs, with Docker's names, flags and columns.

    minidocker run --rm -it -m 64m debian bash

A verb is a function in a module of this package that is imported when the verb is used: starting a container is mostly
starting Python. Its docstring is its help, and what its options are read from: what the help does not say is not
accepted. In it a word in capitals is a value, three dots mean several. (argparse costs 13 ms at each start, and this
less than one.) The exit status is the container's own; 125 if the engine failed, 1 for all else.
"""

import os
import sys
from _collections_abc import Callable, Iterable

from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, fill_streams, signal

VERBS = {  # -> the module of this package in which it is a function; spaces are underscores there
    **{"run": "run", "exec": "inside", "logs": "inside"},
    **dict.fromkeys(("create", "start", "attach", "stop", "restart", "kill", "wait", "rm"), "containers"),
    **dict.fromkeys(("pause", "unpause", "rename", "container prune"), "containers"),
    **dict.fromkeys(("cp", "diff", "commit", "update"), "files"),
    **dict.fromkeys(("ps", "top", "stats", "port", "events"), "show"),
    **dict.fromkeys(("images", "history", "inspect", "tag", "rmi", "image prune"), "nouns"),
    **dict.fromkeys(("build", "pull", "push", "save", "load", "import", "export"), "transfer"),
    **{f"{noun} {verb}": "nouns" for noun in ("volume", "network") for verb in ("create", "ls", "rm", "prune")},
    **dict.fromkeys(("system df", "system prune", "builder prune", "prune"), "nouns"),
    **dict.fromkeys(("doctor", "reset", "version", "info", "login", "logout"), "doctor"),  # which need no root
    **{"completion": "words", "__complete": "words", "runtime": "runtime"},
}
SWITCH = {"true": True, "1": True, "false": False, "0": False}


def command() -> None:
    """The whole program: call a verb with the words that were typed, and end this process.

    The caller may have left a strange state: closed streams, a umask, ignored and blocked signals. Python's own end
    would give back all that it holds, piece by piece, in a tenth of the time of a start; the kernel does it at once.
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
    explained = [word for word in arguments[:1] if word == "--explain"]
    arguments = arguments[len(explained) :]
    if arguments and arguments[0] not in VERBS:
        arguments = module("cli.words").short(arguments)
    verb = next((verb for verb in (" ".join(arguments[:2]), *arguments[:1]) if verb in VERBS), "")
    engine = 125 if verb in ("run", "build", "exec") else 1
    try:
        status = call(verb, [*(explained if verb else []), *arguments[len(verb.split()) :]])
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


def call(verb: str, words: list[str]) -> int:
    """The exit status of a verb, or of its help. Who is not root becomes root of a user namespace first."""
    if not verb:
        return int(module("cli.words").help_(words))
    if os.geteuid() and VERBS[verb] not in ("doctor", "inside") and words not in (["-h"], ["--help"]):
        module("security.rootless").enter(verb)
    found = function(verb)
    try:
        options, others = parse(found.__doc__, words)
    except HelpWanted:
        module("cli.words").usage(verb)
        return 0
    if options.pop("explain"):
        return int(module("explain").told(lambda: found(options, *others)))
    return found(options, *others) or 0


def module(name: str) -> Any:
    """A module of ours that is imported at the first need: many a command has none."""
    return __import__(f"minidocker.{name}", fromlist=["_"])


def function(verb: str) -> Any:
    """The function behind a verb. A verb that is a word of Python's own has an underscore behind it there."""
    place, name = module(f"cli.{VERBS[verb]}"), verb.replace(" ", "_")
    return getattr(place, name, None) or getattr(place, f"{name}_")


class HelpWanted(Exception):
    """There is a --help among the options."""


class Options(dict):  # type: ignore[type-arg]
    """Long name without dashes -> True, a text, or a list of texts; absent ones are False, "" or []."""

    def __init__(self, table: str) -> None:
        """All of the help's lines, at their defaults; `names`: "-e" or "--env" -> the long name."""
        self.names: dict[str, str] = {}
        self.given = set[str]()  # those that were there: `--entrypoint ""` says something
        for line in table.splitlines():
            spelling = line.strip().partition("  ")[0].split()
            flags = [word.rstrip(",") for word in spelling if word.startswith("-")]
            if flags:
                long, last = flags[-1].lstrip("-"), spelling[-1]
                self[long] = [] if last.endswith("...") else False if last == flags[-1] else ""
                self.names.update(dict.fromkeys(flags, long))

    def __getattr__(self, name: str) -> Any:
        return self[name.replace("_", "-")]

    def read(self, word: str, rest: list[str]) -> None:
        """One word: "--env=A", "-eA"; "-it" is two options. The value may be the next word, the first of the `rest`."""
        option, equals, value = word.partition("=")
        if not word.startswith("--"):
            option, equals, value = word[:2], word[2:3], word[2:].removeprefix("=")
        if option not in self.names and option in ("--help", "-h"):
            raise HelpWanted
        if option not in self.names:
            near = module("cli.words").nearest(option, self.names)
            raise ContainerError(f"unknown option {option}{near}: see --help")
        long = self.names[option]
        self.given.add(long)
        if isinstance(self[long], bool):
            self[long] = SWITCH.get(value) if equals == "=" else True
            if self[long] is None:
                raise ContainerError(f"{option} takes no value but true or false, and got {value!r}")
            if equals not in ("", "="):
                self.read(f"-{value}", rest)
            return
        if not equals and not rest:
            raise ContainerError(f"{option} needs a value")
        value = value if equals else rest.pop(0)
        self[long] = [*self[long], value] if isinstance(self[long], list) else value

    def number(self, name: str, kind: type[float]) -> float:
        """The value of an option that is a number, or 0 if it was not given."""
        try:
            if abs(found := kind(self[name] or 0)) < 1e9:
                return found
        except ValueError:
            pass
        raise ContainerError(f"--{name} {self[name]}: a number is expected")


def parse(usage: str, arguments: list[str]) -> tuple[Options, list[str]]:
    """(options, other words), as many of these as the usage says: IMAGE is one, [NAME] at most one, IMAGE... some.
    Options end at the first other word if a [COMMAND...] may follow, which has options of its own."""
    summary, _, table = usage.partition("\n")
    summary, options = summary.partition(": ")[0], Options(f"{table}\n--explain")
    words, rest = list[str](), [*arguments]
    while rest and not (words and "[COMMAND" in summary):
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            options.read(word, rest)
        else:
            words.append(word)
    words += rest
    expected = [word for word in summary.split() if word.strip("[")[0].isupper() and word != "[OPTIONS]"]
    least = sum(word[0] != "[" for word in expected)
    most = 9999 if "..." in summary else len(expected)
    if not least <= len(words) <= most:
        raise ContainerError(f"usage: minidocker {summary}")
    return options, words


def variables(option: str, words: list[str]) -> list[str]:
    """NAME=VALUE of each; a NAME alone takes the value that the variable has here, if it has one."""
    for word in words:
        if word[:1] in ("", "="):
            raise ContainerError(f"{option} {word}: NAME=VALUE is expected")
    return [f"{word}={os.environ[word]}" if word in os.environ else word for word in words]


def at_signals(numbers: Iterable[int], do: Callable[[int, Any], object]) -> None:
    """Do it when one of these comes; but who ignores one goes on to, as nohup(1) wants it."""
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, do)


def end_in_order(*numbers: int, undisturbed: tuple[str, ...] = ()) -> None:
    """From now on these signals end us as an error does: what holds something lets go of it, once.

    Nobody is stopped half-way in letting go, in an import, or in a function that `undisturbed` names, as long as nobody
    knows yet what there is to let go of. Then we ask again some milliseconds later.
    """

    def ended(number: int, frame: Any) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        while frame and frame.f_code.co_name not in ("__exit__", "_leave", "_find_and_load", "claim", *undisturbed):
            frame = frame.f_back
        if frame is None:
            raise SystemExit(128 + number)
        signal.signal(signal.SIGALRM, lambda _, later: ended(number, later))
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    at_signals(numbers, ended)


def complain(problem: object, status: int) -> int:
    """One line on standard error, without the name of a class that it may begin with, and the exit status."""
    head, _, text = str(problem).partition(": ")
    text = text if head.isalpha() and head[0].isupper() and head != "Dockerfile" else str(problem)
    try:
        print("minidocker:", " ".join(text.split()), file=sys.stderr, flush=True)
    except OSError:
        pass  # a window that was closed, a full disk: the exit status is all that can be said
    return status


def each(things: Iterable[Any], do: Callable[[Any], Iterable[object]], say: str = "") -> int:
    """Do it with each, and say what is gone. What resists is a line, and the exit status; the rest goes on."""
    status = 0
    for thing in things:
        try:
            gone = do(thing)
        except ContainerError as failure:
            gone, status = getattr(failure, "removed", ()), complain(failure, 1)
        for what in gone:
            print(f"{say}{what}")
    return status

"""The options of a verb, read out of its help: what the help does not say is not accepted, so it cannot be out of date.

    '''run [OPTIONS] IMAGE [COMMAND...]: run a command in a new container

      -i, --interactive        keep the standard input open
      -e, --env NAME[=VALUE]...  set a variable; may be given several times
    '''
    options, words = parse(run.__doc__, ["-it", "-e", "A=1", "busybox", "ls"])

A word in capitals is a value, three dots mean several. argparse costs 13 ms at each start, and this less than one.
"""

from __future__ import annotations

from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SWITCH = {None: True, "true": True, "1": True, "false": False, "0": False}


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
        letters = not word.startswith("--") and word[2:3] not in ("", "=")
        if word.startswith("--"):
            option, equals, text = word.partition("=")
            value = text if equals else None
        else:
            option, value = word[:2], word[2:].removeprefix("=") or None
        if option not in self.names and option in ("--help", "-h"):
            raise HelpWanted
        if option not in self.names:
            raise ContainerError(f"unknown option {option}{nearest(option, self.names)}: see --help")
        long = self.names[option]
        kind = type(self[long])
        self.given.add(long)
        if kind is bool and letters:
            self[long] = True
            self.read(f"-{value}", rest)
        elif kind is bool and value not in SWITCH:
            raise ContainerError(f"{option} takes no value but true or false, and got {value!r}")
        elif kind is bool:
            self[long] = SWITCH[value]
        elif value is None and not rest:
            raise ContainerError(f"{option} needs a value")
        else:
            value = rest.pop(0) if value is None else value
            self[long] = [*self[long], value] if kind is list else value

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

    Options end at the first other word if a [COMMAND...] may follow, which has options of its own.
    """
    summary, _, table = usage.partition("\n")
    summary, options = summary.partition(": ")[0], Options(table)
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


def nearest(word: str, known: Iterable[str]) -> str:
    """What may have been meant, for who reads the error."""
    from difflib import get_close_matches

    return "".join(f" (did you mean {near}?)" for near in get_close_matches(word, list(known), 1, 0.7))

"""The options of a verb, read out of its help: what the help does not say is not accepted, so it cannot be out of date.

    def run(arguments):
        '''run [OPTIONS] IMAGE [COMMAND...]: run a command in a new container

          -i, --interactive        keep the standard input open
          -e, --env NAME[=VALUE]...  set a variable; may be given several times
        '''
        options, words = parse(run.__doc__, arguments, 1)

A word in capitals is a value, three dots mean several. argparse costs 13 ms at each start, and this less than one.
"""

from __future__ import annotations

from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Options(dict):  # type: ignore[type-arg]
    """Long name without dashes -> True, a text, or a list of texts; absent ones are False, "" or []."""

    given: set[str]  # those that were there: `--entrypoint ""` says something

    def __getattr__(self, name: str) -> Any:
        return self[name.replace("_", "-")]


def parse(usage: str | None, arguments: list[str], least: int = 0, most: int = 999) -> tuple[Options, list[str]]:
    """(options, other words). Options end at the first other word if the usage ends in `...]`, as COMMAND's do.

    `least` and `most`: how many other words there may be. Raises `ContainerError`, which ends in one line.
    """
    summary, _, table = (usage or "").partition("\n")
    names, options = _table(table)
    words, rest = list[str](), [*arguments]
    command_follows = "[COMMAND" in summary
    while rest and not (words and command_follows):
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        for letter, value in _split(word, names):
            _set(options, names, letter, value, rest)
    words += rest
    if len(words) < least or len(words) > most:
        raise ContainerError(f"usage: minidocker {summary.partition(':')[0]}", exit_code=125)
    return options, words


def _table(text: str) -> tuple[dict[str, tuple[str, str]], Options]:
    """({"-e" or "--env": (long name, kind)}, all options at their defaults) of the help's lines."""
    names, options = dict[str, tuple[str, str]](), Options()
    options.given = set()
    for line in text.splitlines():
        spelling = line.strip().partition("  ")[0].split()
        flags = [word.rstrip(",") for word in spelling if word.startswith("-")]
        if flags:
            value = spelling[-1] if not spelling[-1].startswith("-") else ""
            kind = "list" if value.endswith("...") else "text" if value else "flag"
            long = flags[-1].lstrip("-")
            options[long] = {"list": [], "text": "", "flag": False}[kind]
            names.update(dict.fromkeys(flags, (long, kind)))
    return names, options


def _split(word: str, names: dict[str, tuple[str, str]]) -> list[tuple[str, str | None]]:
    """[(option, value or None)]: "--env=A", "-eA", and "-it", which is two."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return [(name, value if equals else None)]
    if names.get(word[:2], ("", "flag"))[1] != "flag":
        return [(word[:2], word[2:].removeprefix("=") or None)]
    return [(f"-{letter}", None) for letter in word[1:]]


def _set(options: Options, names: dict[str, tuple[str, str]], option: str, value: str | None, rest: list[str]) -> None:
    """Note one option; its value may be the next word."""
    if option not in names:
        raise ContainerError(f"unknown option {option}: see --help", exit_code=125)
    long, kind = names[option]
    options.given.add(long)
    if kind == "flag":
        if value not in (None, "true", "false"):
            raise ContainerError(f"{option} takes no value, and got {value!r}", exit_code=125)
        options[long] = value != "false"
        return
    if value is None:
        if not rest:
            raise ContainerError(f"{option} needs a value", exit_code=125)
        value = rest.pop(0)
    options[long] = [*options[long], value] if kind == "list" else value


def number(options: Options, name: str, kind: type[float]) -> float | None:
    """The value of an option that is a number, or None if it was not given."""
    try:
        return kind(options[name]) if options[name] else None
    except ValueError:
        raise ContainerError(f"--{name} {options[name]}: a number is expected", exit_code=125) from None

"""The words of the command line: long forms of verbs; help, with an example of each; completion for shells."""

import os
from _collections_abc import Iterable

from minidocker.cli import VERBS, Options, call, complain, function
from minidocker.outcome import ContainerError

LONG = {  # noun -> verbs that also stand below it
    "image": "history tag pull push build save load import",
    "container": "create run start stop restart kill pause unpause wait rm ps logs exec attach cp stats top port diff "
    "commit rename update export",
    "system": "info events",
}
ALIASES = {  # a long form -> what it is called above
    **{f"{noun} {verb}": verb for noun, verbs in LONG.items() for verb in verbs.split()},
    **{f"{noun} inspect": f"inspect --type={noun}" for noun in ("container", "image", "volume", "network")},
    **{"image ls": "images", "image rm": "rmi", "container ls": "ps", "--version": "version"},
}


def nearest(word: str, known: Iterable[str]) -> str:
    """What may have been meant, for who reads the error."""
    from difflib import get_close_matches  # dear to import, and only a mistake needs it

    return "".join(f" (did you mean {near}?)" for near in get_close_matches(word, list(known), 1, 0.7))


def short(words: list[str]) -> list[str]:
    """What was typed, with the verb in its short form."""
    known = ALIASES.get(" ".join(words[:2]))
    return [*known.split(), *words[2:]] if known else words


def usage(verb: str) -> None:
    """The help of a verb, and its line of examples.txt."""
    print("usage: minidocker", (function(verb).__doc__ or "").rstrip())
    with open(f"{os.path.dirname(__file__)}/examples.txt") as file:
        print(end="".join(f"\ne.g. minidocker {line}" for line in file if f"{line.strip()} ".startswith(f"{verb} ")))


def help_(words: list[str]) -> int:
    """`help`, alone or with a verb; a noun alone; and what is no verb at all."""
    words = [word for word in words if word not in ("help", "-h", "--help")]
    verb, known = " ".join(words[:2]), {one: one for one in VERBS}
    known |= {one: long.split()[0] for one, long in ALIASES.items()}
    if verb in known:
        return call(known[verb], ["--help"])
    verbs = [one for one in known if one.startswith(f"{verb} ")] if verb else [one for one in VERBS if one[0] != "_"]
    if not verbs:
        first = {one.split()[0] for one in known}
        near = nearest(verb, {*known, *first} - {words[0]})
        if words[0] not in first:
            verb, near = words[0], near or nearest(words[0], first)
        return complain(f"'{verb}' is not a minidocker command{near}; see minidocker help", 1)
    print("usage: minidocker VERB [OPTIONS]\n")
    for one in verbs:
        print(f"  {one:<15} {function(known[one]).__doc__.partition(chr(10))[0].partition(': ')[2]}")
    print("\nminidocker VERB --help says more of each; --explain says what it does while it does it")
    return 0


def completion(_: Options, shell: str) -> None:
    """completion SHELL: print what lets bash or zsh complete words: verbs, flags, names"""
    if shell not in ("bash", "zsh"):
        raise ContainerError(f"completion {shell}: it is bash or zsh")
    with open(f"{os.path.dirname(__file__)}/completion.{shell}") as file:
        print(end=file.read())


def __complete(_: Options, *typed: str) -> None:
    """__complete [COMMAND...]: what the last of these words may become"""
    from minidocker import network
    from minidocker.engine.records import records
    from minidocker.images.manifest import parse
    from minidocker.images.store import Store
    from minidocker.volumes import store as volume

    *before, last = typed or ("",)
    before = short(before)
    begin = "".join(f"{word} " for word in before)
    verb = next((" ".join(before[:count]) for count in (2, 1) if " ".join(before[:count]) in VERBS), "")
    summary = (function(verb).__doc__ or "").partition(": ")[0] if verb else ""
    found = [one.removeprefix(begin).split()[0] for one in [*VERBS, *ALIASES] if not verb and one.startswith(begin)]
    found += [*Options(function(verb).__doc__).names] if verb and last.startswith("-") else []
    found += [parse(name).familiar for name in Store().tags()] if "IMAGE" in summary else []
    found += [record.name for record in records()] if "CONTAINER" in summary else []
    found += volume.names() if "VOLUME" in summary else []
    found += network.listed() if "NETWORK" in summary else []
    print(end="".join(f"{word}\n" for word in sorted({*found}) if word.startswith(last)))

"""The words of the command line: long forms of verbs; help, with an example of each."""

from __future__ import annotations

import os

from minidocker.cli import VERBS, call, complain, function, nearest

LONG = {  # noun -> verbs that also stand below it
    "image": "history tag pull push build save load import",
    "container": "create run start stop restart kill pause unpause wait rm ps logs exec attach cp stats top port diff "
    "commit rename update export",
    "system": "info events",
}
ALIASES = {  # a long form -> what it is called above
    **{f"{noun} {verb}": verb for noun, verbs in LONG.items() for verb in verbs.split()},
    **{f"{noun} inspect": f"inspect --type={noun}" for noun in ("container", "image", "volume", "network")},
    **{"image ls": "images", "image rm": "rmi", "container ls": "ps"},
}


def short(words: list[str]) -> list[str]:
    """What was typed, with the verb in its short form."""
    known = ALIASES.get(" ".join(words[:2]))
    return [*known.split(), *words[2:]] if known else words


def usage(verb: str) -> None:
    """The help of a verb, and its line of examples.txt."""
    print("usage: minidocker", (function(verb).__doc__ or "").rstrip())
    with open(os.path.join(os.path.dirname(__file__), "examples.txt")) as file:
        print(end="".join(f"\ne.g. minidocker {line}" for line in file if f"{line.strip()} ".startswith(f"{verb} ")))


def help_(words: list[str]) -> int:
    """`help`, alone or with a verb; a noun alone; and what is no verb at all."""
    words = [word for word in words if word not in ("help", "-h", "--help")]
    verb, short = " ".join(words[:2]), {one: long.split()[0] for one, long in ALIASES.items()}
    known = dict(zip(VERBS, VERBS, strict=True)) | {one: verb for one, verb in short.items() if verb in VERBS}
    if verb in known:
        return call(known[verb], ["--help"])
    verbs = [one for one in known if one.startswith(f"{verb} ")] if verb else [*VERBS]
    if not verbs:
        verb = verb if any(one.startswith(f"{words[0]} ") for one in known) else words[0]
        return complain(f"'{verb}' is not a minidocker command{nearest(verb, known)}; see minidocker help", 1)
    print("usage: minidocker VERB [OPTIONS]\n")
    for one in verbs:
        print(f"  {one:<15} {function(known[one]).__doc__.partition(chr(10))[0].partition(': ')[2]}")
    print("\nminidocker VERB --help says more of each; --explain says what it does while it does it")
    return 0

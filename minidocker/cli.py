"""The command `minidocker`: a thin table of verbs. Each arrives with the chapter that explains it.

    minidocker doctor

A verb imports what it needs when it is called, and `argparse`, which costs 13 ms, is left alone: starting a container
is mostly starting Python. The exit status is the verb's own; 1 for a verb that does not exist, as Docker has it.
"""

from __future__ import annotations

import sys


def doctor() -> int:
    """say what this machine can do, and how to mend what it cannot"""
    from minidocker.doctor import main

    return main()


def prune() -> int:
    """remove what containers left behind whose owner was killed"""
    from minidocker import state
    from minidocker.cgroups import prune as prune_cgroups

    for removed in [*prune_cgroups(), *state.prune()]:
        print("removed", removed)
    return 0


VERBS = {verb.__name__: verb for verb in (doctor, prune)}


def usage() -> str:
    """One line for each verb, from its docstring."""
    lines = [f"  {name:<8} {verb.__doc__}" for name, verb in VERBS.items()]
    return "\n".join(["usage: minidocker VERB", "", *lines])


def main(arguments: list[str]) -> int:
    """Call one verb. Runs as whoever typed it; most verbs need root and say so."""
    verb, *rest = arguments or ["help"]
    if verb in ("help", "-h", "--help"):
        print(usage())
        return 0
    if verb not in VERBS:
        return complain(f"'{verb}' is not a minidocker command; see minidocker help")
    if rest:
        return complain(f"{verb} takes no arguments, and got: {' '.join(rest)}")
    return VERBS[verb]()


def complain(problem: str) -> int:
    """One line on standard error, and the exit status that goes with it."""
    print(f"minidocker: {problem}", file=sys.stderr)
    return 1

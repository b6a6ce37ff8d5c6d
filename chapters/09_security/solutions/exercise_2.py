"""Exercise 2: no right too many."""

from minidocker.images.container import container, ready
from minidocker.process import run
from minidocker.security.capabilities import DEFAULT, capabilities


def needed(script):
    """Take one away at a time: it is needed if the script then fails."""
    return {name for name in DEFAULT if not succeeds(script, name)}


def succeeds(script, dropped):
    argv, isolators, options = container(ready("busybox"), ["sh", "-ec", script], kept=capabilities(drop=[dropped]))
    return run(argv, *isolators, **options).exit_code == 0

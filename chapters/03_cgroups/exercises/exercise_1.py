"""Exercise 1: a fence by hand, with mkdir, write and rmdir."""

import subprocess


def limit_pids(number, argv):
    """Run `argv` as at most `number` processes; return what subprocess.run returns, with text output captured."""
    return subprocess.run(argv, capture_output=True, text=True)

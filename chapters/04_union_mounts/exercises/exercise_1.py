"""Exercise 1: a union by hand, with mount(8)."""

import subprocess


def union_by_hand(lowers, upper, work, merged, argv):
    """Run `argv` in the directory `merged`, where it sees the union; return what subprocess.run returns, as text.

    `lowers`: the top one first. On the host nothing may be mounted, neither meanwhile nor afterwards.
    """
    return subprocess.run(argv, cwd=merged, capture_output=True, text=True)

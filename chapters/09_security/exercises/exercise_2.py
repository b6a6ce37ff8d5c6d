"""Exercise 2: no right too many."""


def needed(script):
    """Which of the fourteen capabilities a shell script needs to succeed in a container of busybox: a set of names."""
    return set()

"""Exercise 4, destructive: fill a volume. Only with a limit!"""


def fill():
    """Fill a volume of 1 MB, then one without a limit, but not beyond 64 MB; leave no volume.

    Return how many bytes fitted into the first, what the program said when it was full, what another container could
    read back from its own volume meanwhile after `echo fits > file`, and how many bytes went into the second.
    """
    return 0, "", "", 0

"""Exercise 4, destructive: how many fit? Start containers until something gives way, and leave nothing behind."""


def until_it_breaks():
    """Start containers that sleep, until one cannot be started. End all of them.

    Return how many ran at the same time, and the text of the error that stopped you.
    """
    return 0, ""

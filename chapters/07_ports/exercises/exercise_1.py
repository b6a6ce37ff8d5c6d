"""Exercise 1: a cable by hand, with ip(8)."""


def connect(pid):
    """Make a pair of interfaces between this host (10.1.1.1/24) and the network namespace of `pid` (10.1.1.2/24).

    Switch both ends on. Return the name of the end that is here.
    """
    return ""

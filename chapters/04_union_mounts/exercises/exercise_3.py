"""Exercise 3: docker diff."""


def diff(lower, upper):
    """What a container changed: a sorted list of texts such as "A /new", "C /etc", "D /bin/wc".

    `upper` was written by the driver overlay. Every directory that is in both is "C".
    """
    return []

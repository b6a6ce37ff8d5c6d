"""Exercise 5: pull the rug."""


def pull_the_rug(lower):
    """Start `sleep` on a union of the driver aufs over `lower`, list its root, kill the union's server, list it again.

    Return the names of the first list, the errno of the second, and whether the sleeping process is still alive then.
    """
    return [], None, False

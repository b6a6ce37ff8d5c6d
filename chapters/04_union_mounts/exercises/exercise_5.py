"""Exercise 5: pull the rug."""


def pull_the_rug(root):
    """Start `sleep` on a union of the driver aufs over `root`, kill the union's server, then list a directory in it.

    Return the errno that the list was refused with, and whether the sleeping process is still alive then.
    """
    return None, False

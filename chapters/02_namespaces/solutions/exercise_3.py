"""Exercise 3: the surprise of unshare."""


def mended(script):
    """unshare(2) changes where *children* are born: the shell stays outside, and its first command is process 1. When
    that has ended, no other can be born there. With --fork the shell itself is the first child, and so process 1.
    """
    return ["unshare", "--pid", "--fork", "sh", "-c", script]

"""Exercise 2: who is 0?"""


def owners():
    """Make a file as root of a user namespace, map "0 100000 65536". Return its owner seen inside and outside."""
    return None, None

"""Exercise 1: does it live?"""


def lives(directory):
    """Whether somebody holds the lock of this directory, the record of a container. Whatever state.json in it says."""
    return None

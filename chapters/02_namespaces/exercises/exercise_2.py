"""Exercise 2: who is 0?"""


def make_file(path, first):
    """Make the file `path` as root of a user namespace with the map "0 FIRST 65536", and nothing else.

    Return the number of its owner, as it is seen inside. The directory is open to everybody.
    """

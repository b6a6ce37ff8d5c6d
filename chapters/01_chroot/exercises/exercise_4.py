"""Exercise 4, destructive: delete the dynamic loader of a root while a program runs in it."""


def without_loader(root):
    """Build a root in the empty directory, start a program in it, delete its loader. Return two truth values:

    whether the program goes on, and whether another one can still be started there.
    """
    return None, None

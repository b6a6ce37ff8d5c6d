"""Exercise 4, destructive: delete the dynamic loader of a root while a program runs in it."""


def without_loader(root, word):
    """Put /bin/cat with what it needs into the empty directory `root`, start it there, and delete its loader.

    Then let the running cat repeat `word`, and try to start another one. Return what cat said, and whether the other
    one started.
    """
    return "", None

"""Exercise 3: the surprise of unshare."""


def surprise():
    """Run `unshare --pid sh -c ...` with two commands. Return the first child's number, and what the shell says."""
    return None, ""

"""Exercise 3: the surprise of unshare."""


def mended(script):
    """The words of an unshare command that runs all of the shell script `script` as process 1 of a PID namespace.

    `unshare --pid sh -c SCRIPT` is not it: only its first command runs.
    """
    return ["unshare", "--pid", "sh", "-c", script]

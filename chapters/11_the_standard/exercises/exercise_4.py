"""Exercise 4, destructive: the process is killed while it waits for its start."""


def killed(runtime, bundle, name):
    """Create a container; SIGKILL to its process; then try to start it, and remove what is left.

    Return four things: the number that `state` says at first; the status that it says after the kill; the exit code of
    `start`; and that of `state` at last.
    """
    return None

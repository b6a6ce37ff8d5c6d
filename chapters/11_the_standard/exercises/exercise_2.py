"""Exercise 2: a hook."""


def hooked(config, log):
    """The same, with a hook that writes the number of the container's process to log, as the host sees it."""
    return config

"""Exercise 1: config.json."""


def config(root, argv):
    """What config.json has to say: argv in this root, as process 1 of a PID namespace, with a /proc of its own."""
    return {}

"""Exercise 3: who uses a volume?"""


def containers_of(volume):
    """The hostnames of the running containers that have this named volume mounted, each once; from /proc alone."""
    return []

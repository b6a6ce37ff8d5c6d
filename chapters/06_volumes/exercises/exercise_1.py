"""Exercise 1: a read-only bind mount by hand."""


def read_only_bind(source, target):
    """Bind `source` to `target` with what is mounted below, so that nothing there can be written; with mount(2) only.

    Called in a mount namespace of its own, whose mounts are private.
    """

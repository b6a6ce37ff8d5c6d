"""Exercise 3: a shim."""


def shim(runtime, bundle, name):
    """Create and start a container, wait for its end, delete it; return its exit code.

    `runtime` are the first words of the command: runtime + ["create", "--bundle", bundle, "--pid-file", file, name].
    """
    return None

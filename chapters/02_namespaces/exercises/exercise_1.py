"""Exercise 1: two servers, one port."""


def server(word):
    """Start a server on port 8080 that answers each client with the line `word`; return its Process.

    A second one must be able to run at the same time, on the same port.
    """

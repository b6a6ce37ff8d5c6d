"""Exercise 1: two servers, one port."""


def two_servers():
    """Start two servers on port 8080 that answer "one" and "two"; return both answers."""

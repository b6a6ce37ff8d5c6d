"""Exercise 2: a port without a firewall: the proxy in user space."""


def proxy(server, address, port):
    """Pass each connection that `server` (a listening socket) accepts on to `address`, `port`, both ways, for ever.

    Several at the same time; when one side has no more to say, the other must hear of it.
    """

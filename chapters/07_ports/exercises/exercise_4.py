"""Exercise 4, destructive: flush the firewall. In a network namespace only; on a real host you cut yourself off."""


def after_a_flush(container, other, port):
    """Flush all rules of this host (nft flush ruleset), and return what still works, as a set of these words:

    "published": the port of `container` (its Network) on 127.0.0.1; "direct": its address, from here; "neighbour":
    its address, from `other`, the pid of a process in another container of the same network.
    """
    return set()

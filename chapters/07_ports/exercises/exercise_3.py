"""Exercise 3: a message that the chapter does not have."""


def set_mtu(name, mtu):
    """Tell the kernel by netlink that packets through the interface `name` have at most `mtu` bytes; no ip(8)."""

"""Exercise 3: netlink by hand."""


def set_mtu(name, mtu):
    """Tell the kernel by netlink that packets through the interface `name` have at most `mtu` bytes; no ip(8).

    What the kernel refuses is an OSError.
    """

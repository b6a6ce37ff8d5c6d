"""Exercise 3: what exec joins."""


def joined(pid):
    """The names in /proc/PID/ns of the namespaces in which this process does not live with us: a set."""
    return set()


def one_more(pid, argv):
    """Run a command in these namespaces, and with the root of this process, by nsenter(1); what it printed."""
    return ""

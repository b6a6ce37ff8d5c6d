"""Exercise 1: which walls does it have?"""


def walls(pid):
    """What /proc/PID/status says of a process: (the numbers of its effective capabilities as a set, whether a filter of
    system calls is loaded, whether it has no_new_privs).
    """

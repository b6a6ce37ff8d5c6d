"""Exercise 1: does it live?"""

import fcntl
import os


def lives(directory):
    """Who can take the lock knows that nobody has it; a close lets go of it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

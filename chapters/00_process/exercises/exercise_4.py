"""Exercise 4: an isolator that owns something on the host, and gives it back.

Check your work: python3 chapters/00_process/exercises/check.py 4
"""

from minidocker.process import Isolator


class Scratch(Isolator):
    """Run the command in a new, empty directory, and remove that directory with all that is in it at the end.

    It must be gone whatever happens: the command fails, is killed, does not exist, or a later isolator raises. After
    the end, `files` holds the sorted names of what the command left in it.
    """

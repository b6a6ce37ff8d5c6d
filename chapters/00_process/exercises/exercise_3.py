"""Exercise 3: your first isolator.

Check your work: python3 chapters/00_process/exercises/check.py 3
"""

from minidocker.process import Isolator


class Modest(Isolator):
    """Give the command a lower priority (`nice`, 0 to 19) and at most `files` open files.

    Which of the four moments is it? nice(2) and setrlimit(2) change the process that calls them.
    """

    def __init__(self, nice=10, files=64):
        self.nice, self.files = nice, files

"""Exercise 1: a root file system with bash and ls, by hand."""


def build(root):
    """Put /bin/bash, /bin/ls and all that they need into the empty directory `root`, for PivotRoot."""

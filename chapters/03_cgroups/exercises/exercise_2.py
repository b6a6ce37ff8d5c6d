"""Exercise 2: weights."""


def weights():
    """Return the ratio of CPU time of weight 300 to weight 100 on one CPU, and the share of the light one alone."""
    return 0, 0

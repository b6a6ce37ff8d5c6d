"""Exercise 1: who is faster? Two subjects, a machine whose speed changes, and one honest ratio."""

import statistics


def compare(ours, theirs, rounds):
    """A ratio within each round, since a round is short; the median of them, since one bad round is no argument."""
    ours(), theirs()
    return statistics.median(ours() / theirs() for _ in range(rounds))

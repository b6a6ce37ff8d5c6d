"""Exercise 1: who is faster? Two subjects, a machine whose speed changes, and one honest ratio."""

import statistics


def compare(ours, theirs, rounds):
    """Call `ours()` and `theirs()` `rounds` times each; they return seconds. Return the ratio of ours to theirs.

    The machine may become faster or slower at any moment, and the first call of each fills caches.
    """
    first = [ours() for _ in range(rounds)]
    second = [theirs() for _ in range(rounds)]
    return statistics.mean(first) / statistics.mean(second)

"""Exercise 4, destructive: a fork bomb. Only with a limit!"""


def bomb():
    """Run `b() { b | b & }; b` behind a fence, and end it. Return how many forks were refused and how many are left."""
    return 0, 0

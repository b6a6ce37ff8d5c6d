"""Exercise 4, destructive: a fork bomb. Only with a limit!"""


def bomb(number):
    """Run `b() { b | b & }; b` behind a fence of so many processes, and end it.

    Return how many there were at most, how many forks were refused, and how many processes are left.
    """
    return 0, 0, 0

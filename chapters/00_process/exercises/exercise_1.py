"""Exercise 1: make a zombie, see it, bury it.

Check your work: python3 chapters/00_process/exercises/check.py 1
"""


def zombie():
    """Fork a child that ends at once with exit code 3, and do not wait for it yet.

    Return three things: the letter of its state in /proc/PID/stat once it has ended, its exit code after you have
    waited for it, and whether /proc/PID exists after that.
    """
    raise NotImplementedError("your turn")

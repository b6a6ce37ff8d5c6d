"""Exercise 3: a pause without a trace."""


def pause(seconds):
    """Freeze a container that prints the time ten times a second, for so many seconds, and let it go on.

    Return the largest step between two times that it printed, in seconds, and how many lines came after it.
    """
    return 0, 0

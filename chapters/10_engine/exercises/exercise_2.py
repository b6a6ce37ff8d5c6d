"""Exercise 2: a stop that is quick."""


def script(code):
    """A shell script for process 1 of a container. It prints "up" when it can be stopped, and sleeps for an hour; after
    SIGTERM it ends within a second, with this exit code.
    """
    return "echo up; sleep 3600"

"""Exercise 4, destructive: kill process 1."""


def from_inside(process, number):
    """Send the signal `number` to process 1 of the running container, from inside it. Return whether it still lives."""


def from_outside(process):
    """Kill process 1 from outside, with SIGKILL. Return the exit code as Docker reports it."""

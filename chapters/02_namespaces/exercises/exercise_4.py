"""Exercise 4, destructive: kill process 1."""


def kill_first():
    """Start a container; `kill -9 1` inside, and see whether it lives; then from outside. Return (lived, exit code)."""
    return None, None

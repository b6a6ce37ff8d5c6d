"""Exercise 2: a stop that is quick."""


def script(code):
    """Process 1 has a handler now, and `wait` is interrupted by the signal, while a `sleep` of its own would not be."""
    return f"trap 'exit {code}' TERM; echo up; sleep 3600 & wait"

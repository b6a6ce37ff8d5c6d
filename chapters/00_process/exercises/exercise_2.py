"""Exercise 2: a time limit by hand, with nothing but system calls.

Check your work: python3 chapters/00_process/exercises/check.py 2
"""


def run_for(argv, seconds):
    """Fork and execute `argv`; return its exit code, or 124 if it had to be killed after `seconds`.

    Do not sleep in small steps: a process that ends early must not cost more time than it takes. 127 if there is no
    such program. Leave no zombie and no descriptor.
    """
    raise NotImplementedError("your turn")

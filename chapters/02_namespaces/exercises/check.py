"""Check an exercise of chapter 2: python3 chapters/02_namespaces/exercises/check.py NUMBER [FILE]."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise


def check_1(module):
    """Two servers on one port, each with its own answer."""
    answers = [answer.strip() for answer in module.two_servers()]
    assert answers == ["one", "two"], "each must be asked in its own network namespace: Join(pid, 'net')"


def check_2(module):
    """The owner outside of a file that root made inside."""
    inside, outside = module.owners()
    assert inside == 0, f"inside the owner is {inside}: look from inside, too"
    assert outside == 100000, f"outside the owner is {outside}: the first number of the map is root"


def check_3(module):
    """What the second ls says, and why: it is the number of the first child."""
    first, error = module.surprise()
    assert first == 1, f"the first child has number {first} in its namespace: it is the init there"
    assert "annot allocate memory" in error or "an't fork" in error or "annot fork" in error, (
        f"the shell said: {error!r}"
    )


def check_4(module):
    """From inside PID 1 is protected, from outside it is not."""
    inside, outside = module.kill_first()
    assert inside, "from inside: the kernel drops what it has no handler for, SIGKILL too"
    assert outside == 137, f"from outside it ended with {outside}"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)

"""Exercise 4, destructive: kill process 1."""

import time

from minidocker.namespaces import Join
from minidocker.process import run


def from_inside(process, number):
    """pid_namespaces(7): a signal from inside reaches process 1 only if it has a handler, and SIGKILL can have none."""
    run(["kill", f"-{number}", "1"], Join(process.pid))
    time.sleep(0.5)  # it may need a moment to end
    return process.alive()


def from_outside(process):
    """From outside it is a process like any other."""
    process.kill()
    return process.wait().exit_code

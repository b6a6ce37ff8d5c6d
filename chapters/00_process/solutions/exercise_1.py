"""Solution 1: an ended process stays in the table until its parent has asked how it ended."""

import os


def zombie(code):
    pid = os.fork()
    if pid == 0:
        os._exit(code)  # never `return`: this process is a copy of us, and would go on with our work
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # wait for the end, but leave the zombie
    return pid


def bury(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)

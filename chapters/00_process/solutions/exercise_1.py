"""Solution 1: an ended process stays in the table until its parent has asked how it ended."""

import os


def zombie():
    pid = os.fork()
    if pid == 0:
        os._exit(3)  # never `return`: this process is a copy of us, and would go on with our work
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # wait for the end, but leave the zombie
    with open(f"/proc/{pid}/stat") as file:
        state = file.read().rpartition(")")[2].split()[0]  # the name before it may hold blanks and brackets
    _, status = os.waitpid(pid, 0)
    return state, os.waitstatus_to_exitcode(status), os.path.exists(f"/proc/{pid}")

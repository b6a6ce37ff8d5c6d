"""Solution 2: a pidfd is readable when its process has ended, so poll(2) waits for either: the end, or the time."""

import os
import select
import signal


def run_for(argv, seconds):
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)  # rule 1: whatever happened, this copy of us ends here
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    late = not poll.poll(seconds * 1000)
    if late:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 124 if late else code

"""Exercise 5: pull the rug."""

import os
import signal

from aufs import Aufs
from minidocker.process import start


def pull_the_rug(lower):
    """A process that needs no file sleeps on. One that needs another page of its own program would get a SIGBUS."""
    union = Aufs([lower])
    with start(["sleep", "1000"], union) as process:
        place = f"/proc/{process.pid}/root{union.root}"
        names = os.listdir(place)
        os.kill(union.server, signal.SIGKILL)
        os.waitid(os.P_PID, union.server, os.WEXITED | os.WNOWAIT)  # it is dead; the union collects it
        try:
            os.listdir(place)
        except OSError as refused:
            return names, refused.errno, process.alive()
    return names, None, False

"""Exercise 5: pull the rug."""

import os
import signal

from aufs import Aufs
from minidocker.process import start
from minidocker.union import Union


def pull_the_rug(root):
    """A process that needs no file sleeps on. One that needs another page of its own program would get a SIGBUS."""
    union = Union([root], driver=Aufs)
    with start(["sleep", "1000"], union) as process:
        os.kill(union.server, signal.SIGKILL)
        os.waitid(os.P_PID, union.server, os.WEXITED | os.WNOWAIT)  # it is dead; the union collects it
        try:
            os.listdir(f"/proc/{process.pid}/root{union.root}/etc")
        except OSError as refused:
            return refused.errno, process.alive()
    return None, False

"""Isolators for the tests of chapter 2, in a module of their own: the launcher need not import pytest to know them."""

import os
import signal

from minidocker.namespaces import Join
from minidocker.process import Isolator


class InGroup(Isolator):
    """A cgroup made by hand: chapter 3 does it better."""

    def __init__(self, parent):
        self.parent = parent

    def __enter__(self):
        self.directory = f"{self.parent}/minidocker-by-hand-{self.container}"
        os.mkdir(self.directory)
        return self

    def inside(self):
        with open(f"{self.directory}/cgroup.procs", "w") as file:
            file.write("0")

    def __exit__(self, *_):
        os.rmdir(self.directory)


class TooLate(Join):
    """Joins a process that ends after it was looked at, and before the new process is there."""

    def __enter__(self):
        super().__enter__()
        signal.pidfd_send_signal(self.descriptors[0], signal.SIGKILL)
        while os.path.exists(f"/proc/{self.pid}/ns/mnt"):
            pass  # a zombie has none
        return self

"""Isolators for the tests of chapter 0, in a module of their own: the launcher need not import pytest to know them."""

import os
import signal
import time

from minidocker import syscalls
from minidocker.cgroups import Cgroup
from minidocker.namespaces import Namespaces
from minidocker.process import Isolator
from minidocker.rootfs import PivotRoot


def note(path, text):
    """Append one line to a file that the host and the inside share."""
    with open(path, "a") as file:
        file.write(text + "\n")


def whole_list():
    """The isolators of stage 3, on the small root."""
    home = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
    fence = Cgroup(memory="64M", cpus=0.5)
    return [Namespaces("pid mount uts ipc net"), fence, Namespaces("cgroup"), PivotRoot(f"{home}/roots/busybox")]


class Diary(Isolator):
    """Writes down each moment."""

    def __init__(self, path, word="diary"):
        self.path, self.word = str(path), word

    def __enter__(self):
        note(self.path, f"{self.word} enter {os.getpid()}")
        return self

    def attach(self, pid):
        note(self.path, f"{self.word} attach {pid}")

    def inside(self):
        note(self.path, f"{self.word} inside {os.getpid()}")

    def __exit__(self, *_):
        note(self.path, f"{self.word} exit {os.getpid()}")


class Raises(Isolator):
    """Fails at one moment: in a system call, or in its own code."""

    def __init__(self, moment, how):
        self.moment, self.how = moment, how

    def _perhaps(self, moment):
        if moment == self.moment:
            if self.how == "syscall":
                syscalls.mount("proc", "/no-such", "proc")
            raise ValueError("a mistake")

    def __enter__(self):
        self._perhaps("__enter__")
        return self

    def attach(self, pid):
        self._perhaps("attach")

    def inside(self):
        self._perhaps("inside")

    def __exit__(self, *_):
        self._perhaps("__exit__")


class Imports(Isolator):
    """Imports late, inside: what rule 2 forbids."""

    def __init__(self, module, root=None):
        self.module, self.root = module, root

    def inside(self):
        if self.root:
            os.chroot(self.root)
            os.chdir("/")
        __import__(self.module)


class ReadsDescriptor(Isolator):
    """Holds a pipe that only `inside` reads, under the number that it has on the host."""

    def __enter__(self):
        self.descriptors = os.pipe()
        os.write(self.descriptors[1], b"from the host")
        return self

    def inside(self):
        os.write(1, os.read(self.descriptors[0], 100))

    def __exit__(self, *_):
        for descriptor in self.descriptors:
            os.close(descriptor)


class ListsDescriptors(Isolator):
    """Shows what is open inside, before exec."""

    def inside(self):
        for number in range(50):
            try:
                os.write(1, f"{number} {os.readlink(f'/proc/self/fd/{number}')}\n".encode())
            except OSError:
                pass


class BadUnpickle(Isolator):
    """Cannot be rebuilt in the launcher."""

    def __setstate__(self, state):
        raise ValueError("cannot be rebuilt")

    def __getstate__(self):
        return {"anything": 1}


class Pauses(Isolator):
    """Says through a named pipe that a moment has come, and stays there: the test kills somebody meanwhile."""

    def __init__(self, moment, fifo):
        self.moment, self.fifo = moment, fifo

    def __enter__(self):
        self.descriptors = (os.open(self.fifo, os.O_WRONLY),)  # it works behind any wall
        self._perhaps("__enter__")
        return self

    def _perhaps(self, moment):
        if moment == self.moment:
            os.write(self.descriptors[0], f"{moment}\n".encode())
            time.sleep(60)

    def attach(self, pid):
        self._perhaps("attach")

    def inside(self):
        self._perhaps("inside")

    def __exit__(self, *_):
        self._perhaps("__exit__")
        os.close(self.descriptors[0])


class Kills(Isolator):
    """The new process kills itself before the command: nobody can tell why."""

    def inside(self):
        os.kill(os.getpid(), signal.SIGKILL)

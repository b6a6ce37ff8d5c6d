"""Isolators for the tests of chapter 6, in a module of their own: the launcher need not import pytest to know them."""

import os

from minidocker.process import Isolator
from minidocker.rootfs import make_mounts_private
from minidocker.syscalls import CLONE_NEWNS, MS_BIND, MS_RDONLY, mount


class Memory(Isolator):
    """A file system mounted on a directory of the host, where only this container sees it."""

    clone_flags = CLONE_NEWNS

    def __init__(self, path):
        self.path = str(path)

    def inside(self):
        make_mounts_private()
        mount("tmpfs", self.path, "tmpfs")


class Naive(Isolator):
    """A bind mount as the first runtimes made it: by path, and read-only by one call."""

    clone_flags = CLONE_NEWNS

    def __init__(self, source, target, root, readonly=False):
        self.source, self.path, self.readonly = str(source), f"{root}{target}", readonly

    def inside(self):
        make_mounts_private()
        os.makedirs(self.path, exist_ok=True)
        mount(self.source, self.path, flags=MS_BIND | (MS_RDONLY if self.readonly else 0))


class NothingOn(Isolator):
    """Refuses to go on if something is mounted below a directory of the host."""

    def __init__(self, path):
        self.path = str(path)

    def inside(self):
        with open("/proc/self/mountinfo") as file:
            for line in file:
                if line.split()[4].startswith(self.path):
                    raise OSError(1, "landed outside", self.path)

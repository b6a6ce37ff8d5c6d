"""Exercise 3: a root that cannot be written."""

from minidocker.process import Isolator
from minidocker.syscalls import MS_BIND, MS_RDONLY, MS_REMOUNT, mount


class ReadOnly(Isolator):
    """Stands after PivotRoot. MS_BIND: change this mount, and not the file system that others use, too."""

    def inside(self):
        mount(None, "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)

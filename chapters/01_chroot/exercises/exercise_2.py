"""Exercise 2: close the door of a chroot."""

from minidocker.process import Isolator


class NoChroot(Isolator):
    """After the next exec, root in here may not call chroot(2)."""

"""Exercise 2: close the door of a chroot."""

from minidocker.process import Isolator
from minidocker.syscalls import prctl

PR_CAPBSET_DROP, CAP_SYS_CHROOT = 24, 18  # <linux/prctl.h>, <linux/capability.h>


class NoChroot(Isolator):
    """After the next exec, root in here may not call chroot(2): capabilities(7), "bounding set"."""

    def inside(self):
        prctl(PR_CAPBSET_DROP, CAP_SYS_CHROOT)

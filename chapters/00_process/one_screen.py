"""A container on one screen: sudo python3 chapters/00_process/one_screen.py hostname"""

import ctypes
import os
import sys

root = "/var/lib/minidocker/roots/busybox"  # what it will see as /
libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A system call that Python lacks, through libc; its numbers are those of <linux/sched.h> and <sys/mount.h>."""
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


call("unshare", 0x00020000 | 0x04000000 | 0x20000000)  # NEWNS, NEWUTS, NEWPID: own mounts, host name, process numbers
pid = os.fork()
if pid == 0:  # the new process: number 1 in there
    call("sethostname", b"box", 3)
    call("mount", None, b"/", None, 0x44000, None)  # REC, PRIVATE: what is mounted from now on, the host does not see
    call("mount", root.encode(), root.encode(), None, 0x1000, None)  # BIND: a root has to be a mount
    os.chdir(root)
    call("mount", b"proc", b"proc", b"proc", 0, None)  # its own processes only
    call("pivot_root", b".", b".")  # the new root on top of the old one,
    call("umount2", b".", 2)  # DETACH: and the old one away
    os.execvp(sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

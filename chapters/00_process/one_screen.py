"""A container on one screen: sudo python3 chapters/00_process/one_screen.py"""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
root = b"/var/lib/minidocker/roots/busybox"


def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:  # a system call, by its name in libc
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


call("unshare", 0x00020000 | 0x04000000 | 0x20000000)  # own mounts, name, process numbers
if (pid := os.fork()) == 0:  # the new process
    call("sethostname", b"box", 3)
    call("mount", None, b"/", None, 0x44000, None)  # private: mounts stay inside
    call("mount", root, root, None, 0x1000, None)  # bind: a root must be a mount
    os.chdir(root)
    call("mount", b"proc", b"proc", b"proc", 0, None)  # its own processes only
    call("pivot_root", b".", b".")  # the new root lies on top of the old one,
    call("umount2", b".", 2)  # and the old one goes
    os.execv("/bin/sh", ["sh"])
os.waitpid(pid, 0)

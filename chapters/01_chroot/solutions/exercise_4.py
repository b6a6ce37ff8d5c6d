"""Exercise 4, destructive: delete the dynamic loader of a root while a program runs in it."""

import glob
import os

from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot, copy_program


def without_loader(root):
    """The mapping of the running program keeps the deleted file; execve(2) looks for its name and finds none."""
    copy_program("/bin/cat", root)
    os.makedirs(f"{root}/proc")
    talk, listen = os.pipe()
    with start(["/bin/cat"], PivotRoot(root), stdin=talk) as cat:
        for loader in glob.glob(f"{root}/lib*/**/ld-linux*", recursive=True):
            os.unlink(loader)
        os.write(listen, b"still here\n")
        goes_on = next(cat.lines()) == "still here"
    os.close(talk)
    os.close(listen)
    try:
        return goes_on, run(["/bin/cat"], PivotRoot(root)).exit_code == 0
    except ContainerError:
        return goes_on, False

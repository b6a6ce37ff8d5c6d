"""Exercise 4, destructive: delete the dynamic loader of a root while a program runs in it."""

import glob
import os

from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot, copy_program


def without_loader(root, word):
    """The mapping of the running program keeps the deleted file; execve(2) looks for its name and finds none."""
    copy_program("/bin/cat", root)
    os.makedirs(f"{root}/proc")
    talk, listen = os.pipe()
    with start(["/bin/cat"], PivotRoot(root), stdin=talk) as cat:
        for loader in glob.glob(f"{root}/lib*/**/ld-linux*", recursive=True):
            os.unlink(loader)
        os.write(listen, f"{word}\n".encode())
        said = next(cat.lines())
    os.close(talk)
    os.close(listen)
    try:
        return said, run(["/bin/cat"], PivotRoot(root)).exit_code == 0
    except ContainerError:
        return said, False

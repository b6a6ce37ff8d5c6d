"""Exercise 1: a root file system with bash and ls, by hand."""

import os

from minidocker.rootfs import copy_program


def build(root):
    """The programs with their libraries, and the directory on which PivotRoot mounts /proc."""
    for program in ("/bin/bash", "/bin/ls"):
        copy_program(program, root)
    os.makedirs(f"{root}/proc")

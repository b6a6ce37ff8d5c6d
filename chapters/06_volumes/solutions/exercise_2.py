"""Exercise 2: a backup by a container."""

import os

from minidocker.namespaces import Namespaces
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.state import home
from minidocker.union import Union
from minidocker.volumes import Bind, Named

BUSYBOX = f"{home()}/roots/busybox"


def backup(volume, archive):
    """docker run --rm -v volume:/from:ro -v "$PWD":/to busybox tar -cf /to/archive -C /from ."""
    directory, name = os.path.split(os.path.abspath(archive))
    union = Union([BUSYBOX])
    mounts = Named(volume, "/from", union.root, readonly=True, nocopy=True), Bind(directory, "/to", union.root)
    command = ["tar", "-cf", f"/to/{name}", "-C", "/from", "."]
    done = run(command, Namespaces("pid mount uts ipc net"), union, *mounts, PivotRoot(union.root))
    if done.exit_code:
        raise OSError(done.stderr)

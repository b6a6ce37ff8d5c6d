"""Exercise 4, destructive: kill process 1."""

import os

from minidocker.namespaces import Join, Namespaces
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot

ROOT = os.path.join(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"), "roots/busybox")


def kill_first():
    """pid_namespaces(7): a signal from inside reaches process 1 only if it has a handler, and SIGKILL can have none."""
    with start(["sleep", "60"], Namespaces("pid mount"), PivotRoot(ROOT)) as process:
        run(["kill", "-9", "1"], Join(process.pid))
        lived = process.alive()
        process.kill()
        return lived, process.wait().exit_code

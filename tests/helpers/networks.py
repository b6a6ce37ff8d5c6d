"""Containers with a network, for the tests of chapter 7 and of attacks; conftest has the fixtures `host` and `lan`."""

import contextlib
import os

from minidocker.namespaces import Join, Namespaces
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot
from tests.helpers import HOME

ROOT = str(HOME / "roots/busybox")

# Two servers of busybox, one for each family: they answer with the container's name, or whatever is in /srv
SERVE = "echo $(hostname) > /tmp/$(hostname); httpd -p 80 -h /tmp; httpd -p [::]:80 -h /tmp; echo ready; sleep 1000"


def walls(net, kinds="pid mount uts ipc"):
    """The list of stage 7. A tmpfs on /tmp, since all containers share the root."""
    return [Namespaces(kinds), net, PivotRoot(ROOT)]


@contextlib.contextmanager
def serving(net, name="web"):
    """A container with the two servers, when they are there."""
    script = f"mount -t tmpfs none /tmp; {SERVE}"
    with start(["sh", "-c", script], *walls(net), name=name) as process:
        assert next(process.lines()) == "ready"
        yield process


@contextlib.contextmanager
def idle(net, name="idle"):
    """A container that does nothing."""
    with start(["sh", "-c", "echo ready; sleep 1000"], *walls(net), name=name) as process:
        assert next(process.lines()) == "ready"
        yield process


def inside(process, *argv):
    """Run a program of this machine in the network namespace of a container."""
    return run([*argv], Join(process.pid, "net"), env=dict(os.environ), timeout=60)


def get_inside(process, url, patience=5):
    """What curl gets in there."""
    result = inside(process, "curl", "-s", "--noproxy", "*", "-m", str(patience), url)
    return result.stdout.strip() if result.exit_code == 0 else result.exit_code

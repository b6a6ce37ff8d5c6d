"""Exercise 4, destructive: fill a volume. Only with a limit!"""

from minidocker.namespaces import Namespaces
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot
from minidocker.state import home
from minidocker.union import Union
from minidocker.volumes import Named, store

BUSYBOX = f"{home()}/roots/busybox"


def walls(volume):
    """A list with one volume at /data."""
    union = Union([BUSYBOX])
    return [Namespaces("pid mount uts ipc net"), union, Named(volume, "/data", union.root), PivotRoot(union.root)]


def fill():
    """A file system has a size; a directory has not. The limit of a process, setrlimit(2), ends it with SIGXFSZ."""
    store.create("small", {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    script = "dd if=/dev/zero of=/data/x bs=4k 2>&1; stat -c %s /data/x; sleep 1000"
    with start(["sh", "-c", script], *walls("small")) as first:
        written, lines = first.lines(), [""]
        while not lines[-1].isdigit():
            lines.append(next(written))
        other = run(["sh", "-c", "echo fits > /data/file; cat /data/file"], *walls("other")).stdout
    script = (
        f"ulimit -f {(64 << 20) // 512}; dd if=/dev/zero of=/data/x bs=1M count=1000 2>/dev/null; stat -c %s /data/x"
    )
    limited = int(run(["sh", "-c", script], *walls("large")).stdout.split()[-1])
    for name in ("small", "other", "large"):
        store.remove(name)
    return int(lines[-1]), " ".join(lines[:-1]), other, limited

"""Chapter 8: how much disk do n servers need? As n disks of machines, and as n containers above what they share.

    with Ground([in_image("web"), in_image("mail")]) as ground:
        ground.layers(10)                   # bytes on disk after five of each have really run, and written their logs
        ground.copies(2), ground.disks(2), ground.clones(2)

Each way is a directory in which the servers keep what is theirs, and each server has run. What is counted is what du(1)
counts: blocks on the disk. So a hole in a disk image costs nothing, and a file of one byte costs a block.
"""

import os
import tempfile
from collections.abc import Sequence
from typing import Self

from bench.machine import boot, directory, link
from minidocker import files, state
from minidocker.images.archive import export, import_
from minidocker.images.image import find
from minidocker.images.store import Store
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.union import Union

# What a server without a program leaves behind: a hundred lines of an access log, and the number of its process
SERVE = (
    "i=0; while [ $i -lt 100 ]; do i=$((i+1)); "
    "echo 192.0.2.$i - GET /index.html HTTP/1.1 200 4711; done >/var/log/access.log; echo $$ >/run/server.pid"
)
# A real one ($@, in the container) is asked something at its port ($0), until it has answered; then it is ended.
ANSWER = """
ip link set lo up
"$@" &
until exec 3<>/dev/tcp/127.0.0.1/$0; do kill -0 $! && sleep 0.05 || exit; done 2>/dev/null
printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3
read -r line <&3 && kill $! && wait
echo "$line"
"""
BOOT = 120.0  # seconds that a machine gets to boot, serve and end

Server = tuple[list[str], list[str]]  # layers, the top one first; a command


class Ground:
    """A directory among those of the containers, for as long as the measuring takes: all on one file system.

    `servers` are (layers, the top one first, and a command); containers take turns with them. Needs root.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers

    def __enter__(self) -> Self:
        self.name = f"ground-{os.urandom(6).hex()}"
        self.path = state.directory(self.name)
        self.lock = state.claim(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        state.release(self.path, self.lock)

    def layers(self, number: int) -> int:
        """Containers above the layers: each layer once, and for each server what it changed."""
        used = {layer for layers, _ in self.servers[:number] for layer in layers}
        return usage(*used, *self._containers(number, "Union"))

    def copies(self, number: int) -> int:
        """Containers that share nothing: a full copy of the files for each."""
        return usage(*self._containers(number, "Copy"))

    def disks(self, number: int) -> int:
        """Machines with a disk of their own each: raw copies of the usual guest's, with holes where nothing is."""
        return usage(*self._machines(number, "raw"))

    def clones(self, number: int) -> int:
        """Machines whose disks are linked clones, qcow2 files that hold what differs from one image that all share."""
        return usage(original(), *self._machines(number, "qcow2"))

    def _containers(self, number: int, kind: str) -> list[str]:
        """The upper directories of containers that have run; those that an earlier call made are there already."""
        uppers = [os.path.join(self.path, f"{kind}-{count}") for count in range(number)]
        for count, upper in enumerate(uppers):
            if not os.path.exists(upper):
                os.mkdir(upper, 0o755)
                layers, command = self.servers[count % len(self.servers)]
                union = Union(layers, None if kind == "Copy" else upper)
                if kind == "Copy":
                    run(["cp", "-a", f"{union.root}/.", upper], union)
                walls = [PivotRoot(upper)] if kind == "Copy" else [union, PivotRoot(union.root)]
                result = run(command, Namespaces("pid mount uts ipc net"), *walls, timeout=BOOT)
                if result.exit_code:
                    raise ContainerError(f"server {count} did not serve: {result}", path=upper)
        return uppers

    def _machines(self, number: int, kind: str) -> list[str]:
        """The disks of machines that have run."""
        disks = [os.path.join(self.path, f"disk-{count}.{kind}") for count in range(number)]
        for disk in disks:
            if not os.path.exists(disk):
                link(original(), disk) if kind == "qcow2" else copy_sparse(original(), disk)
                with boot("usual", SERVE, disk=disk) as machine:
                    machine.wait(BOOT)
        return disks


def in_root(root: str) -> Server:
    """A server in a root file system, which is its only layer, without a program of its own."""
    return [root], ["sh", "-c", SERVE]


def in_image(name: str) -> Server:
    """The server of an image of the store: what it runs, and the first port that it exposes."""
    image = find(Store(), name)
    settings = image.config["config"]
    port = next(iter(settings["ExposedPorts"])).partition("/")[0]
    return image.layers(), ["bash", "-c", ANSWER, port, *settings["Cmd"]]


def squashed(place: str, *names: str) -> tuple[int, int]:
    """Bytes of images with one layer each, so that they have none in common; and with their equal files made one.

    The second is the work of hardlink(1), for files from 64 KiB. `place` is on the disk that is measured. Needs root.
    """
    store, layers = Store(os.path.join(place, "squashed")), []
    for name in names:
        with tempfile.TemporaryFile(dir=place) as file:
            export(find(Store(), name), file.fileno())
            file.seek(0)
            layers += import_(store, file.fileno(), name).layers()
    apart = sum(map(usage, layers))
    run(["hardlink", "-q", "-X", "-f", "-s", "64K", *layers])
    return apart, usage(*layers)


def original() -> str:
    """The disk image of the usual guest, as set-up made it."""
    return os.path.join(directory(), "debian.ext4")


def copy_sparse(source: str, target: str) -> None:
    """Copy a file, but not its holes, and share no block with the original: a whole disk for each machine."""
    run(["cp", "--sparse=always", "--reflink=never", source, target])


def usage(*paths: str) -> int:
    """Bytes on disk of these files and directories with all that is in them, each file once."""
    return files.usage(paths)

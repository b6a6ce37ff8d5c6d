"""Chapter 5: what a step of a build does to the file system, each time in a container whose changes become a layer.

    with upper_of(store, layers) as (lowers, upper):
        execute(store, image, ["make"], "", 2, {"upper": upper})          # RUN: behind the walls of `minidocker run`
        store.add_layer(upper)

The union of the layers below and an empty directory, which keeps what the step changes: that directory is the layer.
"""

from __future__ import annotations

import contextlib
import os

from minidocker.images.container import Layers, container
from minidocker.isolator import Isolator
from minidocker.process import start
from minidocker.rootfs import PivotRoot
from minidocker.syscalls import MS_BIND, mount, signal
from minidocker.union import Union

RESOLVER = ("/etc/resolv.conf", "/etc/hosts")  # what a program needs to reach others by name
SCRIPT = "/dev/script"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from minidocker.images.store import Store


@contextlib.contextmanager
def upper_of(store: Store, layers: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """(directories below, the top one first; the one for the changes), on the host. Both are gone afterwards.

    The upper directory covers the root of what is below, so it looks like that. Below scratch is an empty directory.
    """
    with store.place() as place:
        lowers, upper = [*layers] or [f"{place}/scratch"], f"{place}/upper"
        os.chmod(place, 0o700)  # nobody of this machine may look in: there may be setuid files
        os.mkdir(f"{place}/scratch", 0o755)
        os.mkdir(upper)
        root = os.stat(lowers[0])
        os.chown(upper, root.st_uid, root.st_gid)
        os.chmod(upper, root.st_mode & 0o7777)
        yield lowers, upper


def jail_of(lowers: Sequence[str], upper: str | None = None) -> list[Isolator]:
    """A root made of layers, in which our own code reads or writes: nothing is mounted there, and nothing executed."""
    union = Union(lowers, upper)
    return [Layers(lowers), union, PivotRoot(union.root, proc=False)]


@contextlib.contextmanager
def standing(layers: Sequence[str]) -> Iterator[int]:
    """The root made of layers as an open directory, for as long as a process waits in it: proc(5), /proc/PID/root."""
    with start(signal.pause, *jail_of(layers)) as process:
        root = os.open(f"/proc/{process.pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield root
        finally:
            os.close(root)


def execute(
    store: Store, image: dict[str, Any], argv: Sequence[str], script: str, output: int, options: dict[str, Any]
) -> int:
    """RUN: the exit code. A `script`, which begins with #!, is executed in place of `argv`.

    What it writes comes through one pipe, so its lines stay in order; `output` itself may be a terminal, in which a
    program can type. Mount points that the image lacks are in a directory below all layers, so that they are there for
    the step, and never in its own layer. `options` are those of `container`.
    """
    texts = {SCRIPT: script.encode()} if script else {}
    if options.get("network") == "host":
        texts |= {path: text for path in RESOLVER if (text := _read(path))}
    with store.place() as skeleton:
        for name in ("proc", "dev", "sys", "etc"):
            os.mkdir(f"{skeleton}/{name}", 0o755)
        for path in RESOLVER:
            os.close(os.open(skeleton + path, os.O_CREAT | os.O_WRONLY, 0o644))
        image = {**image, "layers": [*image["layers"], skeleton]}
        command = [SCRIPT] if script else argv
        words, walls, settings = container(image, command, entrypoint=[], hostname="build", init=True, **options)
        walls.insert(next(at for at, wall in enumerate(walls, 1) if isinstance(wall, PivotRoot)), Texts(texts))
        ours, theirs = os.pipe()
        with (
            open(ours, "rb", 0) as reader,
            open(theirs, "wb", 0) as writer,
            start(words, *walls, stdout=theirs, stderr=theirs, **settings) as process,
        ):
            writer.close()
            while data := reader.read(65536):
                while data:
                    data = data[os.write(output, data) :]
            return process.wait().exit_code


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16 << 10)
    except OSError:
        return b""


class Texts(Isolator):
    """Files of one step, by their paths: in the container's /dev, and mounted over the image's own from there.

    /dev is in memory, and a mount is no change of a file: neither gets into the layer. After the change of root, where every
    link leads to the image's own files.
    """

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self.texts = texts

    def inside(self) -> None:
        """An image in which the file is a link to nothing has no place for it: then it goes without."""
        for path, text in self.texts.items():
            target, own = os.path.realpath(path), f"/dev/{os.path.basename(path)}"
            with open(own, "wb") as file:
                file.write(text)
            os.chmod(own, 0o755)
            if target != own and os.path.isfile(target):
                mount(own, target, flags=MS_BIND)

"""Chapter 5: an image without layers: a tar of files becomes one, and the merged view of one becomes a tar.

    import_(Store(), open("rootfs.tar", "rb"), "mine:1")         # what debootstrap, or another machine, made
    export(find(Store(), "mine:1"), sys.stdout.fileno())         # for anything that takes files

Both lose what is not a file: layers, history, and on the way out the config.
"""

from __future__ import annotations

import datetime
import os

from minidocker.images import manifest as media
from minidocker.images.archive import packed
from minidocker.images.container import Layers
from minidocker.images.diff import write_layer
from minidocker.images.garbage import bringing
from minidocker.images.image import Image, make
from minidocker.images.instruction import Instruction
from minidocker.images.members import reading, uncompressed
from minidocker.images.reference import parse
from minidocker.images.settings import change
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run
from minidocker.union import Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, BinaryIO

    from minidocker.images.store import Store


def import_(
    store: Store, stream: BinaryIO, name: str = "", changes: Sequence[str] = (), comment: str = "Imported"
) -> Image:
    """Make an image of one layer of a tar, compressed or not; `changes`: instructions that set its config ("USER www").

    The tar is checked as any layer is, by unpacking it in the jail. Needs root. Raises `ContainerError`.
    """
    config = configured(changes)
    if name:
        parse(name)
    with bringing(store, name or "import"), reading("import"):
        layer, diff_id = packed(store, uncompressed(stream))
        created = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        document = {
            **media.platform(),
            "created": created,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "comment": comment}],
        }
        image = make(store, document, [layer])
        image.layers()
        if name:
            store.tag(name, image.descriptor)
        return image


def configured(changes: Sequence[str]) -> dict[str, Any]:
    """The config that instructions of a Dockerfile make out of nothing: those that only set something."""
    config: dict[str, Any] = {}
    for number, text in enumerate(changes, 1):
        instruction = Instruction(number, text)
        variables = dict(setting.partition("=")[::2] for setting in config.get("Env", []))
        try:
            change(instruction, config, variables)
        except KeyError:
            raise ContainerError(f"--change {instruction.keyword}: only what sets a part of the config") from None
    return config


def export(image: Image, descriptor: int) -> None:
    """Write the files of an image, as a container would see them, as a tar to a file descriptor. Needs root."""
    layers = image.layers()
    union = Union(layers)
    result = run(["export"], Layers(layers), union, _Export(descriptor, union.root))
    if result.exit_code:  # an error has been raised already; this is a process that was killed
        raise ContainerError(f"export: it ended with {result.exit_code} before all files were written: try again")


class _Export(Isolator):
    """Last in the list: where the union is mounted, and nowhere else, it writes the archive and ends."""

    def __init__(self, descriptor: int, root: str) -> None:
        self.descriptors, self.root = (descriptor,), root

    def inside(self) -> None:
        """Runs as root in the mount namespace of the union."""
        with open(self.descriptors[0], "wb", closefd=False) as stream:
            write_layer(self.root, stream)
        os._exit(0)

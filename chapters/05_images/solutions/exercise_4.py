"""Exercise 4: a store in trouble. Never on the store that you need: damage() makes one of its own."""

import os
import tempfile

from minidocker.images.image import find, make
from minidocker.images.manifest import platform
from minidocker.images.store import Store
from minidocker.outcome import ContainerError


def damage():
    """A blob that is cut off, a blob that is gone, an index.json that is none."""
    messages = []
    for break_it in (_cut, _remove, _no_index):
        with tempfile.TemporaryDirectory(prefix="minidocker-exercise-") as home:
            store = Store(home)
            os.mkdir(f"{home}/tree")
            layer, diff_id = store.add_layer(f"{home}/tree", "none")
            rootfs = {"type": "layers", "diff_ids": [diff_id]}
            image = make(store, {**platform(), "config": {}, "rootfs": rootfs}, [layer])
            store.tag("victim", image.descriptor)
            break_it(store, image)
            try:
                find(store, "victim").layers()
            except ContainerError as error:
                messages.append(str(error))
    return messages


def _cut(store, image):
    path = store.blob(image.id)
    os.truncate(path, os.path.getsize(path) - 1)


def _remove(store, image):
    os.unlink(store.blob(image.id))


def _no_index(store, image):
    with open(f"{store.layout}/index.json", "w") as file:
        file.write("{")

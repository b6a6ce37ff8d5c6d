"""Exercise 3: a layer that deletes, and a secret that stays."""

import os

from minidocker.images.image import make
from minidocker.images.manifest import platform


def two_layers(store, work, secret):
    """In a layer's tar a whiteout is a file .wh.NAME; in an upper directory of OverlayFS, the character device 0/0."""
    os.makedirs(f"{work}/first")
    os.makedirs(f"{work}/second")
    with open(f"{work}/first/secret", "w") as file:
        file.write(secret)
    os.mknod(f"{work}/second/secret", 0o020000, 0)
    layers = [store.add_layer(f"{work}/first"), store.add_layer(f"{work}/second")]
    rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}
    return make(store, {**platform(), "config": {}, "rootfs": rootfs}, [descriptor for descriptor, _ in layers])


def recovered(image):
    """The layer below is as it was. A secret in a Dockerfile is published, whatever a later step deletes."""
    with open(f"{image.layers()[-1]}/secret") as file:
        return file.read()

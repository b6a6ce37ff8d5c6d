"""Chapter 5: the build cache. What a step depends on -> the image that it made: build/KEY, a descriptor.

    recall(store, key) or remember(store, key, made.descriptor)

The key is a digest of all that goes into the step: the image before it, the instruction, the files that it copies. The
images are kept as long as the cache knows them; `forget` empties it, and the next `collect` frees what only it needed.
"""

from __future__ import annotations

import os

from minidocker.images import manifest as media
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidocker.images.manifest import Descriptor
    from minidocker.images.store import Store


def remember(store: Store, key: str, descriptor: Descriptor) -> None:
    """Note the image that this step made; `key` in hexadecimal."""
    store.replace(f"build/{key}", descriptor)


def recall(store: Store, key: str) -> Descriptor | None:
    """The manifest's descriptor of the image that such a step made before, unless that has been pruned."""
    try:
        with open(f"{store.home}/build/{key}", "rb") as file:
            found = media.check_descriptor(media.parsed(file.read()))
    except (FileNotFoundError, ContainerError):  # a note that cannot be read is as good as none
        return None
    return found if store.has(found["digest"]) else None


def remembered(store: Store) -> list[Descriptor]:
    """All images of the cache."""
    return [found for key in os.listdir(f"{store.home}/build") if (found := recall(store, key))]


def forget(store: Store) -> None:
    """Empty the cache."""
    for key in os.listdir(f"{store.home}/build"):
        try:
            os.unlink(f"{store.home}/build/{key}")
        except FileNotFoundError:
            pass  # another process does the same

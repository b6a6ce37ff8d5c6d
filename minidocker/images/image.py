"""Chapter 5: one image of the store: found by its name or its ID, made out of a config and layers, removed.

    image = find(store, "debian")            # or the first digits of its ID
    image.layers()                           # directories, the top one first, as Union wants them
    make(store, config, layers)              # a new one, without a name yet

The ID of an image is the digest of its config: that names the diff IDs of all layers, so it stands for all of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from minidocker import state
from minidocker.images import manifest as media
from minidocker.images.manifest import Descriptor
from minidocker.images.store import Store
from minidocker.outcome import ContainerError


class NoSuchImage(ContainerError):
    """Nothing in the store has this name, or an ID that begins so."""


class Image:
    """Read from the store, and checked. `name` is the full one by which it was found, or "": by ID or digest.

    `diff_ids`: the base first. `size`: bytes of its layers as they are transferred.
    """

    def __init__(self, store: Store, descriptor: Descriptor, name: str = "") -> None:
        self.store, self.descriptor, self.name = store, descriptor, name
        self.manifest = media.check_manifest(store.get_json(descriptor))
        self.id: str = self.manifest["config"]["digest"]
        self.config = media.check_config(store.get_json(self.manifest["config"]), len(self.manifest["layers"]))
        self.diff_ids: list[str] = [*self.config["rootfs"]["diff_ids"]]
        self.size: int = sum(layer["size"] for layer in self.manifest["layers"])

    def layers(self) -> list[str]:
        """The directories of its layers, the top one first; those that are not unpacked yet are unpacked now.

        A layer that comes twice counts once, where it is uppermost: all that the lower one says, the upper one says
        again. (OverlayFS refuses a directory that is in the stack twice.)
        """
        pairs = zip(self.manifest["layers"], self.diff_ids, strict=True)
        found = [self.store.layer(layer, diff_id) for layer, diff_id in pairs]
        return list(dict.fromkeys(found[::-1])) or [self.store.empty]

    def ready(self) -> dict[str, Any]:
        """What `container` needs to know of it."""
        media.check_platform(self.config)
        layers = self.layers()
        held = [self.store.blob(self.id), *layers]
        return {"id": self.id, "layers": layers, "held": held, "config": self.config["config"]}

    def digests(self) -> set[str]:
        """All blobs that it consists of."""
        return {self.descriptor["digest"], self.id, *(layer["digest"] for layer in self.manifest["layers"])}

    def names(self) -> list[str]:
        """All its full names."""
        return [name for name, entry in self.store.tags().items() if entry["digest"] == self.descriptor["digest"]]

    def leads_to(self, other: Image) -> bool:
        """Whether the other one has its layers, and perhaps more above them."""
        return other.diff_ids[: len(self.diff_ids)] == self.diff_ids

    def in_use(self) -> bool:
        """Whether a container was made of it that runs, which holds the config (see `Union`), or may run again."""
        if state.wanted(self.id.removeprefix("sha256:")):
            return True
        with self.store.locked(self.store.blob(self.id), exclusive=True, wait=False) as idle:
            return not idle


def make(store: Store, config: dict[str, Any] | bytes, layers: list[Descriptor]) -> Image:
    """Store the config and a manifest for these layers, the base first. Hold `store.writing()` until it has a name."""
    blob = store.put(config, media.CONFIG)
    document = {"schemaVersion": 2, "mediaType": media.MANIFEST, "config": blob, "layers": layers}
    return Image(store, store.put(document, media.MANIFEST))


def find(store: Store, word: str) -> Image:
    """The image of this full ID, else of this name, else whose ID begins so: Docker's order. Raises `NoSuchImage`.

    In another order, an image called `cafe` would be hidden by any image whose ID begins so.
    """
    digits = re.fullmatch("(?:sha256:)?([0-9a-f]{1,64})", word)
    if not (digits and len(digits[1]) == 64):
        wanted = media.parse(word)
        for full, descriptor in store.tags().items():
            if full == str(wanted):
                return Image(store, descriptor, full)
            if wanted.digest == descriptor["digest"] and media.parse(full).name == wanted.name:
                return Image(store, descriptor)
    begins = [image for image in images(store) if digits and image.id.startswith(f"sha256:{digits[1]}")]
    if len(begins) > 1:
        raise ContainerError(f"{word}: {len(begins)} images have an ID that begins so: give more digits")
    if not begins:
        raise NoSuchImage(f"no such image: {media.parse(word).familiar}: see minidocker images, or pull it")
    return begins[0]


def images(store: Store, entries: Mapping[str, Descriptor] | None = None) -> list[Image]:
    """All images of the index, each once, or those of other entries. What is none, or is damaged, is left out."""
    found = []
    for entry in (store.manifests() if entries is None else entries).values():
        with contextlib.suppress(ContainerError):
            found.append(Image(store, entry))
    return found


def remove(store: Store, word: str, force: bool = False) -> list[str]:
    """Take a name away; with its last name the image goes, too. Return what happened, a line each.

    Not while a container runs on it: with `force` it loses its names then, and stays. Layers that another image, or a
    running container, still uses stay, and so does what the build cache needs for the images that are left.
    """
    try:
        image = find(store, word)
    except ContainerError:
        if not store.untag(word):
            raise
        store.collect(wait=False)
        return [f"Untagged: {media.parse(word).familiar}"]  # its documents are damaged, but it had a name
    names = image.names()
    mine = [image.name] if image.name else names
    if len(mine) > 1 and not force:
        raise ContainerError(f"{word}: it has {len(mine)} names: remove each, or use --force")
    last = {*names} <= {*mine}
    used = last and image.in_use()
    if used and not (force and image.name):
        remedy = "" if force else ": remove it first, or use --force with the image's name"
        raise ContainerError(f"{word}: a container uses this image{remedy}")
    with store.writing():  # an image that stays has no name for a moment
        lines = [f"Untagged: {media.parse(full).familiar}" for full in mine if store.untag(full)]
        if used:
            store.tag("", image.descriptor)
    if last and not used:
        store.forget(image.descriptor["digest"], *_steps_to(store, image))
        lines.append(f"Deleted: {image.id}")
        store.collect(wait=False)
    return lines


def prune(store: Store, everything: bool = False) -> int:
    """Remove the images without a name, or all, that no container runs on; return how many bytes that freed."""
    kept = {image.descriptor["digest"] for image in images(store) if image.in_use()}
    kept |= set() if everything else {entry["digest"] for entry in store.tags().values()}
    store.forget(*(store.manifests().keys() - kept))
    return store.collect()


def _steps_to(store: Store, image: Image) -> list[str]:
    """The images of the build cache that led to this one, and to none that stays."""
    stay = [other for other in images(store) if other.descriptor["digest"] != image.descriptor["digest"]]
    led = [step for step in images(store, store.steps()) if step.leads_to(image) and not any(map(step.leads_to, stay))]
    return [step.descriptor["digest"] for step in led]

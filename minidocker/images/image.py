"""Chapter 5: one image of the store: found by its name or its ID, made out of a config and layers, removed.

    image = find(store, "debian")            # or the first digits of its ID
    image.layers()                           # directories, the top one first, as Union wants them
    make(store, config, layers)              # a new one, without a name yet

The ID of an image is the digest of its config: that names the diff IDs of all layers, so it stands for all of it.
"""

from __future__ import annotations

import contextlib
import os

from minidocker import state
from minidocker.images import manifest as media
from minidocker.images.garbage import collect
from minidocker.images.reference import parse
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidocker.images.manifest import Descriptor
    from minidocker.images.store import Store


class NoSuchImage(ContainerError):
    """Nothing in the store has this name, or an ID that begins so."""


class Image:
    """`descriptor` of the manifest, `manifest`, `config` (the documents), `id`. Read from the store, and checked.

    `name` is the full name by which it was found, and empty if that was its ID or a digest.
    """

    def __init__(self, store: Store, descriptor: Descriptor, name: str = "") -> None:
        self.store, self.descriptor, self.name = store, descriptor, name
        self.manifest = media.check_manifest(store.get_json(descriptor))
        self.config = media.check_config(store.get_json(self.manifest["config"]), len(self.manifest["layers"]))

    @property
    def id(self) -> str:
        """sha256: and the digest of the config: Docker's image ID."""
        return str(self.manifest["config"]["digest"])

    @property
    def diff_ids(self) -> list[str]:
        """The digests of the layers' tars, the base first."""
        return list(self.config["rootfs"]["diff_ids"])

    @property
    def size(self) -> int:
        """Bytes of its layers as they are transferred."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    def layers(self) -> list[str]:
        """The directories of its layers, the top one first; those that are not unpacked yet are unpacked now.

        A layer that comes twice counts once, where it is uppermost: all that the lower one says, the upper one says
        again. (OverlayFS refuses a directory that is in the stack twice.) Without layers there is an empty directory.
        """
        pairs = zip(self.manifest["layers"], self.diff_ids, strict=True)
        found = [self.store.layer(layer, diff_id) for layer, diff_id in pairs][::-1]
        if not found:
            found = [f"{self.store.unpacked}/empty"]
            os.makedirs(found[0], exist_ok=True)
            os.chmod(found[0], 0o755)  # whatever the caller's umask
        return list(dict.fromkeys(found))

    def digests(self) -> set[str]:
        """All blobs that it consists of."""
        return {self.descriptor["digest"], self.id, *(layer["digest"] for layer in self.manifest["layers"])}

    def names(self) -> list[str]:
        """All its full names."""
        return [name for name, entry in self.store.tags().items() if entry["digest"] == self.descriptor["digest"]]

    def in_use(self) -> bool:
        """Whether a container runs that was made of it: that holds the config, see `container.Layers`."""
        lock = state.hold(self.store.blob(self.id))
        if lock is not None:
            os.close(lock)
        return lock is None


def make(store: Store, config: dict[str, Any], layers: list[Descriptor]) -> Image:
    """Store the config and a manifest for these layers, the base first. Hold `store.writing()` until it has a name."""
    document = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "config": store.put_json(config, media.CONFIG),
        "layers": layers,
    }
    return Image(store, store.put_json(document, media.MANIFEST))


def find(store: Store, word: str) -> Image:
    """The image of this full ID, else of this name, else whose ID begins so: Docker's order. Raises `NoSuchImage`.

    In another order, an image called `cafe` would be hidden by any image whose ID begins so.
    """
    digits = word.removeprefix("sha256:")
    hexadecimal = bool(digits) and not set(digits) - {*"0123456789abcdef"}
    if not (hexadecimal and len(digits) == 64) and (named := _named(store, word, hexadecimal)):
        return named
    begins = [image for image in images(store) if hexadecimal and image.id.startswith(f"sha256:{digits}")]
    if len(begins) > 1:
        raise ContainerError(f"{word}: {len(begins)} images have an ID that begins so: give more digits")
    if not begins:
        raise NoSuchImage(f"no such image: {parse(word).familiar}: see minidocker images, or pull it")
    return begins[0]


def _named(store: Store, word: str, lenient: bool) -> Image | None:
    """By its name, or by name and digest. What cannot be a name may be an ID still, if `lenient`."""
    try:
        wanted = parse(word)
    except ContainerError:
        if lenient:
            return None
        raise
    for full, descriptor in store.tags().items():
        if full == str(wanted):
            return Image(store, descriptor, full)
        if wanted.digest == descriptor["digest"] and parse(full).name == wanted.name:
            return Image(store, descriptor)
    return None


def images(store: Store) -> list[Image]:
    """All images of the index, each once. Those that only the build cache has, and what is none, are left out."""
    cached, found = store.steps().values(), []
    once = {entry["digest"]: entry for entry in store.entries() if entry not in cached}
    for entry in once.values():
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
    except NoSuchImage:
        raise
    except ContainerError:
        if not store.untag(word):
            raise
        collect(store, wait=False)
        return [f"Untagged: {parse(word).familiar}"]  # its documents are damaged, but it had a name
    names = image.names()
    if not image.name and len(names) > 1 and not force:
        raise ContainerError(f"{word}: it has {len(names)} names: remove each, or use --force")
    mine = [image.name] if image.name else names
    last, used = {*names} <= {*mine}, image.in_use()
    if last and used and not (force and image.name):
        remedy = "" if force else ": stop it first, or use --force with its name"
        raise ContainerError(f"{word}: a running container uses this image{remedy}")
    with store.writing():  # an image that stays has no name for a moment
        lines = [f"Untagged: {parse(full).familiar}" for full in mine if store.untag(full)]
        if last and used:
            store.tag("", image.descriptor)
    if last and not used:
        store.forget(image.descriptor["digest"], *_steps_to(store, image))
        lines.append(f"Deleted: {image.id}")
        collect(store, wait=False)
    return lines


def prune(store: Store, everything: bool = False) -> int:
    """Remove the images without a name, or all, that no container runs on; return how many bytes that freed."""
    named = set() if everything else {entry["digest"] for entry in store.tags().values()}
    digests = {entry["digest"] for entry in store.entries() if entry not in store.steps().values()}
    used = {image.descriptor["digest"] for image in images(store) if image.in_use()}
    store.forget(*(digests - named - used))
    return collect(store)


def _steps_to(store: Store, image: Image) -> list[str]:
    """The images of the build cache that led to this one, and to none that stays."""
    stay = [other.diff_ids for other in images(store) if other.descriptor["digest"] != image.descriptor["digest"]]
    found = []
    for entry in store.steps().values():
        with contextlib.suppress(ContainerError):
            made = Image(store, entry).diff_ids
            if made == image.diff_ids[: len(made)] and not any(made == other[: len(made)] for other in stay):
                found.append(entry["digest"])
    return found

"""Chapter 5: one image of the store: found by its name or its ID, made out of a config and layers, removed.

    image = find(store, "debian")            # or the first digits of its ID
    image.layers()                           # directories, the top one first, as Union wants them
    make(store, config, layers)              # a new one, without a name yet

The ID of an image is the digest of its config: that names the diff IDs of all layers, so it stands for all of it.
"""

from __future__ import annotations

from minidocker.images import manifest as media
from minidocker.images.garbage import collect
from minidocker.images.reference import parse
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidocker.images.manifest import Descriptor
    from minidocker.images.store import Store


class Image:
    """`descriptor` of the manifest, `manifest`, `config` (the documents), `id`. Read from the store, and checked."""

    def __init__(self, store: Store, descriptor: Descriptor) -> None:
        self.store, self.descriptor = store, descriptor
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
        """The directories of its layers, the top one first; those that are not unpacked yet are unpacked now."""
        pairs = zip(self.manifest["layers"], self.diff_ids, strict=True)
        return [self.store.layer(layer, diff_id) for layer, diff_id in pairs][::-1]

    def digests(self) -> set[str]:
        """All blobs that it consists of."""
        return {self.descriptor["digest"], self.id, *(layer["digest"] for layer in self.manifest["layers"])}


def make(store: Store, config: dict[str, Any], layers: list[Descriptor]) -> Image:
    """Store the config and a manifest for these layers, the base first. Hold `store.writing()` until it has a name."""
    document = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "config": store.put_json(config, media.CONFIG),
        "layers": layers,
    }
    return Image(store, store.put_json(document, media.MANIFEST))


def find(store: Store, name: str) -> Image:
    """The image of this name, or whose ID begins with these digits. Raises `ContainerError`."""
    wanted = name.removeprefix("sha256:")
    if len(wanted) >= 2 and not set(wanted) - {*"0123456789abcdef"}:
        found = {image.id: image for image in images(store) if image.id.startswith(f"sha256:{wanted}")}
        if len(found) > 1:
            raise ContainerError(f"{name}: {len(found)} images have an ID that begins so: give more digits")
        if found:
            return found.popitem()[1]
    reference = parse(name)
    for full, descriptor in store.tags().items():
        repository = full.startswith(f"{reference.registry}/{reference.repository}:")
        by_digest = repository and reference.digest == descriptor["digest"]
        if full == str(reference) or by_digest:
            return Image(store, descriptor)
    raise ContainerError(f"no such image: {reference.familiar}: see minidocker images, or pull it")


def images(store: Store) -> list[Image]:
    """All images of the index, each once; a manifest list that another tool put there is left out."""
    once = {entry["digest"]: entry for entry in store.entries() if entry.get("mediaType") in media.MANIFESTS}
    return [Image(store, entry) for entry in once.values()]


def remove(store: Store, name: str, force: bool = False) -> list[str]:
    """Take a name away; with its last name the image goes, too. Return what happened, a line each.

    Layers that another image, or a running container, still uses stay.
    """
    image = find(store, name)
    names = [full for full, entry in store.tags().items() if entry["digest"] == image.descriptor["digest"]]
    by_id = image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
    if by_id and len(names) > 1 and not force:
        raise ContainerError(f"{name}: it has {len(names)} names: remove each, or use --force")
    mine = names if by_id else [str(parse(name))]
    lines = [f"Untagged: {parse(full).familiar}" for full in mine if store.untag(full)]
    if set(names) <= set(mine):
        store.forget(image.descriptor["digest"])
        lines.append(f"Deleted: {image.id}")
        collect(store, wait=False)
    return lines

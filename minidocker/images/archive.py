"""Chapter 5: an image in one file: to carry it on a stick, through a pipe, or to another engine.

    with open("app.tar", "wb") as file:
        save(Store(), ["app:1.2", "debian"], file)
    with open("app.tar", "rb") as file:
        load(Store(), file)

Two formats are in use. An oci-archive is an image layout (the one of our store) in a tar. A docker-archive has
manifest.json, a list of {"Config", "RepoTags", "Layers"}: names of other files in the same tar. `save` writes one file
that is both, as Docker does since version 25: manifest.json may name the blobs of the layout. `load` reads all three.
Sources: the OCI image specification, image-layout.md; Docker's image specification v1.2, "Combined Image JSON +
Filesystem Changeset Format".
"""

from __future__ import annotations

import json
import os

from minidocker.images import manifest as media
from minidocker.images import tar
from minidocker.images.garbage import bringing
from minidocker.images.image import Image, find
from minidocker.images.members import CHUNK, GZIP, ZSTD, Members, reading, uncompressed
from minidocker.images.pack import Packer
from minidocker.images.reference import check_digest, parse
from minidocker.images.store import REF_NAME
from minidocker.outcome import ContainerError

FULL_NAME = "io.containerd.image.name"  # where Docker and containerd look first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from minidocker.images.manifest import Descriptor
    from minidocker.images.store import Store


# --- save ------------------------------------------------------------------------------------------------------------


def save(store: Store, names: list[str], stream: BinaryIO) -> None:
    """Write these images as an archive. The same images give the same bytes: no times, no owners."""
    with store.writing():
        chosen = [(name, find(store, name)) for name in names]
        blobs = sorted(set[str]().union(*(image.digests() for _, image in chosen)))
        for digest in blobs:
            if not store.has(digest):
                raise ContainerError(f"{digest}: this part of the image is not in the store: pull or load it again")
        _add(stream, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        _add(stream, "index.json", _index(chosen))
        _add(stream, "manifest.json", _docker_manifest(chosen))
        for digest in blobs:
            _add_blob(stream, digest, store.blob(digest))
        stream.write(tar.END)


def _name_of(name: str, image: Image) -> str:
    """The full name under which an image was asked for; nothing if that was its ID, or a digest."""
    digits = name.removeprefix("sha256:")
    by_id = len(digits) > 1 and image.id.removeprefix("sha256:").startswith(digits)
    return "" if by_id or parse(name).digest else str(parse(name))


def _index(chosen: list[tuple[str, Image]]) -> dict[str, Any]:
    entries = []
    for name, image in chosen:
        entry = {key: image.descriptor[key] for key in ("mediaType", "digest", "size")}
        if full := _name_of(name, image):
            entry["annotations"] = {FULL_NAME: full, REF_NAME: parse(full).familiar}
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": entries}


def _docker_manifest(chosen: list[tuple[str, Image]]) -> list[dict[str, Any]]:
    """Each image once, with all its names."""
    images = {image.id: image for _, image in chosen}
    names: dict[str, list[str]] = {digest: [] for digest in images}
    for name, image in chosen:
        names[image.id] += [parse(full).familiar for full in [_name_of(name, image)] if full]
    return [
        {
            "Config": _path(image.id),
            "RepoTags": names[image.id] or None,
            "Layers": [_path(layer["digest"]) for layer in image.manifest["layers"]],
        }
        for image in images.values()
    ]


def _path(digest: str) -> str:
    """Where a layout has a blob."""
    return f"blobs/sha256/{check_digest(digest)}"


def _add(stream: BinaryIO, name: str, value: object) -> None:
    data = json.dumps(value, separators=(",", ":")).encode()
    stream.write(tar.write(tar.Entry(name.encode(), size=len(data))) + tar.fill(data))


def _add_blob(stream: BinaryIO, digest: str, path: str) -> None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        stream.write(tar.write(tar.Entry(_path(digest).encode(), size=size)))
        while data := file.read(CHUNK):
            stream.write(data)
    stream.write(bytes(tar.padded(size) - size))


# --- load ------------------------------------------------------------------------------------------------------------


def load(store: Store, stream: BinaryIO, what: str = "the archive") -> list[str]:
    """Bring all images of an archive into the store; return their names, or IDs of those that have none.

    Needs root, to unpack. Raises `ContainerError`, and leaves nothing then.
    """
    with bringing(store, what), store.place() as directory, reading(what):
        members = Members(uncompressed(stream), directory)
        if "index.json" in members and "oci-layout" in members:
            found = _oci_images(store, members)
        elif "manifest.json" in members:
            found = [_docker_image(store, members, item) for item in _docker_items(members)]
        else:
            raise ContainerError(f"{what}: it has neither index.json nor manifest.json: minidocker import takes files")
        for image, _ in found:
            image.layers()
        for image, names in found:
            for name in names:
                store.tag(name, image.descriptor)
    return [line for image, names in found for line in [*names] or [image.id]]


def _oci_images(store: Store, members: Members) -> list[tuple[Image, list[str]]]:
    """The images of an OCI layout, and their names; of several platforms' the one that is this machine's."""
    entries = media.parsed(members.small("index.json")).get("manifests")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        descriptor = media.check_descriptor(entry, (*media.INDEXES, *media.MANIFESTS))
        notes = entry["annotations"] if isinstance(entry.get("annotations"), dict) else {}
        name = notes.get(FULL_NAME) or notes.get(REF_NAME)
        while descriptor["mediaType"] in media.INDEXES:
            index = media.parsed(members.small(_path(descriptor["digest"])), descriptor)
            descriptor = media.for_platform(index)
        manifest = media.check_manifest(media.parsed(members.small(_path(descriptor["digest"])), descriptor))
        for blob in (manifest["config"], *manifest["layers"], descriptor):
            _keep(store, members.find(_path(blob["digest"])), blob)
        found.append((Image(store, descriptor), [str(parse(name))] if isinstance(name, str) else []))
    return found


def _keep(store: Store, member: Descriptor, claimed: Descriptor) -> None:
    """Move a member to its place as a blob, if it is what its descriptor says."""
    if (member["digest"], member["size"]) != (claimed["digest"], claimed["size"]):
        raise ContainerError(f"{claimed['digest']}: the archive has {member['size']} bytes {member['digest']} for it")
    if not store.has(claimed["digest"]):
        with open(member["path"], "r+b") as file:
            store.keep(file, claimed["digest"])
        member["path"] = store.blob(claimed["digest"])


def _docker_items(members: Members) -> list[dict[str, Any]]:
    """The list in manifest.json."""
    items = media.parsed(b'{"items":' + members.small("manifest.json") + b"}").get("items")
    for item in items if isinstance(items, list) else [None]:
        texts = [item.get("Config"), *(item.get("Layers") or [None])] if isinstance(item, dict) else [None]
        tags = (item.get("RepoTags") or []) if isinstance(item, dict) else []
        if not all(isinstance(text, str) for text in (*texts, *tags)):
            raise ContainerError("manifest.json of the archive is no list of images, each with Config and Layers")
    return list(items or [])


def _docker_image(store: Store, members: Members, item: dict[str, Any]) -> tuple[Image, list[str]]:
    """An image of a docker-archive, which has no manifest: we write one. Its config stays as it is, and so its ID."""
    data = members.small(item["Config"])
    diff_ids = media.check_config(media.parsed(data), len(item["Layers"]))["rootfs"]["diff_ids"]
    pairs = zip(item["Layers"], diff_ids, strict=True)
    document = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "config": store.put(data, media.CONFIG),
        "layers": [_docker_layer(store, members.find(name), diff_id) for name, diff_id in pairs],
    }
    names = [str(parse(tag)) for tag in item.get("RepoTags") or []]
    return Image(store, store.put_json(document, media.MANIFEST)), names


def _docker_layer(store: Store, member: Descriptor, diff_id: str) -> Descriptor:
    """A layer of a docker-archive; most are not compressed there, and are here: the store holds what travels."""
    with open(member["path"], "rb") as file:
        magic = file.read(4)
    kind = media.LAYER_ZSTD if magic == ZSTD else media.LAYER_GZIP
    if magic == ZSTD or magic.startswith(GZIP):
        descriptor = {"mediaType": kind, "digest": member["digest"], "size": member["size"]}
        _keep(store, member, descriptor)
        return descriptor
    if member["digest"] != diff_id:
        raise ContainerError(f"a layer has the digest {member['digest']}, and the config says {diff_id}")
    if "packed" not in member:  # two images of one archive may share it
        with open(member["path"], "rb") as file:
            member["packed"] = packed(store, file)[0]
    return dict(member["packed"])


def packed(store: Store, stream: BinaryIO) -> tuple[Descriptor, str]:
    """Store a tar as a layer; return its descriptor and its diff ID."""
    with store.incoming() as target:
        packer = Packer(target)
        while data := stream.read(CHUNK):
            packer.write(data)
        packer.close()
        store.keep(target, packer.digest)
    return {"mediaType": media.LAYER_GZIP, "digest": packer.digest, "size": packer.size}, packer.diff_id

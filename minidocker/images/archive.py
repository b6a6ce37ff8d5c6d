"""Chapter 5: an image in one file, to carry it on a stick, through a pipe, or to another engine.

    save(Store(), ["app:1.2", "debian"], file)                 # with its layers, its config, and its names
    load(Store(), file.fileno())
    export(find(Store(), "app"), file.fileno())                # only its files, as a container would see them
    import_(Store(), file.fileno(), "mine:1")

Two formats are in use. An oci-archive is an image layout (the one of our store) in a tar. A docker-archive has
manifest.json, a list of {"Config", "RepoTags", "Layers"}: names of other files in the same tar. `save` writes one file
that is both, as Docker does since version 25: manifest.json may name the blobs of the layout. `load` reads all three.
Sources: the OCI image specification, image-layout.md; Docker's image specification v1.2, "Combined Image JSON +
Filesystem Changeset Format".
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import stat
from functools import partial

from minidocker.images import manifest as media
from minidocker.images import tar
from minidocker.images.container import Layers
from minidocker.images.image import Image, find, make
from minidocker.images.layer import CHUNK
from minidocker.images.layer.compressed import GZIP, ZSTD
from minidocker.images.layer.pack import Packer, write_layer
from minidocker.images.layer.unpack import decompressed, unpack_from
from minidocker.images.manifest import check_digest, parse
from minidocker.images.store import REF_NAME
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.syscalls import openat2
from minidocker.union import Union

FULL_NAME = "io.containerd.image.name"  # where Docker and containerd look first
RESOLVE_IN_ROOT = 0x10  # <linux/openat2.h>: the directory is the root of links, too

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, BinaryIO

    from minidocker.images.manifest import Descriptor
    from minidocker.images.store import Store


def save(store: Store, names: Sequence[str], stream: BinaryIO) -> None:
    """Write these images as an archive. The same images give the same bytes: no times, no owners."""
    with store.writing():
        chosen = [find(store, name) for name in names]
        blobs = sorted(set[str]().union(*(image.digests() for image in chosen)))
        for digest in blobs:
            if not store.has(digest):
                raise ContainerError(f"{digest}: this part of the image is not in the store: pull or load it again")
        _add(stream, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        _add(stream, "index.json", _index(chosen))
        _add(stream, "manifest.json", _docker_manifest(chosen))
        for digest in blobs:
            with open(store.blob(digest), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                stream.write(tar.write(tar.Entry(_path(digest).encode(), size=size)))
                while data := file.read(CHUNK):
                    stream.write(data)
                stream.write(bytes(tar.padded(size) - size))
        stream.write(tar.END)


def _index(chosen: list[Image]) -> dict[str, Any]:
    entries = []
    for image in chosen:
        entry = {key: image.descriptor[key] for key in ("mediaType", "digest", "size")}
        if image.name:
            entry["annotations"] = {FULL_NAME: image.name, REF_NAME: parse(image.name).familiar}
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": entries}


def _docker_manifest(chosen: list[Image]) -> list[dict[str, Any]]:
    """Each image once, with all its names."""
    return [
        {
            "Config": _path(image.id),
            "RepoTags": [parse(one.name).familiar for one in chosen if one.id == image.id and one.name] or None,
            "Layers": [_path(layer["digest"]) for layer in image.manifest["layers"]],
        }
        for image in {image.id: image for image in chosen}.values()
    ]


def _path(digest: str) -> str:
    """Where a layout has a blob."""
    return f"blobs/sha256/{check_digest(digest)}"


def _add(stream: BinaryIO, name: str, value: object) -> None:
    data = json.dumps(value, separators=(",", ":")).encode()
    stream.write(tar.write(tar.Entry(name.encode(), size=len(data))) + tar.fill(data))


def load(store: Store, source: int, what: str = "the archive") -> list[str]:
    """Bring all images of an archive into the store; return their names, or IDs of those that have none.

    `source` is a descriptor, of a file or a pipe. The archive is unpacked where a layer would be, behind the same
    walls. Needs root. Raises `ContainerError`, and leaves nothing then.
    """
    with store.bringing(what), store.place() as directory:
        try:
            unpack_from(source, directory)
        except ContainerError as bad:
            raise ContainerError(f"{what}: not an archive that can be read: {bad}") from None
        archive = _Archive(store, directory)
        found = [*(archive.images() if archive.has("index.json") and archive.has("oci-layout") else archive.dockers())]
        for image, _ in found:
            image.layers()
        for image, names in found:
            for name in names:
                store.tag(name, image.descriptor)
            if not names:
                store.tag("", image.descriptor)
    return [line for image, names in found for line in [*names] or [image.id]]


class _Archive:
    """The directory that an archive was unpacked in: anybody's names and links, none of which leads out of it."""

    def __init__(self, store: Store, directory: str) -> None:
        self.store, self.directory = store, directory

    def open(self, name: str) -> BinaryIO:
        """A regular file: a FIFO would be waited for, and a device do something."""
        root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            file = openat2(root, name.lstrip("/"), os.O_PATH | os.O_CLOEXEC, RESOLVE_IN_ROOT)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise FileNotFoundError
                return open(f"/proc/self/fd/{file}", "rb")
            finally:
                os.close(file)
        except (OSError, ValueError):
            raise ContainerError(f"the archive speaks of {name[:80]!r}, and has no such file") from None
        finally:
            os.close(root)

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return os.path.lexists(f"{self.directory}/{name}")

    def small(self, name: str) -> bytes:
        """The content of a JSON document."""
        with self.open(name) as file:
            return file.read(media.MAX_JSON + 1)

    def images(self) -> Iterator[tuple[Image, list[str]]]:
        """The images of an OCI layout, and their names; of several platforms' the one that is this machine's."""
        entries = media.parsed(self.small("index.json")).get("manifests")
        listed = [media.check_descriptor(entry) for entry in entries] if isinstance(entries, list) else []
        for entry in list(filter(media.fits, listed)) or listed:
            descriptor = media.check_descriptor(entry, (*media.INDEXES, *media.MANIFESTS))
            notes = entry["annotations"] if isinstance(entry.get("annotations"), dict) else {}
            name = notes.get(FULL_NAME) or notes.get(REF_NAME)
            while descriptor["mediaType"] in media.INDEXES:
                descriptor = media.for_platform(media.parsed(self.small(_path(descriptor["digest"])), descriptor))
            manifest = media.check_manifest(media.parsed(self.small(_path(descriptor["digest"])), descriptor))
            for blob in (manifest["config"], *manifest["layers"], descriptor):
                self.keep(_path(blob["digest"]), blob)
            yield Image(self.store, descriptor), [str(parse(name))] if isinstance(name, str) else []

    def keep(self, name: str, claimed: Descriptor) -> Descriptor:
        """Copy a file to its place as a blob, if it is what its descriptor says, and that says a digest."""
        with self.open(name) as file, self.store.incoming() as target:
            digest, size = hashlib.sha256(), 0
            while data := file.read(CHUNK):
                digest.update(data)
                size += target.write(data)
            is_: Descriptor = {"digest": f"sha256:{digest.hexdigest()}", "size": size}
            if {**claimed, **is_} != {**is_, **claimed}:
                raise ContainerError(f"{claimed['digest']}: the archive has {size} bytes {is_['digest']} for it")
            self.store.keep(target, is_["digest"])
        return {**claimed, **is_}

    def dockers(self) -> Iterator[tuple[Image, list[str]]]:
        """The images of a docker-archive, which has no manifest: we write one. The config stays, and so the ID."""
        if not self.has("manifest.json"):
            raise ContainerError("the archive has neither index.json nor manifest.json: minidocker import takes files")
        layers: dict[str, Descriptor] = {}
        for item in self.items():
            data = self.small(item["Config"])
            names = item["Layers"] or []
            diff_ids = media.check_config(media.parsed(data), len(names))["rootfs"]["diff_ids"]
            for name, diff_id in zip(names, diff_ids, strict=True):
                layers[name] = layers.get(name) or self.layer(name, diff_id)
            document = {
                "schemaVersion": 2,
                "mediaType": media.MANIFEST,
                "config": self.store.put(data, media.CONFIG),
                "layers": [layers[name] for name in names],
            }
            tags = [str(parse(tag)) for tag in item.get("RepoTags") or []]
            yield Image(self.store, self.store.put_json(document, media.MANIFEST)), tags

    def items(self) -> list[dict[str, Any]]:
        """The list in manifest.json."""
        items = media.parsed(b'{"items":' + self.small("manifest.json") + b"}").get("items")
        for item in items if isinstance(items, list) else [None]:
            texts = [item.get("Config"), *(item.get("Layers") or [])] if isinstance(item, dict) else [None]
            tags = (item.get("RepoTags") or []) if isinstance(item, dict) else []
            if not all(isinstance(text, str) for text in (*texts, *tags)):
                raise ContainerError("manifest.json of the archive is no list of images, each with Config and Layers")
        return list(items or [])

    def layer(self, name: str, diff_id: str) -> Descriptor:
        """A layer of a docker-archive; most are not compressed there, and are here: the store holds what travels."""
        with self.open(name) as file:
            magic = os.pread(file.fileno(), 4, 0)
            if magic == ZSTD or magic.startswith(GZIP):
                return self.keep(name, {"mediaType": media.LAYER_ZSTD if magic == ZSTD else media.LAYER_GZIP})
            descriptor, its = packed(self.store, file.fileno())
        if its != diff_id:
            raise ContainerError(f"a layer has the digest {its}, and the config says {diff_id}")
        return descriptor


def packed(store: Store, source: int) -> tuple[Descriptor, str]:
    """Store a tar, compressed or not, as a layer; return its descriptor and its diff ID."""
    with store.incoming() as target:
        packer = Packer(target)
        with decompressed(source) as stream:
            while data := stream.read(CHUNK):
                packer.write(data)
        packer.close()
        store.keep(target, packer.digest)
    return {"mediaType": media.LAYER_GZIP, "digest": packer.digest, "size": packer.size}, packer.diff_id


def import_(store: Store, source: int, name: str = "", changes: Sequence[str] = (), comment: str = "Imported") -> Image:
    """Make an image of one layer of a tar, compressed or not; `changes`: instructions that set its config ("USER www").

    The tar is checked as any layer is, by unpacking it in the jail. Needs root. Raises `ContainerError`.
    """
    from minidocker.images.build.config import configured

    config = configured(changes)
    if name:
        parse(name)
    with store.bringing(name or "import"):
        layer, diff_id = packed(store, source)
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
        store.tag(name, image.descriptor)
        return image


def export(image: Image, descriptor: int) -> None:
    """Write the files of an image, as a container would see them, as a tar to a file descriptor. Needs root."""
    layers = image.layers()
    union = Union(layers)
    result = run(partial(_write, union.root), Layers(layers), union, stdout=descriptor)
    if result.exit_code:  # an error has been raised already; this is a process that was killed
        raise ContainerError(f"export: it ended with {result.exit_code} before all files were written: try again")


def _write(root: str) -> None:
    """To descriptor 1. Runs as root in the mount namespace of the union, where that is mounted, and nowhere else."""
    with open(1, "wb", closefd=False) as stream:
        write_layer(root, stream)

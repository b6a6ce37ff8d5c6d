"""Chapter 5: an image in one file, to carry it on a stick, through a pipe, or to another engine.

    save(Store(), ["app:1.2", "debian"], file)                 # with its layers, its config, and its names
    load(Store(), file.fileno())
    export(find(Store(), "app"), file.fileno())                # only its files, as a container would see them
    import_(Store(), file.fileno(), "mine:1")

An oci-archive is an image layout in a tar. A docker-archive has manifest.json, a list of {"Config", "RepoTags",
"Layers"}: names of files in the same tar. `save` writes one file that is both, as Docker does since version 25.
Sources: the OCI image specification, image-layout.md; Docker's image specification v1.2.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO

from minidocker.images import manifest as media
from minidocker.images import tar
from minidocker.images.build.copy import opened
from minidocker.images.image import Image, find, make
from minidocker.images.layer.pack import write_layer
from minidocker.images.layer.unpack import carry, decompressed, unpack
from minidocker.images.manifest import Descriptor, check_digest, parse
from minidocker.images.store import REF_NAME, Store, entry_of
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.union import Union

FULL_NAME = "io.containerd.image.name"  # where Docker and containerd look first
Found = tuple[Image, list[str]]  # and its names


def save(store: Store, names: Sequence[str], stream: BinaryIO) -> None:
    """Write these images as an archive. The same images give the same bytes: no times, no owners."""
    with store.writing():
        blobs, entries, items = set[str](), list[Descriptor](), dict[str, dict[str, Any]]()
        for image in [find(store, name) for name in names]:
            blobs |= image.digests()
            layers = [_path(layer["digest"]) for layer in image.manifest["layers"]]
            item = items.setdefault(image.id, {"Config": _path(image.id), "RepoTags": [], "Layers": layers})
            notes = {FULL_NAME: image.name, REF_NAME: parse(image.name).familiar} if image.name else {}
            item["RepoTags"] += [notes[REF_NAME]] if notes else []
            entries.append(entry_of(image.descriptor, notes))
        files = {_path(digest): store.stored(digest) for digest in sorted(blobs)}
        index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": entries}
        layout = {"imageLayoutVersion": "1.0.0"}
        for name, value in {"oci-layout": layout, "index.json": index, "manifest.json": [*items.values()]}.items():
            _add(stream, name, io.BytesIO(json.dumps(value, separators=(",", ":")).encode()))
        for name, path in files.items():
            with open(path, "rb") as file:
                _add(stream, name, file, store.show)
        stream.write(tar.END)


def _path(digest: str) -> str:
    """Where a layout has a blob."""
    return f"blobs/sha256/{check_digest(digest)}"


def _add(stream: BinaryIO, name: str, file: BinaryIO, show: bool = False) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    stream.write(tar.write(tar.Entry(name.encode(), size=size)))
    carry(file, stream, os.path.basename(name)[:12], size, show)
    stream.write(bytes(tar.padded(size) - size))


def load(store: Store, source: int, what: str = "the archive") -> list[str]:
    """Bring all images of an archive, a file or a pipe, into the store; return their names, or IDs where there is none.

    It is unpacked as a layer is, behind the same walls. Needs root. Raises `ContainerError`, and leaves nothing then.
    """
    with store.bringing(what), store.place() as directory:
        unpack(source, directory, what=f"{what}: not an archive that can be read", show=store.show)
        there, archive = os.listdir(directory), _Archive(store, directory)
        if not {"index.json", "manifest.json"}.intersection(there):
            raise ContainerError("the archive has neither index.json nor manifest.json: minidocker import takes files")
        found = [*(archive.layout() if {"index.json", "oci-layout"} <= {*there} else archive.dockers())]
        for image, _ in found:
            image.layers()
        for image, names in found:
            for name in names or [""]:
                store.tag(name, image.descriptor)
    return [line for image, names in found for line in names or [image.id]]


class _Archive:
    """The directory that an archive was unpacked in: anybody's names and links, none of which leads out of it."""

    def __init__(self, store: Store, directory: str) -> None:
        self.store, self.directory = store, directory

    def open(self, name: str) -> io.BufferedReader:
        """A regular file: a FIFO would be waited for, and a device do something."""
        root = opened(None, self.directory)
        with contextlib.suppress(OSError, ValueError), root as top, opened(top, name, os.O_PATH) as file:
            if stat.S_ISREG(os.fstat(file).st_mode):
                return open(f"/proc/self/fd/{file}", "rb")
        raise ContainerError(f"the archive speaks of {name[:80]!r}, and has no such file")

    def small(self, name: str) -> bytes:
        """The content of a JSON document."""
        with self.open(name) as file:
            return file.read(media.MAX_JSON + 1)

    def document(self, descriptor: Descriptor) -> dict[str, Any]:
        """A JSON document that is a blob of the layout."""
        return media.parsed(self.small(_path(descriptor["digest"])), descriptor)

    def layout(self) -> Iterator[Found]:
        """The images of an OCI layout; of several platforms' the one that is this machine's."""
        entries = media.listed(media.parsed(self.small("index.json"), what="index.json of the archive"))
        for entry in [entry for entry in entries if media.fits(entry)] or entries:
            descriptor = media.check_descriptor(entry, (*media.INDEXES, *media.MANIFESTS))
            while descriptor["mediaType"] in media.INDEXES:
                descriptor = media.for_platform(self.document(descriptor))
            manifest = media.check_manifest(self.document(descriptor))
            for blob in (manifest["config"], *manifest["layers"], descriptor):
                self.keep(blob)
            notes = entry["annotations"] if isinstance(entry.get("annotations"), dict) else {}
            name = notes.get(FULL_NAME) or notes.get(REF_NAME)
            yield Image(self.store, descriptor), [str(parse(name))] if isinstance(name, str) else []

    def keep(self, blob: Descriptor) -> None:
        """Copy a file to its place as a blob, if it is what its descriptor says."""
        with self.open(_path(blob["digest"])) as file, self.store.incoming() as target:
            carry(file, target, blob["digest"].removeprefix("sha256:")[:12], blob["size"], self.store.show)
            self.store.keep(target, blob["mediaType"], blob, "the archive")

    def dockers(self) -> Iterator[Found]:
        """The images of a docker-archive, which has no manifest: we write one. The config stays, and so the ID.

        Most layers are not compressed there, and all are here: the store holds what travels.
        """
        layers: dict[str, Descriptor] = {}
        for config, names, tags in self.items():
            data = self.small(config)
            diff_ids = media.check_config(media.parsed(data, what="a config"), len(names))["rootfs"]["diff_ids"]
            for name, diff_id in zip(names, diff_ids, strict=True):
                if name not in layers:
                    with self.open(name) as file, decompressed(file.fileno()) as stream:
                        layers[name], its = self.store.add_layer(stream)
                    if its != diff_id:
                        raise ContainerError(f"a layer has the digest {its}, and the config says {diff_id}")
            yield make(self.store, data, [layers[name] for name in names]), [str(parse(tag)) for tag in tags]

    def items(self) -> list[tuple[str, list[str], list[str]]]:
        """The list in manifest.json: of each image the file of its config, those of its layers, and its tags."""
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError, RecursionError):
            items = json.loads(self.small("manifest.json"))
            found = [(item["Config"], item["Layers"] or [], item.get("RepoTags") or []) for item in items]
            texts = [text for config, layers, tags in found for text in (config, *layers, *tags)]
            if isinstance(items, list) and all(isinstance(text, str) for text in texts):
                return found
        raise ContainerError("manifest.json of the archive is no list of images, each with Config and Layers")


def import_(store: Store, source: int, name: str = "", changes: Sequence[str] = (), comment: str = "Imported") -> Image:
    """Make an image of one layer of a tar, compressed or not; `changes`: instructions that set its config ("USER www").

    Needs root: it is unpacked at once, as any layer is.
    """
    from minidocker.images.build.dockerfile import configured

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    history = [{"created": created, "comment": comment}]
    document = {**media.platform(), "created": created, "config": configured(changes), "history": history}
    if name:
        parse(name)
    with store.bringing(name or "import"):
        with decompressed(source) as stream:
            layer, diff_id = store.add_layer(stream)
        image = make(store, {**document, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}, [layer])
        image.layers()
        store.tag(name, image.descriptor)
        return image


def export(image: Image, descriptor: int, upper: str = "") -> None:
    """Write the files of an image, or of a container that changes them in `upper`, as a tar to a descriptor."""
    layers = image.layers()
    union = Union([*filter(None, [upper]), *layers], held=layers)
    if run(partial(_write, union.root), union, stdout=descriptor).exit_code:
        raise ContainerError("export: it was killed before all files were written: try again")


def _write(root: str) -> None:
    """To descriptor 1. Runs as root in the mount namespace of the union, where that is mounted, and nowhere else."""
    with open(1, "wb", closefd=False) as stream:
        write_layer(root, stream, live=True)

"""Chapter 5: the store. An OCI image layout that other tools can read in place, and beside it the layers, unpacked once.

    images/oci-layout, index.json, blobs/sha256/…      the OCI image layout: everything by its digest, and names for it
    layers/sha256/…                                    each layer's files, by the digest of its tar (its diff ID)
    tmp/…                                              what is being made; it moves into place by a rename, or is litter

A name is a tag in index.json (annotation org.opencontainers.image.ref.name); it points to a manifest, which points to a
config and to layers. Whoever writes holds a shared lock, so that `prune`, which holds it alone, removes no blob that is
just about to get its name. Source: the OCI image specification, image-layout.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil

from minidocker.images.unpack import unpack
from minidocker.outcome import ContainerError

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
NAME = "org.opencontainers.image.ref.name"
MEDIA = "application/vnd.oci.image."
MANIFEST, CONFIG, INDEX = f"{MEDIA}manifest.v1+json", f"{MEDIA}config.v1+json", f"{MEDIA}index.v1+json"
LAYER = f"{MEDIA}layer.v1.tar+gzip"
MAX_JSON = 4 << 20  # the OCI distribution specification's limit for a manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    Descriptor = dict[str, Any]  # mediaType, digest, size: how the OCI formats point to a blob


class Store:
    """All images below one directory. Any number of processes may use it at once. Needs root, for the layers' owners."""

    def __init__(self, home: str = HOME) -> None:
        self.home = home
        self.layout = os.path.join(home, "images")
        self.tmp = os.path.join(home, "tmp")
        for directory in (os.path.join(self.layout, "blobs/sha256"), os.path.join(home, "layers/sha256"), self.tmp):
            os.makedirs(directory, exist_ok=True)
        if not os.path.exists(os.path.join(self.layout, "oci-layout")):
            self._replace("oci-layout", {"imageLayoutVersion": "1.0.0"})

    def blob(self, digest: str) -> str:
        """The path of a blob, whether it is there or not. A digest comes from outside: it is checked before it is a path."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ContainerError(f"{digest!r} is no digest: sha256 and 64 hexadecimal digits are expected")
        return os.path.join(self.layout, "blobs/sha256", value)

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Store a small blob; return its descriptor."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not os.path.exists(self.blob(digest)):
            with self.incoming() as file:
                file.write(data)
                self.keep(file, digest)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def put_json(self, value: object, media_type: str) -> Descriptor:
        """Store a JSON document, always in the same spelling, since its digest is its name."""
        return self.put(json.dumps(value, separators=(",", ":"), sort_keys=True).encode(), media_type)

    def get_json(self, descriptor: Descriptor) -> dict[str, Any]:
        """Read a JSON blob, and believe it only if its digest and shape are right."""
        path = self.blob(descriptor["digest"])
        try:
            if os.path.getsize(path) > MAX_JSON:
                raise ContainerError(f"{descriptor['digest']}: a manifest or config of more than {MAX_JSON} bytes")
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise ContainerError(f"{descriptor['digest']}: this blob is not in the store") from None
        return parsed(data, descriptor["digest"])

    @contextlib.contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A temporary file; `keep` gives it its place, else it is removed."""
        path = os.path.join(self.tmp, os.urandom(8).hex())
        with open(path, "xb") as file:
            try:
                yield file
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def keep(self, file: BinaryIO, digest: str) -> None:
        """Move a temporary file, whose digest has been checked, to its place: on disk first, then by its name, at once."""
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, self.blob(digest))

    def layer(self, descriptor: Descriptor, diff_id: str) -> str:
        """The directory with the files of a layer, unpacked now if it is not yet: once, whoever uses it."""
        target = os.path.join(self.home, "layers/sha256", os.path.basename(self.blob(diff_id)))
        if not os.path.isdir(target):
            place = os.path.join(self.tmp, os.urandom(8).hex())
            os.mkdir(place, 0o755)
            try:
                unpack(self.blob(descriptor["digest"]), place, diff_id)
                with contextlib.suppress(FileExistsError, OSError):  # another process was faster with the same layer
                    os.rename(place, target)
            finally:
                shutil.rmtree(place, ignore_errors=True)
        return target

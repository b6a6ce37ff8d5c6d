"""Chapter 5: a registry is a web server with a dozen addresses. This is a client of it, address by address.

    with Registry("docker.io", "library/busybox") as registry:
        data, descriptor = registry.manifest("latest")
        registry.fetch(layer, file)

    GET   /v2/NAME/manifests/TAG-OR-DIGEST      what the image consists of
    GET   /v2/NAME/blobs/DIGEST                 one part of it
    HEAD  the same                              is it there?
    POST  /v2/NAME/blobs/uploads/               a new upload; then PUT it at once, or PATCH it in pieces and PUT the end
    PUT   /v2/NAME/manifests/TAG                the image, when all its parts are there

What comes from there is believed if digest and size are those that were asked for, and never read further than that.
Connections break: a blob then goes on where it stopped. Source: the OCI distribution specification, spec.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import time

from minidocker.images import manifest as media
from minidocker.images.answers import number, printable, rest
from minidocker.images.connection import Connection, Unreachable
from minidocker.images.reference import check_digest
from minidocker.outcome import ContainerError

PIECE = 16 << 20  # bytes of one PATCH, and of the largest blob that is sent at once: what is in memory, for each upload
ACCEPT = ", ".join((*media.INDEXES, *media.MANIFESTS))
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from urllib3 import BaseHTTPResponse

    from minidocker.images.manifest import Descriptor

    Advance = Callable[[int], object]  # told of each piece that has passed; negative if it comes once more


class Registry(Connection):
    """One repository of a registry. Errors are `ContainerError`; `Unreachable` is the kind that may pass."""

    def __init__(self, name: str, repository: str) -> None:
        super().__init__(name)
        self.repository = repository

    def __enter__(self) -> Registry:
        return self

    # --- reading -------------------------------------------------------------------------------------------------

    def manifest(self, reference: str) -> tuple[bytes, Descriptor]:
        """A manifest or an index by its tag or digest, as it is spelled there, and its descriptor."""
        response = self.request("GET", self._at(f"manifests/{reference}"), (200,), {"Accept": ACCEPT})
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        told = response.headers.get("Docker-Content-Digest", "")
        data = self.content(response, media.MAX_JSON)
        document = media.parsed(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for wanted in (told, reference):
            if wanted.startswith("sha256:") and wanted != digest:
                raise ContainerError(f"{self.name}: it sent a manifest with the digest {digest} as {printable(wanted)}")
        if kind.startswith(SCHEMA_1) or document.get("schemaVersion") == 1:
            raise ContainerError(
                f"{self.name}: {reference} is of schema 1, which names no sizes: it has to be pushed anew"
            )
        if document.get("mediaType", kind) != kind:
            raise ContainerError(f"{self.name}: {reference}: it came as {printable(kind)}, and is none")
        return data, media.check_descriptor(
            {"mediaType": kind, "digest": digest, "size": len(data)}, (*media.INDEXES, *media.MANIFESTS)
        )

    def fetch(self, descriptor: Descriptor, file: BinaryIO, advance: Advance) -> None:
        """Write a blob into an empty file; go on after each interruption, up to `retries` times."""
        blob = Exactly(descriptor, file, advance)
        for attempt in range(self.retries + 1):
            try:
                self._receive(blob)
                return blob.check()
            except Unreachable:
                if blob.done == blob.size:
                    return blob.check()  # only the end of the answer was cut off
                if attempt == self.retries:
                    raise
            time.sleep(self.backoff * 2**attempt)

    def _receive(self, blob: Exactly) -> None:
        """Ask for what is still missing, and write what comes."""
        asked = blob.done
        headers = {"Range": f"bytes={asked}-"} if asked else {}
        response = self.request("GET", self._at(f"blobs/{blob.digest}"), (200, 206) if asked else (200,), headers)
        with contextlib.closing(response):
            if response.status == 200:
                blob.restart()
            self._check_announced(blob, response)
            for data in self.pieces(response, blob.size - blob.done + 1):
                blob.write(data)
        if blob.done < blob.size:
            raise Unreachable(f"{self.name}: {blob.digest}: it ended after {blob.done} of {blob.size} bytes")

    def _check_announced(self, blob: Exactly, response: BaseHTTPResponse) -> None:
        """What the headers say of the body: it begins where it should, and is as long as what is missing."""
        begin, missing = response.headers.get("Content-Range", "").partition("-")[0], blob.size - blob.done
        length = response.headers.get("Content-Length", "")
        if response.status == 206 and begin != f"bytes {blob.done}":
            raise ContainerError(
                f"{self.name}: {blob.digest}: asked from byte {blob.done}, it sent {printable(begin)!r}"
            )
        if length and length != str(missing):
            raise ContainerError(f"{self.name}: {blob.digest}: {printable(length)} bytes, not {missing}")

    # --- writing -------------------------------------------------------------------------------------------------

    def has(self, digest: str) -> bool:
        """Whether the repository has this blob."""
        response = self.request("HEAD", self._at(f"blobs/{digest}"), (200, 404))
        rest(response)
        return response.status == 200

    def upload(self, descriptor: Descriptor, path: str, source: str, advance: Advance) -> str:
        """Bring the blob in the file `path` there, unless it is; "Layer already exists", "Mounted from …", or "Pushed".

        `source`: another repository of the registry that should have it, so that it need not travel again; or "".
        """
        digest = check_digest(descriptor["digest"]) and descriptor["digest"]
        if self.has(digest):
            return "Layer already exists"
        query = f"?mount={digest}&from={source}" if source else ""
        response = self._begin(query, (201, 202) if source else (202,))
        if response.status == 201:
            rest(response)
            return f"Mounted from {source}"
        place, data = self._place(response), b""
        with open(path, "rb") as file:
            if descriptor["size"] > PIECE:
                place = self._in_pieces(place, file, descriptor["size"], advance)
            else:
                data = file.read()
        self._finish(place, digest, data)
        advance(len(data))
        return "Pushed"

    def _begin(self, query: str = "", allowed: tuple[int, ...] = (202,)) -> BaseHTTPResponse:
        """A new upload."""
        return self.request("POST", self._at(f"blobs/uploads/{query}"), allowed)

    def _in_pieces(self, place: str, file: BinaryIO, size: int, advance: Advance) -> str:
        """PATCH after PATCH; after an interruption ask how much has arrived. Returns where to finish the upload."""
        done, failures = 0, 0
        while done < size:
            file.seek(done)
            data = file.read(min(PIECE, size - done))
            headers = {"Content-Range": f"{done}-{done + len(data) - 1}", "Content-Type": "application/octet-stream"}
            try:
                place = self._place(self.request("PATCH", place, (202,), headers, data))
                arrived = done + len(data)
            except Unreachable:
                failures += 1
                if failures > self.retries:
                    raise
                time.sleep(self.backoff * 2**failures)
                place, arrived = self._resumed(place, size)
            advance(arrived - done)
            done = arrived
        return place

    def _resumed(self, place: str, size: int) -> tuple[str, int]:
        """Where an upload that was interrupted goes on, and how many bytes of it are there.

        404: the registry does not know it any more, as docker-registry 2.8 after half a piece. Then from the beginning.
        """
        response = self.request("GET", place, (204, 404))
        if response.status == 404:
            rest(response)
            return self._place(self._begin()), 0
        place = self._place(response)
        return place, self._arrived(response.headers.get("Range", ""), size)

    def _arrived(self, span: str, size: int) -> int:
        """The header Range of an upload, "0-99" after 100 bytes. "0-0" is what registries say of an empty one."""
        last = number(span.removeprefix("bytes=").partition("-")[2])
        if last is None or last >= size:
            raise ContainerError(f"{self.name}: it lost count of our upload: {printable(span)!r}")
        return last + 1 if last else 0

    def _finish(self, place: str, digest: str, data: bytes) -> None:
        """The end of an upload: the registry compares the digest, and gives the blob its place."""
        url = f"{place}{'&' if '?' in place else '?'}digest={digest}"
        rest(self.request("PUT", url, (201,), {"Content-Type": "application/octet-stream"}, data))

    def _place(self, response: BaseHTTPResponse) -> str:
        """Where the upload goes on: each answer may name another address."""
        rest(response)
        place = response.headers.get("Location", "")
        if not place:
            raise ContainerError(f"{self.name}: it did not say where to upload to: is it a registry?")
        return place

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        """Name what is there now. The registry checks that all parts are."""
        response = self.request("PUT", self._at(f"manifests/{reference}"), (201,), {"Content-Type": media_type}, data)
        rest(response)
        told = response.headers.get("Docker-Content-Digest", "")
        if told and told != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise ContainerError(f"{self.name}: it says that the image it got has the digest {printable(told)}")

    def _at(self, what: str) -> str:
        return f"/v2/{self.repository}/{what}"


class Exactly:
    """A file that takes the bytes that a descriptor describes: not one more, and in the end no others."""

    def __init__(self, descriptor: Descriptor, file: BinaryIO, advance: Advance) -> None:
        self.digest, self.size = descriptor["digest"], descriptor["size"]
        self._file, self._advance, self.done, self._sha256 = file, advance, 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Take a piece."""
        self.done += len(data)
        if self.done > self.size:
            raise ContainerError(f"{self.digest}: more than the {self.size} bytes that were announced: refused")
        self._sha256.update(data)
        self._file.write(data)
        self._advance(len(data))

    def restart(self) -> None:
        """Forget what came: it comes once more from the beginning."""
        self._file.seek(0)
        self._file.truncate()
        self._advance(-self.done)
        self.done, self._sha256 = 0, hashlib.sha256()

    def check(self) -> None:
        """At the end."""
        found = f"sha256:{self._sha256.hexdigest()}"
        if self.done != self.size or found != self.digest:
            raise ContainerError(f"{self.digest}: what came has {self.done} bytes and the digest {found}: refused")

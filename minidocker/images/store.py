"""Chapter 5: the store. An OCI image layout that other tools read in place, and beside it the layers, unpacked once.

    images/oci-layout, index.json, blobs/sha256/…    the layout: everything by its digest, and names for it
    layers/sha256/…                                  each layer's files, by the digest of its tar (its diff ID)
    build/…                                          the build cache: what a step depends on -> the image that it made
    tmp/…                                            what is being made; a rename moves it into place, else it is litter

A name in index.json (annotation org.opencontainers.image.ref.name) points to a manifest, that to a config and layers.
Whatever changes a name holds the layout's lock for a moment. Who makes blobs holds `writing` as long as nothing names
them yet, and `collect`, which removes what nothing names, waits for all of those. A process that is killed leaves
litter and no lock. Source: the OCI image specification, image-layout.md and descriptor.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os

from minidocker import state
from minidocker.images import manifest as media
from minidocker.images.reference import check_digest, parse
from minidocker.outcome import ContainerError

REF_NAME = "org.opencontainers.image.ref.name"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from minidocker.images.manifest import Descriptor


class Store:
    """All images below one directory, by default the state directory. Needs root: layers have owners.

    Any number of processes may use it at once.
    """

    def __init__(self, home: str | None = None) -> None:
        self.home = home or state.home()
        self.layout, self.unpacked, self.tmp = (os.path.join(self.home, name) for name in ("images", "layers", "tmp"))
        self.files = f"{self.unpacked}/files"  # see `share`
        for directory in (self.unpacked, self.tmp):  # foreign setuid files lie here: for root only, CVE-2021-41091
            os.makedirs(directory, exist_ok=True)
            os.chmod(directory, 0o700)
        for directory in (f"{self.layout}/blobs/sha256", f"{self.unpacked}/sha256", f"{self.home}/build"):
            os.makedirs(directory, exist_ok=True)
        if not os.path.exists(f"{self.layout}/index.json"):
            with self._locked(self.layout, fcntl.LOCK_EX):
                self.replace("images/oci-layout", {"imageLayoutVersion": "1.0.0"})
                self._write_index(self._index())

    # --- blobs ---------------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> str:
        """The path of a blob, whether it is there or not."""
        return f"{self.layout}/blobs/sha256/{check_digest(digest)}"

    def has(self, digest: str) -> bool:
        """Whether the blob is there. What is there is whole: it got its name after its content was on the disk."""
        return os.path.exists(self.blob(digest))

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Store a small blob; return its descriptor."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest):
            with self.incoming() as file:
                file.write(data)
                self.keep(file, digest)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def put_json(self, value: object, media_type: str) -> Descriptor:
        """Store a JSON document, always in the same spelling, since its digest is its name."""
        return self.put(json.dumps(value, separators=(",", ":"), sort_keys=True).encode(), media_type)

    def get_json(self, descriptor: Descriptor) -> dict[str, Any]:
        """A JSON blob, believed only if size, digest and shape are right."""
        digest = descriptor["digest"]
        try:
            with open(self.blob(digest), "rb") as file:
                return media.parsed(file.read(media.MAX_JSON + 1), descriptor)
        except FileNotFoundError:
            raise ContainerError(f"{digest}: this blob is not in the store: pull or load its image again") from None

    @contextlib.contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A temporary file; `keep` gives it its place, else it is removed."""
        path = f"{self.tmp}/{os.urandom(8).hex()}"
        with self.writing(), open(path, "xb") as file:
            try:
                yield file
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def keep(self, file: BinaryIO, digest: str) -> None:
        """Move a temporary file to its place as a blob; the caller has checked the digest."""
        self._move(file, self.blob(digest))

    @staticmethod
    def _move(file: BinaryIO, path: str) -> None:
        """First onto the disk, then to its name: a reader sees old or new content, also after a power cut."""
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)

    # --- layers --------------------------------------------------------------------------------------------------

    def layer_directory(self, diff_id: str) -> str:
        """Where the files of a layer are, or would be."""
        return f"{self.unpacked}/sha256/{check_digest(diff_id)}"

    def layer(self, descriptor: Descriptor, diff_id: str) -> str:
        """The directory with the files of a layer, unpacked now if it is not yet: once, whoever uses it."""
        target = self.layer_directory(diff_id)
        if not os.path.isdir(target):
            from minidocker.images.unpack import unpack  # a process that finds all layers unpacked needs none of it

            if not self.has(descriptor["digest"]):
                raise ContainerError(f"{descriptor['digest']}: this layer is not in the store: pull its image again")
            with self.place() as directory:
                unpack(self.blob(descriptor["digest"]), directory, diff_id, shared=self.files)
                with contextlib.suppress(OSError):  # another process was faster with the same layer
                    os.rename(directory, target)
        return target

    @contextlib.contextmanager
    def place(self) -> Iterator[str]:
        """A temporary directory, removed at the end if it is still there."""
        path = f"{self.tmp}/{os.urandom(8).hex()}"
        with self.writing():
            os.mkdir(path, 0o755)
            try:
                yield path
            finally:
                state.remove_tree(path)

    def add_layer(self, directory: str, whiteouts: str = "overlay") -> tuple[Descriptor, str]:
        """Pack a directory as a layer; return the descriptor of its blob, and its diff ID.

        `whiteouts`: the form of those in the directory, see `diff`. The blob is the same for the same content.
        """
        from minidocker.images.pack import pack

        with self.incoming() as file:
            digest, diff_id, size = pack(directory, file, whiteouts)
            self.keep(file, digest)
        return {"mediaType": media.LAYER_GZIP, "digest": digest, "size": size}, diff_id

    # --- names ---------------------------------------------------------------------------------------------------

    def entries(self) -> list[Descriptor]:
        """The descriptors of index.json: manifests with a name, and dangling ones that had one."""
        return [entry for entry in self._index()["manifests"] if isinstance(entry, dict) and "digest" in entry]

    def tags(self) -> dict[str, Descriptor]:
        """Full name -> descriptor of the manifest. What other tools call `app` is docker.io/library/app:latest."""
        named = ((entry.get("annotations", {}).get(REF_NAME), entry) for entry in self.entries())
        return {str(parse(name)): entry for name, entry in named if name}

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let the name ("": none, only its ID) point to this manifest. What it pointed to before stays, dangling."""
        full = parse(name) if name else None
        entry = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
        if full:
            entry["annotations"] = {REF_NAME: full.familiar}
        with self._locked(self.layout, fcntl.LOCK_EX):
            others = [self._nameless(old) if self._is(old, full) else old for old in self.entries()]
            self._write_index({"manifests": [*self._without_named_twins([*others, entry])]})

    def untag(self, name: str) -> bool:
        """Remove a name, and its manifest from the index if that had no other; whether there was such a name."""
        full = parse(name)
        with self._locked(self.layout, fcntl.LOCK_EX):
            before = self.entries()
            after = [entry for entry in before if not self._is(entry, full)]
            if len(after) < len(before):
                self._write_index({"manifests": after})
        return len(after) < len(before)

    def forget(self, digest: str) -> None:
        """Remove a manifest from the index, whatever its names."""
        with self._locked(self.layout, fcntl.LOCK_EX):
            self._write_index({"manifests": [entry for entry in self.entries() if entry["digest"] != digest]})

    @staticmethod
    def _is(entry: Descriptor, full: object) -> bool:
        name = entry.get("annotations", {}).get(REF_NAME)
        return bool(name and full) and str(parse(name)) == str(full)

    @staticmethod
    def _nameless(entry: Descriptor) -> Descriptor:
        return {key: value for key, value in entry.items() if key != "annotations"}

    @staticmethod
    def _without_named_twins(entries: list[Descriptor]) -> Iterator[Descriptor]:
        """A manifest is dangling only if no other entry names it."""
        named = {entry["digest"] for entry in entries if "annotations" in entry}
        seen: set[str] = set()
        for entry in entries:
            if "annotations" in entry or entry["digest"] not in named | seen:
                seen.add(entry["digest"])
                yield entry

    # --- files of the layout, locks ------------------------------------------------------------------------------

    def _index(self) -> dict[str, Any]:
        path = f"{self.layout}/index.json"
        if not os.path.exists(path):
            return {"manifests": []}
        with open(path, "rb") as file:
            index = media.parsed(file.read())
        if not isinstance(index.get("manifests"), list):
            raise ContainerError(f"{path}: no list of manifests in it: it is no index of an OCI image layout")
        return index

    def _write_index(self, index: dict[str, Any]) -> None:
        self.replace("images/index.json", {"schemaVersion": 2, "mediaType": media.INDEX, **index})

    def replace(self, name: str, value: object) -> None:
        """Write a small file of the store."""
        with self.incoming() as file:
            file.write(json.dumps(value, indent=1).encode())
            self._move(file, f"{self.home}/{name}")

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Hold this while there are blobs that nothing names yet: `collect` waits for it."""
        return self._locked(self.tmp, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def alone(self, wait: bool = True) -> Iterator[bool]:
        """Hold this to remove what nothing names: nobody makes anything meanwhile. False if that would mean to wait."""
        try:
            with self._locked(self.tmp, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield True
        except BlockingIOError:
            yield False

    @contextlib.contextmanager
    def _locked(self, path: str, kind: int) -> Iterator[None]:
        """flock(2) on a directory; the kernel lets go of it when the process ends, however it ends."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

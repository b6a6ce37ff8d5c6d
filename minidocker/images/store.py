"""Chapter 5: the store. An OCI image layout that other tools read in place, and beside it the layers, unpacked once.

    images/oci-layout, index.json, blobs/sha256/…    the layout: everything by its digest, and names for it
    layers/sha256/…                                  each layer's files, by the digest of its tar (its diff ID)
    ready/…                                          what a start needs to know of an image, see `container.ready`
    layers/caches/…                                  what RUN --mount=type=cache keeps
    tmp/…, layers/trash/…                            what is being made, or removed; a rename moves it from, or there

An entry of index.json has a name, or what a step of a build depends on: the build cache. Who changes the index holds
the layout's lock for a moment. Who makes blobs holds `writing` as long as nothing names them yet, and `collect` waits
for all of those. Source: the OCI image specification, image-layout.md and descriptor.md.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from io import BufferedRandom
from typing import Any, BinaryIO

from minidocker import state, trees
from minidocker.images import manifest as media
from minidocker.images.manifest import Descriptor
from minidocker.outcome import ContainerError

REF_NAME, STEP = "org.opencontainers.image.ref.name", "minidocker.build.step"
Index = dict[tuple[str, str], Descriptor]  # (annotation, its value) -> entry; ("", digest) of what has no name


class Store:
    """All images below one directory, for any number of processes at once. Needs root: layers have owners. `show`: with
    bars on a terminal.
    """

    def __init__(self, home: str | None = None, show: bool = False) -> None:
        self.home, self.show = home or state.home(), show
        self.layout, self.unpacked, self.tmp = (f"{self.home}/{name}" for name in ("images", "layers", "tmp"))
        self.index, self._blobs = f"{self.layout}/index.json", f"{self.layout}/blobs/sha256"
        self._layers, self._trash, self._caches = (f"{self.unpacked}/{name}" for name in ("sha256", "trash", "caches"))
        self.empty, self._ready = f"{self.unpacked}/empty", f"{self.home}/ready"
        for directory in (self._blobs, self._layers, self._trash, self.empty, self._ready, self.tmp):
            os.makedirs(directory, exist_ok=True)
        os.chmod(self.empty, 0o755)  # whatever the caller's umask: in place of the layers of an image that has none
        for directory in (self.unpacked, self.tmp):  # foreign setuid files lie here: for root only, CVE-2021-41091
            os.chmod(directory, 0o700)
        if not os.path.exists(self.index):
            state.replace(f"{self.layout}/oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            self.forget()

    def blob(self, digest: str) -> str:
        """The path of a blob, whether it is there or not."""
        return f"{self._blobs}/{media.check_digest(digest)}"

    def has(self, digest: str) -> bool:
        """Whether the blob is there. What is there is whole: it got its name after its content was on the disk."""
        return os.path.exists(self.blob(digest))

    def stored(self, digest: str) -> str:
        """The path of a blob that is there."""
        if not self.has(digest):
            raise ContainerError(f"{digest}: this part of an image is not in the store: pull or load it again")
        return self.blob(digest)

    def put(self, value: bytes | dict[str, Any], kind: str) -> Descriptor:
        """Store a small blob; a document always in the same spelling, since its digest is its name."""
        if not isinstance(value, bytes):
            value = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        with self.incoming() as file:
            file.write(value)
            return self.keep(file, kind)

    def get_json(self, descriptor: Descriptor) -> dict[str, Any]:
        """A JSON blob, believed only if size, digest and shape are right."""
        with open(self.stored(descriptor["digest"]), "rb") as file:
            return media.parsed(file.read(media.MAX_JSON + 1), descriptor)

    @contextlib.contextmanager
    def incoming(self) -> Iterator[BufferedRandom]:
        """A temporary file; `keep` gives it its place, else it is removed."""
        with self.place() as directory, open(f"{directory}/blob", "x+b") as file:
            yield file

    def keep(self, file: BufferedRandom, kind: str, wanted: Descriptor | None = None, what: str = "") -> Descriptor:
        """Give a temporary file its place as a blob, once it is on the disk, and if it is what is `wanted`."""
        file.seek(0)
        digest, size = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", file.tell()
        if wanted and (digest, size) != (wanted["digest"], wanted["size"]):
            raise ContainerError(f"{wanted['digest']}: {what} has {size} bytes and the digest {digest}: refused")
        if not self.has(digest):  # a container may hold the one that is there
            os.fsync(file.fileno())
            os.rename(file.name, self.blob(digest))
        return {"mediaType": kind, "digest": digest, "size": size}

    @contextlib.contextmanager
    def place(self) -> Iterator[str]:
        """A temporary directory, removed at the end if it is still there."""
        path = f"{self.tmp}/{os.urandom(8).hex()}"
        with self.writing():
            try:
                os.mkdir(path)
                os.chmod(path, 0o755)  # whatever the caller's umask: a layer may not say how its root is to look like
                yield path
            finally:
                trees.remove(path)

    def layer(self, descriptor: Descriptor, diff_id: str) -> str:
        """The directory with the files of a layer, unpacked now if it is not yet: once, whoever uses it."""
        target = f"{self._layers}/{media.check_digest(diff_id)}"
        if not os.path.isdir(target):
            from minidocker.images.layer.unpack import unpack  # not needed where all layers are unpacked

            with self.place() as directory:
                unpack(self.stored(descriptor["digest"]), directory, diff_id, show=self.show)
                with contextlib.suppress(OSError):  # another process was faster with the same layer
                    os.rename(directory, target)
        return target

    def add_layer(self, source: str | BinaryIO) -> tuple[Descriptor, str]:
        """Pack a directory, or a tar, as a layer; return the descriptor of its blob, and its diff ID."""
        from minidocker.images.layer.pack import pack

        with self.incoming() as file:
            diff_id = pack(source, file)
            return self.keep(file, media.LAYER_GZIP), diff_id

    def entries(self) -> Index:
        """What index.json lists: manifests with a name, dangling ones that had one, and steps of builds."""
        try:
            with open(self.index, "rb") as file:
                found = media.parsed(file.read(), what=self.index).get("manifests")
            if not isinstance(found, list):
                raise ContainerError(f"{self.index}: no list of manifests: it is no index of an OCI image layout")
        except FileNotFoundError:
            found = []
        except ContainerError as wrong:
            raise ContainerError(f"{wrong}: remove it, and pull or build the images again") from None
        good = [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("digest"), str)]
        return {_key(entry): entry for entry in good}

    def tags(self) -> dict[str, Descriptor]:
        """Full name -> descriptor of the manifest. What other tools call `app` is docker.io/library/app:latest."""
        return {name: entry for (kind, name), entry in self.entries().items() if kind == REF_NAME}

    def steps(self) -> dict[str, Descriptor]:
        """The build cache: what a step depends on, in hexadecimal -> the image that it made."""
        return {step: entry for (kind, step), entry in self.entries().items() if kind == STEP}

    def manifests(self) -> dict[str, Descriptor]:
        """Digest -> descriptor of each manifest, named or dangling; without those that only the build cache has."""
        return {entry["digest"]: entry for (kind, _), entry in self.entries().items() if kind != STEP}

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let the name ("": none, only its ID) point to this manifest. What it pointed to before stays, dangling."""
        wanted = media.parse(name) if name else None
        with self._changing() as entries:
            if before := entries.pop((REF_NAME, str(wanted)), None):
                entries["", before["digest"]] = entry_of(before, {})
            entry = entry_of(descriptor, {REF_NAME: wanted.familiar} if wanted else {})
            entries[_key(entry)] = entry

    def untag(self, name: str) -> bool:
        """Remove a name, and its manifest from the index if that had no other; whether there was such a name."""
        full = str(media.parse(name))
        with self._changing() as entries:
            return entries.pop((REF_NAME, full), None) is not None

    def remember(self, step: str, descriptor: Descriptor) -> None:
        """Note the image that this step made. A cache that cannot be written is none."""
        with contextlib.suppress(OSError), self._changing() as entries:
            entries[STEP, step] = entry_of(descriptor, {STEP: step})

    def forget_steps(self) -> None:
        """Empty the build cache."""
        with self._changing() as entries:
            for step in self.steps():
                del entries[STEP, step]
        for path in state.directories(self._caches):
            self._discard(path)

    @contextlib.contextmanager
    def cache(self, name: str, shared: bool) -> Iterator[str]:
        """A directory that steps of builds find again, held for a while."""
        path = f"{self._caches}/{hashlib.sha256(name.encode()).hexdigest()}"
        held = False
        while not held:
            os.makedirs(path, exist_ok=True)
            with self.locked(path, exclusive=not shared) as held:
                if held:
                    yield path

    def _discard(self, path: str) -> None:
        """Out of its place at once, to be removed file by file, unless somebody holds it."""
        with self.locked(path, exclusive=True, wait=False) as idle:
            if idle:
                os.rename(path, f"{self._trash}/{os.urandom(4).hex()}")

    def forget(self, *digests: str) -> None:
        """Remove manifests from the index, whatever their names."""
        with self._changing() as entries:
            for key in [key for key, entry in entries.items() if entry["digest"] in digests]:
                del entries[key]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Index]:
        """Read the index, let the caller change it, and write it, alone.

        A manifest is dangling only if no other entry names it. An index that is shorter needs no room: on a full disk
        it is written over the old one, which is how one gets room again.
        """
        with self.locked(self.layout, exclusive=True):
            for name in os.listdir(self.layout):
                if name.endswith(".new"):  # of one who was killed here: everybody else waits
                    trees.remove(f"{self.layout}/{name}")
            entries = self.entries()
            yield entries
            named = {entry["digest"] for (kind, _), entry in entries.items() if kind == REF_NAME}
            after = [entry for (kind, digest), entry in entries.items() if kind or digest not in named]
            index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": after}
            data = json.dumps(index, indent=1).encode()
            try:
                state.replace(self.index, data, sync=True)
            except OSError as refused:
                if refused.errno not in (errno.ENOSPC, errno.EDQUOT) or len(data) > os.path.getsize(self.index):
                    raise
                with open(self.index, "r+b") as file:
                    file.write(data.ljust(os.path.getsize(self.index)))

    def writing(self) -> contextlib.AbstractContextManager[bool]:
        """Hold this while there are blobs that nothing names yet: `collect` waits for it."""
        return self.locked(self.tmp)

    @contextlib.contextmanager
    def locked(self, path: str, exclusive: bool = False, wait: bool = True) -> Iterator[bool]:
        """Hold something of the store; whether it is there, and free."""
        lock = state.hold(path, exclusive, wait)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    @contextlib.contextmanager
    def bringing(self, what: str, kept: type[Exception] = PermissionError) -> Iterator[None]:
        """Around all that brings an image here: what fails leaves nothing behind, but for errors of the kind `kept`."""
        try:
            with self.writing():
                yield
        except (kept, PermissionError):
            raise
        except (OSError, ContainerError) as failure:
            self.collect(wait=False)
            if isinstance(failure, ContainerError):
                raise
            raise ContainerError(f"{what}: cannot store it: {failure.strerror}: see minidocker system df") from None

    def collect(self, wait: bool = True) -> int:
        """Remove what the index does not lead to, and litter; return how many bytes that freed: mark and sweep.

        Nothing counts references, since a counter is wrong after the first `kill -9`. While another process makes an
        image: wait for it, or leave it to the next time. What a container runs on is held, and stays.
        """
        with self.locked(self.tmp, exclusive=True, wait=wait) as alone:
            if not alone:
                return 0
            needed = self._needed()
            for directory in (self.tmp, self._ready, self._blobs, self._layers):
                for name in {*os.listdir(directory)} - needed:
                    self._discard(f"{directory}/{name}")
            nothing = os.stat(self._trash).st_blocks * 512
            try:
                return trees.remove(self._trash) - nothing
            finally:
                os.makedirs(self._trash, exist_ok=True)

    def _needed(self) -> set[str]:
        """The digests, in hexadecimal, of all blobs and all unpacked layers that the index leads to."""
        needed, waiting = set[str](), [*self.entries().values()]
        while waiting:
            descriptor = waiting.pop()
            needed.add(descriptor["digest"])
            with contextlib.suppress(ContainerError):  # something that another tool put there, or that is not complete
                document = self.get_json(descriptor)
                if "rootfs" in document:
                    needed |= {*document["rootfs"]["diff_ids"]}
                else:
                    parts = [*document.get("manifests", []), *document.get("layers", []), document.get("config")]
                    known = [media.check_descriptor(part) for part in parts if part]
                    needed |= {part["digest"] for part in known}
                    waiting += [part for part in known if part.get("mediaType") in media.DOCUMENTS]
        return {digest.removeprefix("sha256:") for digest in needed}


def _key(entry: Descriptor) -> tuple[str, str]:
    """(annotation, value) by which an entry of the index is found: its full name, or what a step depends on."""
    notes = entry.get("annotations")
    step, name = (notes.get(key) if isinstance(notes, dict) else None for key in (STEP, REF_NAME))
    if isinstance(step, str):
        return STEP, step
    try:
        return REF_NAME, str(media.parse(name or ""))
    except (ContainerError, TypeError):  # without a name, or with one that no image can have
        return "", entry["digest"]


def entry_of(descriptor: Descriptor, notes: dict[str, str]) -> Descriptor:
    """A descriptor as an index has it, with these annotations."""
    entry: Descriptor = {field: descriptor[field] for field in ("mediaType", "digest", "size") if field in descriptor}
    return {**entry, "annotations": notes} if notes else entry

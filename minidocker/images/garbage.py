"""Chapter 5: what no image needs is removed: blobs, unpacked layers, and what killed processes left.

    collect(store)             # returns the bytes it freed

Nothing counts references, since a counter is wrong after the first `kill -9`. Instead the names are followed to all
that they need, and the rest goes: mark and sweep. Needed are the images of the index and those of the build cache.
"""

from __future__ import annotations

import contextlib
import os

from minidocker import files, state
from minidocker.images import manifest as media
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from minidocker.images.store import Store


def collect(store: Store, wait: bool = True) -> int:
    """Remove what nothing needs. While another process makes an image: wait for it, or leave it to the next time."""
    with store.alone(wait) as alone:
        if not alone:
            return 0
        blobs, layers = _needed(store)
        gone = [f"{store.layout}/blobs/sha256/{name}" for name in os.listdir(f"{store.layout}/blobs/sha256")]
        gone = [path for path in gone if f"sha256:{os.path.basename(path)}" not in blobs]
        for name in os.listdir(f"{store.unpacked}/sha256"):
            if f"sha256:{name}" not in layers:
                _put_away(store, f"{store.unpacked}/sha256/{name}")
        litter = [store.tmp, f"{store.home}/ready"]  # whoever makes something in tmp holds `store.writing`
        for directory in filter(os.path.isdir, litter):
            gone += [f"{directory}/{name}" for name in os.listdir(directory)]
        return _removed(gone)


def _removed(paths: Iterable[str]) -> int:
    """How many bytes of the disk that freed. What resists does not keep the rest: `NotRemoved` at the end."""
    freed, failures = 0, list[Exception]()
    for path in paths:
        try:
            freed += files.remove(path)
        except files.NotRemoved as left:
            freed += left.freed
            failures += left.failures
    if failures:
        raise files.NotRemoved(failures, freed=freed)
    return freed


@contextlib.contextmanager
def bringing(store: Store, what: str, kept: type[Exception] = PermissionError) -> Iterator[None]:
    """Around everything that brings an image into the store: what fails half-way leaves nothing there, but for errors
    of the kind `kept`.
    """
    try:
        with store.writing():
            yield
    except (kept, PermissionError):
        raise
    except OSError as failure:
        collect(store, wait=False)
        raise ContainerError(f"{what}: cannot store it: {failure.strerror}: see minidocker system df") from None
    except ContainerError:
        collect(store, wait=False)
        raise


def _needed(store: Store) -> tuple[set[str], set[str]]:
    """(digests of blobs, diff IDs of layers) of all images that have a name or are in the build cache."""
    blobs, layers = set[str](), set[str]()
    waiting = store.entries()
    while waiting:
        descriptor = waiting.pop()
        blobs.add(descriptor["digest"])
        with contextlib.suppress(ContainerError):  # something that another tool put there, or that is not complete
            document = store.get_json(descriptor)
            if "rootfs" in document:
                layers |= {*document["rootfs"]["diff_ids"]}
            else:
                parts = [*document.get("manifests", []), *document.get("layers", []), document.get("config")]
                known = [media.check_descriptor(part) for part in parts if part]
                blobs |= {part["digest"] for part in known}
                waiting += [part for part in known if part.get("mediaType") in media.DOCUMENTS]
    return blobs, layers


def _put_away(store: Store, path: str) -> None:
    """A layer, out of its place at once, to be removed file by file; unless a container runs on it, and holds it."""
    lock = state.hold(path)
    if lock is not None:
        os.rename(path, f"{store.tmp}/{os.path.basename(path)}")
        os.close(lock)

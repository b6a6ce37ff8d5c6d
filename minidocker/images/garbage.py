"""Chapter 5: what no image needs is removed: blobs, unpacked layers, and what killed processes left.

    collect(store)             # returns the bytes it freed

Nothing counts references, since a counter is wrong after the first `kill -9`. Instead the names are followed to all
that they need, and the rest goes: mark and sweep. Needed are the images of the index and those of the build cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from minidocker import state
from minidocker.images import manifest as media
from minidocker.images import share
from minidocker.images.cache import remembered
from minidocker.images.diff import walk
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minidocker.images.store import Store


def collect(store: Store, wait: bool = True) -> int:
    """Remove what nothing needs. While another process makes an image: wait for it, or leave it to the next time."""
    with store.alone(wait) as alone:
        if not alone:
            return 0
        blobs, layers = _needed(store)
        freed = _remove_blobs(store, blobs) + _remove_layers(store, layers) + _remove_litter(store)
        return freed + share.prune(store.files)


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
    waiting = [*store.entries(), *remembered(store)]
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


def _remove_blobs(store: Store, needed: set[str]) -> int:
    freed = 0
    for name in os.listdir(f"{store.layout}/blobs/sha256"):
        if f"sha256:{name}" not in needed:
            path = f"{store.layout}/blobs/sha256/{name}"
            freed += os.stat(path).st_size
            os.unlink(path)
    return freed


def _remove_layers(store: Store, needed: set[str]) -> int:
    """First out of its place, at once, then file by file. A layer that a container runs on is locked, and stays."""
    freed = 0
    for name in os.listdir(f"{store.unpacked}/sha256"):
        path = f"{store.unpacked}/sha256/{name}"
        if f"sha256:{name}" not in needed and (lock := _lock(path)) >= 0:
            litter = f"{store.tmp}/{name}"
            os.rename(path, litter)
            os.close(lock)
            freed += _remove(litter)
    return freed


def _lock(path: str) -> int:
    """A descriptor that locks the directory, or -1 if a container has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


def _remove_litter(store: Store) -> int:
    """All that is in tmp: whoever makes something there holds `store.writing()`, and now nobody does."""
    return sum(_remove(f"{store.tmp}/{name}") for name in os.listdir(store.tmp))


def _remove(path: str) -> int:
    """Remove a file or a tree; return the bytes on the disk that it took."""
    if not os.path.isdir(path) or os.path.islink(path):
        size = os.lstat(path).st_blocks * 512
        os.unlink(path)
        return size
    size = disk_usage([path])
    state.remove_tree(path)
    return size


def disk_usage(paths: list[str]) -> int:
    """Bytes on the disk of everything below these paths, each file once however many names it has: du(1)."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        for status in _statuses(path):
            sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def _statuses(path: str) -> Iterator[os.stat_result]:
    """Of a file, or of a directory and all that is in it, also where no path would be long enough."""
    if not os.path.isdir(path) or os.path.islink(path):
        yield os.lstat(path)
        return
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from (status for _, _, status in walk(top))
    finally:
        os.close(top)

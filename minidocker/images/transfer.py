"""Chapter 5: pull and push, which carry an image between the store and a registry, and only the parts that are missing.

    image = pull(Store(), "debian:12")
    push(Store(), "localhost:5000/team/app:1.2")

In the order that is safe: the parts first, then the manifest that needs them, at last the name. Who is killed in
between leaves parts without a name, which `prune` removes. MINIDOCKER_MIRROR is a registry ("host:port", or a URL) that
is asked before docker.io is: one for a whole classroom, whose thirty pulls would otherwise count as one address's.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor, as_completed

from minidocker.images import manifest as media
from minidocker.images.answers import printable
from minidocker.images.connection import Unreachable
from minidocker.images.garbage import collect
from minidocker.images.image import Image, find
from minidocker.images.progress import Progress
from minidocker.images.reference import DEFAULT_REGISTRY, parse
from minidocker.images.registry import Registry
from minidocker.outcome import ContainerError

PARALLEL = 3  # layers at once, as Docker does: more would not be faster on one line, and registries count connections
MAX_INDEXES = 3  # an index that points to an index that points to an index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from minidocker.images.manifest import Descriptor
    from minidocker.images.reference import Reference
    from minidocker.images.store import Store


def pull(store: Store, name: str, platform: str = "", progress: Progress | None = None) -> Image:
    """Bring an image here and give it its name; of several platforms' ("linux/arm64"), by default this machine's.

    Needs root, to unpack. Raises `ContainerError`; the store is then as before, except that after an `Unreachable`
    whole layers stay, so that the next try can go on there.
    """
    wanted, progress = parse(name), progress or Progress(quiet=True)
    mirror = os.environ.get("MINIDOCKER_MIRROR", "") if wanted.registry == DEFAULT_REGISTRY else ""
    if mirror:
        try:
            return _pull(store, mirror, wanted, platform, progress)
        except ContainerError as failure:
            progress.line(f"mirror {failure}; asking {wanted.registry} itself")
    return _pull(store, wanted.registry, wanted, platform, progress)


def _pull(store: Store, host: str, wanted: Reference, platform: str, progress: Progress) -> Image:
    """The layers are unpacked before the image gets its name: one that has a name can run."""
    with bringing(store, str(wanted)), Registry(host, wanted.repository) as registry:
        data, descriptor = _chosen(registry, wanted.digest or wanted.tag, platform)
        manifest = media.check_manifest(media.parsed(data))
        if manifest["config"]["size"] > media.MAX_JSON:
            raise ContainerError(f"{wanted}: a config of {manifest['config']['size']} bytes: refused")
        _fetch(store, registry, manifest["config"], Progress(quiet=True))
        media.check_config(store.get_json(manifest["config"]), len(manifest["layers"]))
        layers = {layer["digest"]: layer for layer in manifest["layers"]}.values()
        check_room(store, [layer for layer in layers if not present(store, layer)])
        each(lambda layer: _fetch(store, registry, layer, progress), layers, progress)
        store.put(data, descriptor["mediaType"])
        image = Image(store, descriptor)
        image.layers()
        store.tag(str(wanted), descriptor)
        return image


def _chosen(registry: Registry, reference: str, platform: str) -> tuple[bytes, Descriptor]:
    """The manifest of the reference; if that is an index, the one in it for the platform."""
    data, descriptor = registry.manifest(reference)
    for _ in range(MAX_INDEXES):
        if descriptor["mediaType"] in media.MANIFESTS:
            return data, descriptor
        entry = for_platform(media.parsed(data), platform)
        data, descriptor = registry.manifest(entry["digest"])
        if descriptor["size"] != entry["size"]:
            raise ContainerError(f"{entry['digest']}: {descriptor['size']} bytes, and the index says {entry['size']}")
    raise ContainerError(f"{reference}: an index of indexes, {MAX_INDEXES} deep: refused")


def for_platform(index: dict[str, Any], platform: str = "") -> Descriptor:
    """The entry of an index for "os/architecture[/variant]", by default this machine's; one that says none fits all."""
    wanted = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    wanted = wanted if platform else media.platform()
    if "layers" in index or "config" in index:
        raise ContainerError("an index that is a manifest as well: it would be two images, CVE-2021-41190")
    there = []
    entries = index.get("manifests")
    for entry in entries if isinstance(entries, list) else []:
        media.check_descriptor(entry)
        has = entry.get("platform") if isinstance(entry.get("platform"), dict) else {}
        if all(has.get(key, value) == value for key, value in wanted.items()):
            media.check_descriptor(entry, (*media.INDEXES, *media.MANIFESTS))
            return dict(entry)
        there.append("/".join(str(has[key]) for key in ("os", "architecture", "variant") if key in has))
    raise ContainerError(f"no image for {'/'.join(wanted.values())}; there are {printable(' '.join(there)) or 'none'}")


def _fetch(store: Store, registry: Registry, descriptor: Descriptor, progress: Progress) -> None:
    """One blob, unless it is here."""
    task = progress.task(short(descriptor["digest"]), descriptor["size"])
    if present(store, descriptor):
        return task.end("Already exists")
    with store.incoming() as file:
        registry.fetch(descriptor, file, task.advance)
        store.keep(file, descriptor["digest"])
    task.end("Pull complete")


def push(store: Store, name: str, progress: Progress | None = None) -> Descriptor:
    """Bring an image to the registry in its name, and tag it there; return the manifest's descriptor."""
    wanted, progress = parse(name), progress or Progress(quiet=True)
    if wanted.digest:
        raise ContainerError(f"{name}: push a tag: what has a digest cannot get another content")
    image = find(store, name)
    with store.writing(), Registry(wanted.registry, wanted.repository) as registry:
        blobs = {blob["digest"]: blob for blob in (*image.manifest["layers"], image.manifest["config"])}
        sources = {digest: other for digest, other in _elsewhere(store, wanted).items() if digest in blobs}
        registry.scopes.update(f"repository:{other}:pull" for other in sources.values())
        parts = blobs.values()
        each(lambda blob: _send(store, registry, blob, sources.get(blob["digest"], ""), progress), parts, progress)
        with open(store.blob(image.descriptor["digest"]), "rb") as file:
            registry.put_manifest(wanted.tag, file.read(), image.descriptor["mediaType"])
    return image.descriptor


def _send(store: Store, registry: Registry, descriptor: Descriptor, source: str, progress: Progress) -> None:
    """One blob, unless it is there."""
    if not present(store, descriptor):
        raise ContainerError(f"{descriptor['digest']}: this layer is not in the store: pull its image again")
    task = progress.task(short(descriptor["digest"]), descriptor["size"])
    task.end(registry.upload(descriptor, store.blob(descriptor["digest"]), source, task.advance))


def _elsewhere(store: Store, wanted: Reference) -> dict[str, str]:
    """{digest: repository}: where else on the same registry a blob should be, by the names that we know."""
    found = dict[str, str]()
    for name, descriptor in store.tags().items():
        other = parse(name)
        if other.registry == wanted.registry and other.repository != wanted.repository:
            with contextlib.suppress(ContainerError):  # not an image, or not a whole one
                found |= dict.fromkeys(Image(store, descriptor).digests(), other.repository)
    return found


# --- what pull, push and load share ----------------------------------------------------------------------------------


@contextlib.contextmanager
def bringing(store: Store, what: str) -> Iterator[None]:
    """Around everything that brings an image into the store: what fails half-way leaves nothing there."""
    try:
        with store.writing():
            yield
    except (Unreachable, PermissionError):
        raise
    except OSError as failure:
        collect(store, wait=False)
        raise ContainerError(f"{what}: cannot store it: {failure.strerror}: see minidocker system df") from None
    except ContainerError:
        collect(store, wait=False)
        raise


def each(work: Callable[[Descriptor], None], descriptors: Any, progress: Progress) -> None:
    """Do it for all of them, some at once. The first failure stops the others and is raised."""
    progress.stopped.clear()  # a mirror may have failed before
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(work, descriptor) for descriptor in descriptors]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            progress.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def present(store: Store, descriptor: Descriptor) -> bool:
    """Whether the blob is in the store; a descriptor that says another size lies about it."""
    if not store.has(descriptor["digest"]):
        return False
    size = os.path.getsize(store.blob(descriptor["digest"]))
    if size != descriptor["size"]:
        raise ContainerError(f"{descriptor['digest']}: it has {size} bytes, and not {descriptor['size']}")
    return True


def check_room(store: Store, missing: list[Descriptor]) -> None:
    """Refuse early what cannot be stored at all; unpacking needs more."""
    needed, space = sum(blob["size"] for blob in missing), os.statvfs(store.home)
    if needed > space.f_bavail * space.f_frsize:
        raise ContainerError(f"{needed} bytes to store, and {space.f_bavail * space.f_frsize} free: system prune")


def short(digest: str) -> str:
    """Twelve digits tell blobs apart."""
    return digest.removeprefix("sha256:")[:12]

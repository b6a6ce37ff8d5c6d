"""Chapter 5: pull and push, which carry an image between the store and a registry, and only the parts that are missing.

    image = pull(Store(), "debian:12")
    push(Store(), "localhost:5000/team/app:1.2", show=True)

The parts first, then the manifest that needs them, at last the name. MINIDOCKER_MIRROR is a registry ("host:port", or a
URL) that is asked before docker.io is. `show`: a line on standard error for each part, and a bar on a terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from minidocker.images import manifest as media
from minidocker.images.image import Image, NoSuchImage, find
from minidocker.images.layer.unpack import bar
from minidocker.images.manifest import DEFAULT_REGISTRY, Descriptor, Reference, parse
from minidocker.images.registry import Registry, Unreachable
from minidocker.images.store import Store
from minidocker.outcome import ContainerError

PARALLEL = 3  # layers at once, as Docker does: more would not be faster on one line, and registries count connections
MAX_INDEXES = 3  # an index that points to an index that points to an index
Advance = Callable[[int], object]


def pull(store: Store, name: str, platform: str = "", show: bool = False) -> Image:
    """Bring an image here and give it its name; of several platforms' ("linux/arm64"), by default this machine's.

    Needs root, to unpack. Raises `ContainerError`; the store is then as before, except that after an `Unreachable`
    whole layers stay, so that the next try can go on there.
    """
    wanted = parse(name)
    mirror = os.environ.get("MINIDOCKER_MIRROR", "") if wanted.registry == DEFAULT_REGISTRY else ""
    if mirror:
        try:
            return _pull(store, mirror, wanted, platform, show)
        except ContainerError as failure:
            if show:
                print(f"mirror {failure}; asking {wanted.registry} itself", file=sys.stderr)
    return _pull(store, wanted.registry, wanted, platform, show)


def _pull(store: Store, host: str, wanted: Reference, platform: str, show: bool) -> Image:
    """The layers are unpacked before the image gets its name: one that has a name can run."""
    with store.bringing(str(wanted), Unreachable), Registry(host, wanted.repository) as registry:
        data, descriptor = _chosen(registry, wanted.digest or wanted.tag, platform)
        manifest = media.check_manifest(media.parsed(data))
        bring = partial(fetch, store, registry)
        config = manifest["config"]
        layers = {blob["digest"]: blob for blob in manifest["layers"]}.values()
        if config["size"] > media.MAX_JSON:
            raise ContainerError(f"{wanted}: a config of {config['size']} bytes: refused")
        bring(config, lambda count: None)
        media.check_config(store.get_json(config), len(manifest["layers"]))
        needed = sum(blob["size"] for blob in layers if not store.has(blob["digest"]))
        free = shutil.disk_usage(store.home).free
        if needed > free:  # refused early; unpacking needs more
            raise ContainerError(f"{needed} bytes to store, and {free} free: system prune")
        each(bring, layers, show)
        store.put(data, descriptor["mediaType"])
        image = Image(store, descriptor)
        image.layers()
        store.tag(str(wanted), descriptor)
        return image


def _chosen(registry: Registry, reference: str, platform: str) -> tuple[bytes, Descriptor]:
    """The manifest of the reference; if that is an index, the one in it for the platform."""
    for _ in range(MAX_INDEXES):
        data, descriptor = registry.manifest(reference)
        if descriptor["mediaType"] in media.MANIFESTS:
            return data, descriptor
        reference = media.for_platform(media.parsed(data), platform)["digest"]
    raise ContainerError(f"{reference}: an index of indexes, {MAX_INDEXES} deep: refused")


def fetch(store: Store, registry: Registry, blob: Descriptor, advance: Advance) -> str:
    """Bring a blob here, unless it is; after each interruption go on where it stopped, or begin anew."""
    size = blob["size"]
    if store.has(blob["digest"]):
        if (found := os.path.getsize(store.blob(blob["digest"]))) != size:
            raise ContainerError(f"{blob['digest']}: it has {found} bytes, and not {size}")
        return "Already exists"
    with store.incoming() as file:
        for attempt in range(registry.retries + 1):
            try:
                response = registry.blob(blob, file.tell())
                if response.status != 206:
                    advance(-file.tell())
                    file.seek(0)
                    file.truncate()
                for data in registry.pieces(response, size - file.tell()):
                    file.write(data)
                    advance(len(data))
            except Unreachable:
                if attempt == registry.retries and file.tell() < size:
                    raise
            if file.tell() == size:
                break
            time.sleep(registry.backoff * 2**attempt)
        store.keep(file, blob["mediaType"], blob, "what came")
    return "Pull complete"


def push(store: Store, name: str, show: bool = False) -> Descriptor:
    """Bring an image to the registry in its name, and tag it there; return the manifest's descriptor."""
    wanted = parse(name)
    if wanted.digest:
        raise ContainerError(f"{name}: push a tag: what has a digest cannot get another content")
    image = find(store, name)
    if not image.name:  # by its ID: which would become the name of a repository
        raise NoSuchImage(f"no image here is called {wanted.familiar}: give it that name with minidocker tag")
    digest = image.descriptor["digest"]
    with store.writing(), Registry(wanted.registry, wanted.repository) as registry:
        each(partial(upload, store, registry), [*image.manifest["layers"], image.manifest["config"]], show)
        with open(store.blob(digest), "rb") as file:
            put = {"headers": {"Content-Type": image.descriptor["mediaType"]}, "body": file.read()}
        told = registry.request("PUT", f"manifests/{wanted.tag}", **put).headers.get("Docker-Content-Digest", digest)
        if told != digest:
            raise ContainerError(f"{wanted.registry}: it says that the image has the digest {media.printable(told)}")
    return image.descriptor


def upload(store: Store, registry: Registry, blob: Descriptor, advance: Advance) -> str:
    """Bring a blob there, unless it is. After an interruption anew: of the old upload there may be a part."""
    path = store.stored(blob["digest"])
    there = registry.request("HEAD", f"blobs/{blob['digest']}")
    if there.status == 200 and there.headers.get("Content-Length") == str(blob["size"]):
        return "Layer already exists"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob["size"])}
    with open(path, "rb") as file:
        body = CallbackIOWrapper(advance, file, "read")
        put = {"headers": headers, "body": body, "body_pos": 0, "retries": registry.again.new(read=0)}
        for attempt in range(registry.retries + 1):
            place = registry.request("POST", "blobs/uploads/").headers.get("Location", "")
            if not place:
                raise ContainerError(f"{registry.name}: it did not say where to upload to: is it a registry?")
            try:
                registry.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={blob['digest']}", **put)
                break
            except Unreachable:
                if attempt == registry.retries:
                    raise
    return "Pushed"


def each(work: Callable[[Descriptor, Advance], str], blobs: Iterable[Descriptor], show: bool) -> None:
    """Do it for each blob once, for some at the same time. The first failure stops the others, and is raised.

    `work` calls what it is given with the number of bytes that have passed (below 0, if they come once more), and
    returns what to say.
    """
    stopped = threading.Event()

    def one(blob: Descriptor) -> None:
        name = blob["digest"].removeprefix("sha256:")[:12]
        with bar(name, blob["size"], show) as told:

            def advance(count: int) -> None:
                if stopped.is_set():
                    raise ContainerError("another part has failed")
                told(count)

            said = work(blob, advance)
        if show:
            tqdm.write(f"{name}: {said}", file=sys.stderr)

    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(one, blob) for blob in {blob["digest"]: blob for blob in blobs}.values()]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

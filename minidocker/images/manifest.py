"""Chapter 5: what an image is, on paper: three kinds of JSON documents that point to each other by digest.

    index ──► manifest ──► config      {"architecture", "os", "config": {"Env", …}, "rootfs": {"diff_ids"}, "history"}
                       └─► layers      one descriptor for each, the base first

A descriptor is {"mediaType", "digest", "size"}. Docker's older documents (image manifest version 2, schema 2) have the
same shape under other names, and are read as well. Sources: the OCI image specification, descriptor.md, manifest.md,
config.md, image-index.md; Docker's registry specification, manifest-v2-2.md.
"""

from __future__ import annotations

import hashlib
import json
import os

from minidocker.images.reference import check_digest
from minidocker.outcome import ContainerError

_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
INDEX, MANIFEST, CONFIG = f"{_OCI}index.v1+json", f"{_OCI}manifest.v1+json", f"{_OCI}config.v1+json"
LAYER, LAYER_GZIP, LAYER_ZSTD = (f"{_OCI}layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd"))
DOCKER_LIST = f"{_DOCKER}distribution.manifest.list.v2+json"
DOCKER_MANIFEST = f"{_DOCKER}distribution.manifest.v2+json"
DOCKER_CONFIG = f"{_DOCKER}container.image.v1+json"
DOCKER_LAYER, DOCKER_LAYER_TAR = f"{_DOCKER}image.rootfs.diff.tar.gzip", f"{_DOCKER}image.rootfs.diff.tar"
DOCUMENTS = (INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST, CONFIG, DOCKER_CONFIG)  # what points to something else
INDEXES, MANIFESTS = (INDEX, DOCKER_LIST), (MANIFEST, DOCKER_MANIFEST)
LAYERS = (LAYER, LAYER_GZIP, LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_TAR)
MAX_JSON = 4 << 20  # bytes: what a registry must take as a manifest at least, and we at most
MAX_LAYERS = 500  # OverlayFS stacks no more, Documentation/filesystems/overlayfs.rst
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}  # uname's name -> Go's

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Descriptor = dict[str, Any]


def platform() -> dict[str, str]:
    """What this machine can execute, as an index names it."""
    machine = os.uname().machine
    return {"os": "linux", "architecture": ARCHITECTURES.get(machine, machine)}


def parsed(data: bytes, descriptor: Descriptor | None = None) -> dict[str, Any]:
    """A JSON object; with a descriptor, only if it is what that describes. Raises `ContainerError` for all else."""
    what = descriptor["digest"] if descriptor else "the document"
    if len(data) > MAX_JSON:
        raise ContainerError(f"{what}: more than {MAX_JSON} bytes for a manifest or config: refused")
    if descriptor and (f"sha256:{hashlib.sha256(data).hexdigest()}" != what or len(data) != descriptor["size"]):
        raise ContainerError(f"{what}: digest or size of the content are others: it was changed, or cut off")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as wrong:
        raise ContainerError(f"{what}: no JSON: {wrong}") from None
    if not isinstance(value, dict):
        raise ContainerError(f"{what}: a JSON object is expected, not a {type(value).__name__}")
    return value


def check_descriptor(value: object, allowed: tuple[str, ...] = ()) -> Descriptor:
    """A descriptor from outside: digest and size are there and possible, and the media type is one of these."""
    fields = [type(value.get(name)) for name in ("digest", "size")] if isinstance(value, dict) else []
    if not isinstance(value, dict) or fields != [str, int]:
        raise ContainerError(f"{str(value)[:80]}: no descriptor: digest and size are needed")
    check_digest(value["digest"])
    if value["size"] < 0:
        raise ContainerError(f"{value['digest']}: a size of {value['size']} bytes")
    if allowed and value.get("mediaType") not in allowed:
        raise ContainerError(f"{value['digest']}: cannot use the media type {value.get('mediaType')!r}")
    return value


def check_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of one image, of either maker: its config and its layers can be used."""
    layers = manifest.get("layers")
    if manifest.get("schemaVersion") != 2 or not isinstance(layers, list):
        raise ContainerError("this is no image manifest of schema 2; older ones tell no digests of what they contain")
    if "manifests" in manifest:
        raise ContainerError("a manifest that is an index as well: it would be two images, CVE-2021-41190")
    check_descriptor(manifest.get("config"), (CONFIG, DOCKER_CONFIG))
    for layer in layers:
        check_descriptor(layer, LAYERS)
    if len(layers) > MAX_LAYERS:
        raise ContainerError(f"an image of {len(layers)} layers: OverlayFS takes {MAX_LAYERS} at most")
    return manifest


def for_platform(index: dict[str, Any], wanted: str = "") -> Descriptor:
    """The entry of an index for "os/architecture[/variant]", by default this machine's; one that says none fits all."""
    parts = dict(zip(("os", "architecture", "variant"), wanted.split("/"), strict=False)) if wanted else platform()
    if "layers" in index or "config" in index:
        raise ContainerError("an index that is a manifest as well: it would be two images, CVE-2021-41190")
    there = []
    entries = index.get("manifests")
    for entry in entries if isinstance(entries, list) else []:
        check_descriptor(entry)
        has = entry.get("platform") if isinstance(entry.get("platform"), dict) else {}
        if all(has.get(key, value) == value for key, value in parts.items()):
            check_descriptor(entry, (*INDEXES, *MANIFESTS))
            return dict(entry)
        there.append("/".join(str(has[key]) for key in ("os", "architecture", "variant") if key in has))
    raise ContainerError(f"no image for {'/'.join(parts.values())}; there are {printable(' '.join(there)) or 'none'}")


def check_config(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config of an image of that many layers. Only what we use is looked at; the rest is kept as it is."""
    rootfs, inner = config.get("rootfs"), config.setdefault("config", {})
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != layers:
        raise ContainerError(f"the image's config does not name one diff ID for each of its {layers} layers")
    for diff_id in diff_ids:
        check_digest(diff_id if isinstance(diff_id, str) else repr(diff_id))
    if inner is None:
        inner = config["config"] = {}
    for name, kind in (("Env", list), ("Cmd", list), ("Entrypoint", list), ("WorkingDir", str), ("User", str)):
        value = inner.get(name) if isinstance(inner, dict) else inner
        if value is not None and not isinstance(value, kind):
            raise ContainerError(f"the image's config has a {name} that is no {kind.__name__}: {str(value)[:40]}")
        if isinstance(value, list) and not all(isinstance(word, str) for word in value):
            raise ContainerError(f"the image's config has a {name} with something that is no text")
    return config


def check_platform(config: dict[str, Any]) -> None:
    """An image of another architecture would fail at its first execve, with a worse message."""
    here, its = "/".join(platform().values()), f"{config.get('os')}/{config.get('architecture')}"
    if its != here:
        raise ContainerError(f"the image is for {its}, and this machine is {here}: pull it for this platform")


def printable(text: str) -> str:
    """Text from outside, as it may be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])

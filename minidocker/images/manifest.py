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
DOCKER_LAYER, DOCKER_LAYER_TAR, DOCKER_LAYER_ZSTD = (
    f"{_DOCKER}image.rootfs.diff.tar{suffix}" for suffix in (".gzip", "", ".zstd")
)
DOCUMENTS = (INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST, CONFIG, DOCKER_CONFIG)  # what points to something else
INDEXES, MANIFESTS = (INDEX, DOCKER_LIST), (MANIFEST, DOCKER_MANIFEST)
LAYERS = (LAYER, LAYER_GZIP, LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_TAR, DOCKER_LAYER_ZSTD)
MAX_JSON = 4 << 20  # bytes: what a registry must take as a manifest at least, and we at most
MAX_LAYERS = 500  # OverlayFS stacks no more, Documentation/filesystems/overlayfs.rst
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}  # uname's name -> Go's
CHECKED = {  # the keys of a config that we use -> what is there, if anything is
    "created": str, "author": str, "architecture": str, "os": str, "variant": str, "rootfs": dict, "config": dict,
    "history": [dict],
}  # fmt: skip
CHECKED_INSIDE = {
    "User": str, "WorkingDir": str, "StopSignal": str, "Env": [str], "Cmd": [str], "Entrypoint": [str], "Shell": [str],
    "Volumes": dict, "ExposedPorts": dict, "Labels": dict,
}  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
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
        raise ContainerError(f"{printable(str(value)[:80])}: no descriptor: digest and size are needed")
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
    if "layers" in index or "config" in index:
        raise ContainerError("an index that is a manifest as well: it would be two images, CVE-2021-41190")
    entries = index.get("manifests")
    there = [check_descriptor(entry) for entry in entries] if isinstance(entries, list) else []
    for entry in filter(lambda entry: fits(entry, wanted), there):
        return dict(check_descriptor(entry, (*INDEXES, *MANIFESTS)))
    has = " ".join("/".join(map(str, _platform(entry).values())) for entry in there)
    wanted = wanted or "/".join(platform().values())
    raise ContainerError(f"no image for {wanted}; there are {printable(has) or 'none'}")


def fits(descriptor: Descriptor, wanted: str = "") -> bool:
    """Whether that platform, by default this machine, can execute it. An attestation is for "unknown"."""
    parts = dict(zip(("os", "architecture", "variant"), wanted.split("/"), strict=False)) if wanted else platform()
    has = _platform(descriptor)
    return all(has.get(key, value) == value for key, value in parts.items())


def _platform(descriptor: Descriptor) -> dict[str, Any]:
    has = descriptor.get("platform")
    return {key: has[key] for key in ("os", "architecture", "variant") if key in has} if isinstance(has, dict) else {}


def check_config(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config of an image of that many layers. Only what we use is looked at; the rest is kept as it is."""
    _check(config, CHECKED)
    inner = config["config"] = config.get("config") or {}
    for name in ("Cmd", "Entrypoint"):
        if isinstance(inner.get(name), str):
            inner[name] = [inner[name]]  # Docker takes it, and early builders wrote it
    _check(inner, CHECKED_INSIDE)
    if inner.get("Volumes"):
        inner["Volumes"] = {os.path.join("/", path): empty for path, empty in inner["Volumes"].items()}
    rootfs = config["rootfs"] = config.get("rootfs") or {}
    rootfs["diff_ids"] = rootfs.get("diff_ids") or []
    _check(rootfs, {"diff_ids": [str]})
    if len(rootfs["diff_ids"]) != layers:
        raise ContainerError(f"the image's config does not name one diff ID for each of its {layers} layers")
    for diff_id in rootfs["diff_ids"]:
        check_digest(diff_id)
    for step in config.get("history") or []:
        _check(step, dict.fromkeys(("created", "created_by", "comment"), str))
    return config


def _check(document: dict[str, Any], kinds: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        value = document.get(name)
        if not (value is None or _is(value, kind)):
            raise ContainerError(f"the image's config has a {name} that cannot be: {printable(str(value)[:40])}")


def _is(value: object, kind: Any) -> bool:
    """Whether it is of this kind; [str] is a list of texts."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(isinstance(one, kind[0]) for one in value)
    return isinstance(value, kind)


def check_platform(config: dict[str, Any]) -> None:
    """An image of another architecture would fail at its first execve, with a worse message. What is not said fits."""
    said = {key: config[key] for key in platform() if config.get(key)}
    here, its = ("/".join(fields.values()) for fields in (platform(), platform() | said))
    if its != here:
        raise ContainerError(f"the image is for {its}, and this machine is {here}: pull it for this platform")


def printable(text: str) -> str:
    """Text from outside, as it may be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])

"""Chapter 5: what an image is, on paper: a name, and three kinds of JSON documents that point to each other by digest.

    name ──► index ──► manifest ──► config    {"architecture", "os", "config": {"Env", …}, "rootfs": {"diff_ids"}, …}
                                └─► layers    one descriptor for each, the base first: {"mediaType", "digest", "size"}

    parse("nginx")                            docker.io/library/nginx:latest
    parse("localhost:5000/team/app:1.2")      registry localhost:5000, repository team/app, tag 1.2

Docker's older documents (schema 2) have the same shape under other names. Source: the OCI image specification,
descriptor.md, manifest.md, config.md, image-index.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from minidocker.outcome import ContainerError

_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
INDEX, MANIFEST, CONFIG = f"{_OCI}index.v1+json", f"{_OCI}manifest.v1+json", f"{_OCI}config.v1+json"
LAYER, LAYER_GZIP, LAYER_ZSTD = (f"{_OCI}layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd"))
DOCKER_LAYERS = {  # Docker's types of layers -> the same in OCI's words
    f"{_DOCKER}image.rootfs.diff.tar": LAYER,
    f"{_DOCKER}image.rootfs.diff.tar.gzip": LAYER_GZIP,
    f"{_DOCKER}image.rootfs.diff.tar.zstd": LAYER_ZSTD,
}
INDEXES = (INDEX, f"{_DOCKER}distribution.manifest.list.v2+json")
MANIFESTS = (MANIFEST, f"{_DOCKER}distribution.manifest.v2+json")
CONFIGS = (CONFIG, f"{_DOCKER}container.image.v1+json")
DOCUMENTS = (*INDEXES, *MANIFESTS, *CONFIGS)  # what points to something else
LAYERS = (*DOCKER_LAYERS, *DOCKER_LAYERS.values())
MAX_JSON = 4 << 20  # bytes: what a registry must take as a manifest at least, and we at most
MAX_LAYERS = 500  # OverlayFS stacks no more, Documentation/filesystems/overlayfs.rst
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}  # uname's name -> Go's
DEFAULT_REGISTRY, OFFICIAL = "docker.io", "library/"
_HOST = r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9a-f:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = rf"(?:(?=[^/]*[.:]|localhost/)({_HOST})/)?({_PART}(?:/{_PART})*)(?::(\w[\w.-]{{,127}}))?(?:@(.*))?"

Descriptor = dict[str, Any]
CONFIG_KINDS: dict[str, Any] = {  # what the keys of a config that we use have to be, if they are there
    **dict.fromkeys(("created", "author", "architecture", "os", "variant"), str),
    "config": {
        **dict.fromkeys(("User", "WorkingDir", "StopSignal"), str),
        **dict.fromkeys(("Env", "Cmd", "Entrypoint", "Shell"), [str]),
        **dict.fromkeys(("Volumes", "ExposedPorts", "Labels"), {}),
    },
    "rootfs": {"diff_ids": [str]},
    "history": [dict.fromkeys(("created", "created_by", "comment"), str)],
}


class Reference:
    """A full name. `familiar` is what people type, and `name` that without tag and digest."""

    def __init__(self, registry: str, repository: str, tag: str, digest: str) -> None:
        self.registry, self.repository, self.tag, self.digest = registry, repository, tag, digest
        self.name = f"{registry}/{repository}".removeprefix(f"{DEFAULT_REGISTRY}/").removeprefix(OFFICIAL)
        self.suffix = (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
        self.familiar = self.name + self.suffix

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self.suffix}"


def parse(text: str) -> Reference:
    """The parts of an image's name; a name without tag and digest means the tag `latest`. Raises `ContainerError`."""
    found = re.fullmatch(_NAME, text, re.ASCII)
    if not found or len(found[2]) > 255:
        raise ContainerError(
            f"{text!r} is no name of an image: a repository is lower-case letters and digits, with single . _ - or / "
            "between them, and a tag up to 128 letters, digits, _ . and -"
        )
    registry, repository, tag, digest = found.groups(default="")
    if re.fullmatch("(sha256:)?[0-9a-f]{64}", text):
        raise ContainerError(f"{text}: no such image, and no name: 64 hexadecimal digits are an ID")
    if "@" in text:
        check_digest(digest)
    if registry in ("", DEFAULT_REGISTRY) and "/" not in repository:
        repository = OFFICIAL + repository
    return Reference(registry or DEFAULT_REGISTRY, repository, tag or ("" if digest else "latest"), digest)


def check_digest(digest: str) -> str:
    """The hexadecimal part of a sha256 digest. It comes from outside: nothing else may become a part of a path."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise ContainerError(f"{digest!r} is no digest: sha256: and 64 hexadecimal digits are expected")
    return digest.removeprefix("sha256:")


def parsed(data: bytes, descriptor: Descriptor | None = None, what: str = "the document") -> dict[str, Any]:
    """A JSON object; with a descriptor, only if it is what that describes. `what`: where it is from, for the error."""
    what = descriptor["digest"] if descriptor else what
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
    fields: Descriptor = value if isinstance(value, dict) else {}
    digest, size, kind = (fields.get(name) for name in ("digest", "size", "mediaType"))
    if not isinstance(digest, str) or type(size) is not int:
        raise ContainerError(f"{printable(str(value)[:80])}: no descriptor: digest and size are needed")
    check_digest(digest)
    if size < 0:
        raise ContainerError(f"{digest}: a size of {size} bytes")
    if allowed and kind not in allowed:
        raise ContainerError(f"{digest}: cannot use the media type {kind!r}")
    return fields


def check_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of one image, of either maker: its config and its layers can be used."""
    layers = manifest.get("layers")
    if manifest.get("schemaVersion") != 2 or not isinstance(layers, list):
        raise ContainerError("this is no image manifest of schema 2; older ones tell no digests of what they contain")
    if "manifests" in manifest:
        raise ContainerError("a manifest that is an index as well: it would be two images, CVE-2021-41190")
    check_descriptor(manifest.get("config"), CONFIGS)
    for layer in layers:
        check_descriptor(layer, LAYERS)
    if len(layers) > MAX_LAYERS:
        raise ContainerError(f"an image of {len(layers)} layers: OverlayFS takes {MAX_LAYERS} at most")
    return manifest


def check_config(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config of an image of that many layers. Only what we use is looked at; the rest is kept as it is."""
    config |= {name: {} for name in ("config", "rootfs") if config.get(name) is None}
    inner, rootfs = config["config"], config["rootfs"]
    for name in ("Cmd", "Entrypoint"):
        if isinstance(inner, dict) and isinstance(inner.get(name), str):
            inner[name] = [inner[name]]  # Docker takes it, and early builders wrote it
    _check("config", config, CONFIG_KINDS)
    if inner.get("Volumes"):
        inner["Volumes"] = {os.path.join("/", path): empty for path, empty in inner["Volumes"].items()}
    rootfs["diff_ids"] = rootfs.get("diff_ids") or []
    if len(rootfs["diff_ids"]) != layers:
        raise ContainerError(f"the image's config does not name one diff ID for each of its {layers} layers")
    for diff_id in rootfs["diff_ids"]:
        check_digest(diff_id)
    return config


def _check(name: str, value: object, kind: Any) -> None:
    """Whether it is of this kind: a type, a list of one kind, or a dict with a kind for each key that may be there."""
    if not isinstance(value, kind if isinstance(kind, type) else type(kind)):
        raise ContainerError(f"the image's config has a {name} that cannot be: {printable(str(value)[:40])}")
    if isinstance(value, list):
        for one in value:
            _check(name, one, kind[0])
    if isinstance(value, dict):
        for key in kind:
            if value.get(key) is not None:
                _check(key, value[key], kind[key])


def platform() -> dict[str, str]:
    """What this machine can execute, as an index names it."""
    machine = os.uname().machine
    return {"os": "linux", "architecture": ARCHITECTURES.get(machine, machine)}


def _spelled(has: dict[str, Any]) -> str:
    return "/".join(str(has[key]) for key in ("os", "architecture", "variant") if has.get(key))


def fits(descriptor: Descriptor, wanted: str = "") -> bool:
    """Whether "os/architecture[/variant]", by default this machine, can execute it. What it does not say fits."""
    has = descriptor.get("platform")
    pairs = zip(("os", "architecture", "variant"), (wanted or _spelled(platform())).split("/"), strict=False)
    return not isinstance(has, dict) or all((has.get(key) or value) == value for key, value in pairs)


def listed(index: dict[str, Any]) -> list[Descriptor]:
    """The entries of an index from outside."""
    entries = index.get("manifests")
    return [check_descriptor(entry) for entry in entries] if isinstance(entries, list) else []


def for_platform(index: dict[str, Any], wanted: str = "") -> Descriptor:
    """The entry of an index for this platform, by default this machine's."""
    if "layers" in index or "config" in index:
        raise ContainerError("an index that is a manifest as well: it would be two images, CVE-2021-41190")
    there = listed(index)
    for entry in there:
        if fits(entry, wanted):
            return check_descriptor(entry, (*INDEXES, *MANIFESTS))
    has = " ".join(_spelled(entry["platform"]) for entry in there)
    raise ContainerError(f"no image for {wanted or _spelled(platform())}; there are {printable(has) or 'none'}")


def check_platform(config: dict[str, Any]) -> None:
    """An image of another architecture would fail at its first execve, with a worse message. What is not said fits."""
    if not fits({"platform": config}):
        its, here = _spelled(platform() | config), _spelled(platform())
        raise ContainerError(f"the image is for {its}, and this machine is {here}: pull it for this platform")


def printable(text: str) -> str:
    """Text from outside, as it may be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])

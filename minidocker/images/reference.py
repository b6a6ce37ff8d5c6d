"""Chapter 5: the name of an image, which is also where it comes from.

    parse("nginx")                            docker.io/library/nginx:latest
    parse("localhost:5000/team/app:1.2")      registry localhost:5000, repository team/app, tag 1.2
    parse("app@sha256:…")                     exactly this content, whatever the tag points to today

Grammar: the OCI distribution specification ("Pulling manifests"). That a first part with a dot, a colon or the name
localhost is a registry, and that everything else is on docker.io, is Docker's custom.
"""

from __future__ import annotations

from minidocker.outcome import ContainerError

DEFAULT_REGISTRY, OFFICIAL, DEFAULT_TAG = "docker.io", "library/", "latest"
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_WORD = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_HEX = frozenset("0123456789abcdef")


class Reference:
    """`registry`, `repository`, and `tag` or `digest` or both. `str`: the full name; `familiar`: what people type."""

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry, self.repository, self.tag, self.digest = registry, repository, tag, digest

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix()}"

    @property
    def familiar(self) -> str:
        """Without the parts that everybody leaves out."""
        if self.registry != DEFAULT_REGISTRY:
            return str(self)
        return self.repository.removeprefix(OFFICIAL) + self._suffix()

    @property
    def name(self) -> str:
        """The column REPOSITORY of `images`."""
        return self.familiar.removesuffix(self._suffix())

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The parts of an image's name; a name without tag and digest means the tag `latest`. Raises `ContainerError`."""
    name, at, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    registry, repository = (first, rest) if slash and _is_registry(first) else (DEFAULT_REGISTRY, name)
    repository, colon, tag = repository.partition(":")
    if registry == DEFAULT_REGISTRY and repository and "/" not in repository:
        repository = OFFICIAL + repository
    if not repository or not all(map(_is_component, repository.split("/"))) or len(repository) > 255:
        _refuse(text, "a repository is lower-case letters and digits, with single . _ - or / between them")
    if colon and not (tag and len(tag) <= 128 and tag[0] in _WORD and not set(tag) - _WORD - {*".-"}):
        _refuse(text, "a tag is up to 128 letters, digits, _ . and -, and does not begin with . or -")
    if at:
        check_digest(digest)
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def _is_registry(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost"


def _is_component(part: str) -> bool:
    """Between two of its words stands one dot, one or two underscores, or any number of dashes."""
    gaps = "".join("x" if letter in _LOWER else letter for letter in part)
    return all(gap in ("", ".", "_", "__") or not gap.strip("-") for gap in gaps.strip("x").split("x")) and (
        part[:1] in _LOWER and part[-1:] in _LOWER
    )


def check_digest(digest: str) -> str:
    """The hexadecimal part of a sha256 digest. It comes from outside: nothing else may become a part of a path."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or set(value) - _HEX:
        raise ContainerError(f"{digest!r} is no digest: sha256: and 64 hexadecimal digits are expected")
    return value


def _refuse(text: str, why: str) -> None:
    raise ContainerError(f"{text!r} is no name of an image: {why}")

"""Chapter 5: the name of an image, which is also where it comes from.

    parse("nginx")                            docker.io/library/nginx:latest
    parse("localhost:5000/team/app:1.2")      registry localhost:5000, repository team/app, tag 1.2
    parse("app@sha256:…")                     exactly this content, whatever the tag points to today

Grammar: the OCI distribution specification ("Pulling manifests"). That a first part with a dot, a colon or the name
localhost is a registry, and that everything else is on docker.io, is Docker's custom.
"""

from __future__ import annotations

import re

from minidocker.outcome import ContainerError

DEFAULT_REGISTRY, OFFICIAL, DEFAULT_TAG = "docker.io", "library/", "latest"
_HOST = r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9a-f:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?=[^/]*[.:]|localhost/)({_HOST})/)?({_PART}(?:/{_PART})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{,127}}))?(?:@(.*))?"
)


class Reference:
    """`registry`, `repository`, and `tag` or `digest` or both. `str`: the full name; `familiar`: what people type."""

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry, self.repository, self.tag, self.digest = registry, repository, tag, digest

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix()}"

    @property
    def name(self) -> str:
        """The column REPOSITORY of `images`: without the parts that everybody leaves out."""
        if self.registry != DEFAULT_REGISTRY:
            return f"{self.registry}/{self.repository}"
        return self.repository.removeprefix(OFFICIAL)

    @property
    def familiar(self) -> str:
        """The same, with tag and digest."""
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The parts of an image's name; a name without tag and digest means the tag `latest`. Raises `ContainerError`."""
    found = _NAME.fullmatch(text)
    if not found or len(found[2]) > 255:
        raise ContainerError(
            f"{text!r} is no name of an image: a repository is lower-case letters and digits, with single . _ - or / "
            "between them, and a tag up to 128 letters, digits, _ . and -"
        )
    registry, repository, tag, digest = found.groups(default="")
    if re.fullmatch("(sha256:)?[0-9a-f]{64}", text):
        raise ContainerError(f"{text}: no such image, and no name: 64 hexadecimal digits are an ID")
    if digest or "@" in text:
        check_digest(digest)
    if registry in ("", DEFAULT_REGISTRY) and "/" not in repository:
        repository = OFFICIAL + repository
    return Reference(registry or DEFAULT_REGISTRY, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def check_digest(digest: str) -> str:
    """The hexadecimal part of a sha256 digest. It comes from outside: nothing else may become a part of a path."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise ContainerError(f"{digest!r} is no digest: sha256: and 64 hexadecimal digits are expected")
    return digest.removeprefix("sha256:")

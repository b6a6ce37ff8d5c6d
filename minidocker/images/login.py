"""Chapter 5: who we are to a registry. Nobody in particular, unless somebody wrote a name and a password down.

    credentials("localhost:5000")      # ("ann", "secret"), or None
    challenge('Bearer realm="https://auth.docker.io/token",service="registry.docker.io"')

Two places are looked at: MINIDOCKER_AUTH="localhost:5000=ann:secret", and the file that `docker login` writes,
~/.docker/config.json, where they are in base64, which is a spelling and no secret. Each registry gets its own only.
Sources: RFC 9110, 11 (challenges); Docker's registry specification, "Token Authentication".
"""

from __future__ import annotations

import base64
import binascii
import os
import re

from minidocker.images import manifest as media
from minidocker.outcome import ContainerError

HUB = "docker.io"
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s",]+))')

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def credentials(registry: str) -> tuple[str, str] | None:
    """(user, password) for the registry "host" or "host:port", of the environment or of Docker's file; or None."""
    host, _, pair = os.environ.get("MINIDOCKER_AUTH", "").partition("=")
    if pair and host == registry:
        return _pair(pair, "MINIDOCKER_AUTH")
    for key, entry in _docker_auths().items():
        if _host(key) == _host(registry) and isinstance(entry, dict) and entry.get("auth"):
            try:
                return _pair(base64.b64decode(entry["auth"], validate=True).decode(), f"Docker's login for {key}")
            except (binascii.Error, UnicodeDecodeError, TypeError, ValueError):
                raise ContainerError(f"Docker's login for {key} is not in base64: docker login again") from None
    return None


def _pair(text: str, source: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise ContainerError(f"{source}: USER:PASSWORD is expected")
    return user, password


def _docker_auths() -> dict[str, Any]:
    """The part "auths" of Docker's config.json; empty if there is none. DOCKER_CONFIG is its directory."""
    path = os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")
    try:
        with open(path, "rb") as file:
            auths = media.parsed(file.read(media.MAX_JSON + 1)).get("auths")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ContainerError as wrong:
        raise ContainerError(f"{path}: {wrong}") from None
    return auths if isinstance(auths, dict) else {}


def _host(key: str) -> str:
    """The registry that a key of "auths" means: docker.io is written https://index.docker.io/v1/ there."""
    host = key.partition("://")[2] or key
    host = host.partition("/")[0]
    return HUB if host in ("index.docker.io", "registry-1.docker.io") else host


def basic(user: str, password: str) -> str:
    """The header Authorization with name and password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def challenge(header: str) -> tuple[str, dict[str, str]]:
    """What a 401 asks for in its header WWW-Authenticate: ("bearer" or "basic" or another scheme, parameters)."""
    scheme, _, rest = header.strip().partition(" ")
    return scheme.lower(), {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(rest)}


def token(answer: bytes, realm: str) -> str:
    """The header Authorization with the token that the server at `realm` has given. It is not believed to be text."""
    document = media.parsed(answer)
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ContainerError(f"{realm}: it gave no token that could be sent in a header")
    return f"Bearer {value}"

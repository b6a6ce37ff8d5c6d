"""Chapter 5: whom to ask, and as whom. A registry may send us elsewhere, but not to plain HTTP, nor to this machine.

Plain HTTP is for registries on this machine, and for those named in MINIDOCKER_INSECURE ("host:port,…"): anybody on the
way can read it, and answer in their place. Each registry gets its own password only: of MINIDOCKER_AUTH
("localhost:5000=ann:secret"), or of the file that `docker login` writes, where it is in base64, a spelling and no
secret. Sources: RFC 9110, 11 (challenges); Docker's registry specification, "Token Authentication".
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
from urllib.parse import urljoin

from urllib3.connection import port_by_scheme
from urllib3.util import Url, parse_url

from minidocker.images import manifest as media
from minidocker.images.manifest import DEFAULT_REGISTRY
from minidocker.outcome import ContainerError

HUB_URL = "https://registry-1.docker.io"
WORD = re.compile(r'(\w+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s",]+))|([\w-]+)')  # name="value", name=value, or a scheme


def url_of(name: str) -> str:
    """The URL of a registry. A password in the URL of a mirror is dropped: errors would show it."""
    if "://" in name:
        return address(name)._replace(auth=None).url.rstrip("/")
    plain = is_here(f"//{name}") or name in os.environ.get("MINIDOCKER_INSECURE", "").split(",")
    return HUB_URL if name == DEFAULT_REGISTRY else f"{'http' if plain else 'https'}://{name}"


def address(url: str, base: str = "") -> Url:
    """Where that leads: read by urllib3, which goes there. Others see another host in `https://localhost\\@ghcr.io`."""
    with contextlib.suppress(ValueError):
        return parse_url(urljoin(base, url))
    raise ContainerError(f"{base and f'{base}: it sent us to '}an address that is none: {media.printable(url)}")


def is_here(url: str) -> bool:
    """Whether it is on this machine, also in other spellings, such as 127.1 or [::ffff:7f00:1]."""
    host = (address(url).host or "").strip("[]").partition("%")[0].rstrip(".")
    with contextlib.suppress(OSError, UnicodeError):
        host = str(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0]).removeprefix("::ffff:")
    return re.fullmatch(r"localhost|::1?|(127|0)(\.\d+){3}", host) is not None


def origin(url: str) -> tuple[object, ...]:
    """Scheme, host and port: what must be the same for a password to be sent."""
    parts = address(url)
    return parts.scheme, parts.host, parts.port or port_by_scheme.get(parts.scheme or "")


def may_ask(url: str, registry: str) -> bool:
    """Whether the registry may send us there: over TLS, or where plain HTTP was asked for. Only one that is itself on
    this machine may name another server on it, which might be one that trusts all that comes from here.
    """
    scheme, place = address(url).scheme, address(url).netloc or ""
    if is_here(url) and not is_here(registry):
        return False
    plain = origin(url) == origin(registry) or url_of(place).startswith("http:")
    return scheme == "https" or (scheme == "http" and plain)


def challenges(header: str) -> dict[str, dict[str, str]]:
    """What a 401 asks for in WWW-Authenticate, which may hold several: {"bearer": {"realm": …}, "basic": …}."""
    found: dict[str, dict[str, str]] = {}
    scheme = ""
    for name, quoted, plain, word in WORD.findall(header):
        scheme = word.lower() or scheme
        parameters = found.setdefault(scheme, {})
        if name:
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
    return found


def credentials(registry: str) -> dict[str, str]:
    """The header Authorization for a registry, of the environment or of Docker's file; or {}."""
    host, _, pair = os.environ.get("MINIDOCKER_AUTH", "").partition("=")
    path = os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")
    key = "https://index.docker.io/v1/" if registry == DEFAULT_REGISTRY else registry
    try:
        if host != registry:
            with open(path, "rb") as file:
                auths = media.parsed(file.read(media.MAX_JSON + 1)).get("auths") or {}
            pair = base64.b64decode((auths.get(key) or {}).get("auth") or "", validate=True).decode()
        if pair and pair.find(":") < 1:
            raise ValueError("USER:PASSWORD is expected")
    except (FileNotFoundError, NotADirectoryError):
        pair = ""
    except (AttributeError, TypeError, ValueError, ContainerError) as wrong:
        raise ContainerError(f"cannot read the login for {registry}: {wrong}: docker login again ({path})") from None
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()} if pair else {}

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
import urllib.request
from urllib.parse import urljoin, urlsplit

from minidocker.images import manifest as media
from minidocker.images.reference import DEFAULT_REGISTRY
from minidocker.outcome import ContainerError

HUB_URL = "https://registry-1.docker.io"
WORD = re.compile(r'(\w+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s",]+))|([\w-]+)')  # name="value", name=value, or a scheme


def url_of(name: str) -> str:
    """The URL of a registry. A password in the URL of a mirror is dropped: errors would show it."""
    if "://" in name:
        parts = urlsplit(name)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    plain = is_here(name) or name in os.environ.get("MINIDOCKER_INSECURE", "").split(",")
    return HUB_URL if name == DEFAULT_REGISTRY else f"{'http' if plain else 'https'}://{name}"


def may_ask(url: str, registry: str) -> bool:
    """Whether the registry may send us there: over TLS, or where plain HTTP was asked for. Only one that is itself on
    this machine may name another server on it, which might be one that trusts all that comes from here.
    """
    parts = urlsplit(url)
    if is_here(parts.netloc) and not is_here(urlsplit(registry).netloc):
        return False
    plain = origin(url) == origin(registry) or url_of(parts.netloc).startswith("http:")
    return parts.scheme == "https" or (parts.scheme == "http" and plain)


def is_here(netloc: str) -> bool:
    """Whether it means this machine, also in the spellings of inet_aton(3), such as 127.1."""
    host = (urlsplit(f"//{netloc}").hostname or "").removesuffix(".")
    with contextlib.suppress(OSError, UnicodeError):
        return socket.inet_aton(host.removeprefix("::ffff:"))[0] in (0, 127)
    return host in ("localhost", "::", "::1")


def origin(url: str) -> str:
    """Scheme, host and port: what must be the same for a password to be sent."""
    parts = urlsplit(url)
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower().removesuffix(port)}"


def joined(base: str, url: str) -> str:
    """The address that a header means. Its port is read only when it is asked for, and may be no number."""
    with contextlib.suppress(ValueError):
        target = urljoin(base, url)
        if urlsplit(target).port != -1:
            return target
    raise ContainerError(f"{base}: it sent us to an address that is none: {media.printable(url)}")


def proxy_for(url: str) -> str | None:
    """The proxy of the environment (HTTPS_PROXY, NO_PROXY), if it names one for this host."""
    parts = urlsplit(url)
    direct = is_here(parts.netloc) or urllib.request.proxy_bypass(parts.netloc)
    return None if direct else urllib.request.getproxies().get(parts.scheme)


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

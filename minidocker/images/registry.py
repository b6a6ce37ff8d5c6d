"""Chapter 5: a registry is a web server. This is a client of it, request by request.

    GET   /v2/NAME/manifests/TAG-OR-DIGEST      what the image consists of
    GET   /v2/NAME/blobs/DIGEST                 one part of it
    HEAD  the same                              is it there?
    POST  /v2/NAME/blobs/uploads/               a new upload; then PUT the content where the answer says
    PUT   /v2/NAME/manifests/TAG                the image, when all its parts are there

What comes is believed if digest and size are those that were asked for, and is never read further than that. Plain
HTTP is for registries on this machine, and for those named in MINIDOCKER_INSECURE ("host:port,…"). Each registry gets
its own password only: of MINIDOCKER_AUTH ("localhost:5000=ann:secret"), or of the file that `docker login` writes.
Sources: the OCI distribution specification, spec.md; RFC 9110, 11; Docker's registry specification, "Token
Authentication".
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urljoin

import urllib3
from urllib3.connection import port_by_scheme
from urllib3.util import Url, parse_url

from minidocker.images import manifest as media
from minidocker.images.manifest import DEFAULT_REGISTRY, Descriptor
from minidocker.outcome import ContainerError

HUB_URL = "https://registry-1.docker.io"
LONGEST = 20  # seconds that a registry may let us wait
HOPS = 6  # redirects, and a login, until there is an answer
AGAIN = (429, 500, 502, 503, 504)  # what may be otherwise a little later
MAX_ANSWER = 1 << 16  # bytes of an answer that is no manifest and no blob
UNSAID = ("", "text/plain", "application/json", "application/octet-stream")  # the types of a server that knows none
WORD = re.compile(r'(\w+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s",]+))|([\w-]+)')  # name="value", name=value, or a scheme
MEANINGS = {
    200: "a web page: this is not a registry",
    401: "it does not let us in: check the name, or docker login, or set MINIDOCKER_AUTH",
    403: "it does not allow that: is it your repository, and are you logged in?",
    404: "it does not have that: check the name and the tag",
    429: "too many requests: wait, log in, set MINIDOCKER_MIRROR to a registry nearby, or minidocker load a file",
}


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
    """Whether the registry may send us there: over TLS, or where plain HTTP was asked for.

    Only one that is itself on this machine may name another server on it: that may trust all that comes from here.
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
                auths = media.parsed(file.read(media.MAX_JSON + 1), what="config.json").get("auths") or {}
            pair = base64.b64decode((auths.get(key) or {}).get("auth") or "", validate=True).decode()
        if pair and pair.find(":") < 1:
            raise ValueError("USER:PASSWORD is expected")
    except (FileNotFoundError, NotADirectoryError):
        pair = ""
    except (AttributeError, TypeError, ValueError, ContainerError) as wrong:
        raise ContainerError(f"cannot read the login for {registry}: {wrong}: docker login again ({path})") from None
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()} if pair else {}


class Unreachable(ContainerError):
    """No answer, or half of one: the network's fault, or time's, so it is worth to try again later."""


class Patience(urllib3.Retry):
    """Whether to ask again, and when: urllib3's rule, but not if the registry says to wait for hours (Retry-After)."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        """Seconds, of a number or a date; None if the header is neither, or has more digits than int() takes."""
        with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            return super().get_retry_after(response)
        return None

    def increment(self, *where: Any, **more: Any) -> Any:
        """The rule for the next time; if it raises there is none, and urllib3 returns this answer."""
        response = more.get("response")
        if response and (self.get_retry_after(response) or 0) > LONGEST:
            raise urllib3.exceptions.MaxRetryError(more["_pool"], "", None)
        return super().increment(*where, **more)


class Registry:
    """One repository of a registry, named as in image names ("docker.io", "localhost:5000") or by a mirror's URL.

    Several threads may use it. `timeout`: seconds to wait for each answer and each piece of it; `retries`: how often to
    ask again, `backoff`: seconds before the second time, doubled each time. Raises `ContainerError`.
    """

    timeout, retries, backoff = 30.0, 4, 0.5

    def __init__(self, name: str, repository: str) -> None:
        self.url, self.repository = url_of(name), repository
        self.name = self.url.partition("://")[2] if "://" in name else name
        self.scopes: set[str] = set()  # what tokens are asked for: "repository:NAME:pull"
        self.identity: dict[str, str] = {}  # the header Authorization, once it was demanded
        self.again = Patience(
            self.retries,
            connect=2,
            other=0,  # a certificate does not get better
            allowed_methods=None,  # all of them
            status_forcelist=AGAIN,
            raise_on_status=False,
            backoff_factor=self.backoff,
            retry_after_max=1 << 40,  # `Patience` decides
        )
        pool: dict[str, Any] = {"maxsize": 8, "timeout": self.timeout, "retries": self.again}
        place = address(self.url)
        direct = is_here(self.url) or urllib.request.proxy_bypass(place.netloc or "")
        proxy = None if direct else urllib.request.getproxies().get(place.scheme or "")
        self._pool = urllib3.ProxyManager(proxy, **pool) if proxy else urllib3.PoolManager(**pool)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        """urllib3 would wait for Python to find out that nobody needs the connections any more."""
        for host in self._pool.pools.keys():  # noqa: SIM118  # it is no dict, and not to be iterated
            self._pool.pools[host].close()

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Ask, log in if that is demanded, follow redirects; return an answer whose body, after GET, is not read yet.

        Password and token go to the registry itself, and to no other host. After HEAD, any answer is one.
        """
        target = self._led(f"{self.url}/v2/{self.repository}/", path)
        headers = options.pop("headers", {})
        identity, asked = self.identity, False
        for _ in range(HOPS):
            ours = origin(target) == origin(self.url)
            response = self._send(method, target, headers | (identity if ours else {}), **options)
            demand = response.headers.get("WWW-Authenticate")
            place = response.get_redirect_location() if method in ("GET", "HEAD") else None
            if response.status == 401 and demand and ours and not asked:
                self.rest(response)
                asked, identity = True, self._login(demand)
                self.identity = identity
            elif place:
                self.rest(response)
                target = self._led(target, place)
            else:
                break
        if method != "HEAD" and not 200 <= response.status < 300:
            raise self._refused(response)
        if method != "GET":
            self.rest(response)
        return response

    def _led(self, base: str, place: str) -> str:
        """The address that a header means, if we may go there."""
        url = address(place, base).url
        if not may_ask(url, self.url):
            why = "is plain HTTP (name its host in MINIDOCKER_INSECURE), or on this machine"
            raise ContainerError(f"{self.name}: {media.printable(url)} {why}")
        return url

    def _send(self, method: str, url: str, headers: dict[str, str], **options: Any) -> urllib3.BaseHTTPResponse:
        """One request. No compression on the way: digests and sizes are those of what is sent."""
        headers = {"User-Agent": "minidocker", "Accept-Encoding": "identity", **headers}
        try:
            return self._pool.request(method, url, headers=headers, redirect=False, preload_content=False, **options)
        except (urllib3.exceptions.HTTPError, ValueError) as failure:
            raise self._unreachable(failure) from None

    def _login(self, demand: str) -> dict[str, str]:
        """The header Authorization that the registry wants: a token that another server gives, or our password."""
        wanted, password = challenges(demand), credentials(self.name)
        bearer = wanted.get("bearer", {})
        if not bearer.get("realm"):
            if "basic" not in wanted:
                why = f"a login of a kind that is not known here: {media.printable(demand)}"
                raise ContainerError(f"{self.name}: it wants {why}")
            if not password:
                raise ContainerError(f"{self.name}: it wants a password: docker login {self.name}, or MINIDOCKER_AUTH")
            return password
        self.scopes |= {bearer["scope"]} if bearer.get("scope") else set()
        query = urlencode({"service": bearer.get("service", ""), "scope": sorted(self.scopes)}, doseq=True)
        realm = self._led(self.url, bearer["realm"])
        response = self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}", password)
        if response.status != 200:
            raise self._refused(response, f"no token from {address(realm).netloc}: ")
        document = media.parsed(b"".join(self.pieces(response, MAX_ANSWER)), what=realm)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ContainerError(f"{realm}: it gave no token that could be sent in a header")
        return {"Authorization": f"Bearer {token}"}

    def manifest(self, reference: str) -> tuple[bytes, Descriptor]:
        """A manifest or an index by its tag or digest, as it is spelled there, and its descriptor."""
        accept = {"Accept": ", ".join((*media.INDEXES, *media.MANIFESTS))}
        response = self.request("GET", f"manifests/{reference}", headers=accept)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind == "text/html":
            raise self._refused(response)
        data = b"".join(self.pieces(response, media.MAX_JSON))
        document = media.parsed(data, what=f"{self.name}: {reference}")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for wanted in map(media.printable, (response.headers.get("Docker-Content-Digest", ""), reference)):
            if wanted.startswith("sha256:") and wanted != digest:
                raise ContainerError(f"{self.name}: it sent a manifest with the digest {digest} as {wanted}")
        said = document.get("mediaType", kind)
        if kind not in UNSAID and said != kind:
            raise ContainerError(f"{self.name}: {reference}: it came as {media.printable(kind)}, and is none")
        descriptor = {"mediaType": said, "digest": digest, "size": len(data)}
        return data, media.check_descriptor(descriptor, (*media.INDEXES, *media.MANIFESTS))

    def blob(self, descriptor: Descriptor, done: int) -> urllib3.BaseHTTPResponse:
        """Ask for a blob, from this byte on. What the headers say of the body has to fit."""
        digest = descriptor["digest"]
        headers = {"Range": f"bytes={done}-"} if done else {}
        response = self.request("GET", f"blobs/{digest}", headers=headers)
        partly = response.status == 206
        begin = done if partly else 0  # it may know no ranges, and send all of it again
        missing = str(descriptor["size"] - begin)
        length, span = (response.headers.get(name, "") for name in ("Content-Length", "Content-Range"))
        if (length or missing) != missing or (partly and not span.startswith(f"bytes {begin}-")):
            response.close()
            came = f"{media.printable(length)} {media.printable(span) or 'bytes'}"
            raise ContainerError(f"{self.name}: {digest}: it sends {came}, not the {missing} bytes from {begin}")
        return response

    def pieces(self, response: urllib3.BaseHTTPResponse, limit: int) -> Iterator[bytes]:
        """Yield the body as it arrives, up to `limit` bytes; then let go of the connection."""
        left = limit
        try:
            while data := response.read(MAX_ANSWER, decode_content=False):
                left -= len(data)
                if left < 0:
                    raise ContainerError(f"{self.name}: it sends more than {limit} bytes: refused")
                yield data
        except (urllib3.exceptions.HTTPError, OSError) as failure:
            raise self._unreachable(failure) from None
        finally:
            response.close()

    def _refused(self, response: urllib3.BaseHTTPResponse, what: str = "") -> ContainerError:
        """What an answer means, what can be done, and the first error that the registry itself names."""
        status, wait = response.status, self.again.get_retry_after(response)
        otherwise = "it has a problem, try later" if status >= 500 else "an answer that does not fit"
        seconds = f" (it says: in {wait:.0f} seconds)" if wait and status in AGAIN else ""
        said = ""
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            error = json.loads(self.rest(response))["errors"][0]
            said = f": {media.printable(str(error.get('message') or error['code']))}"
        return ContainerError(f"{self.name}: {what}HTTP {status}: {MEANINGS.get(status, otherwise)}{seconds}{said}")

    def _unreachable(self, failure: Exception) -> Unreachable:
        """urllib3 wraps the failure into that of the last attempt."""
        reason = getattr(failure, "reason", failure)
        text = media.printable(re.sub(r"\[Errno -?\d+\] ", "", str(reason).rpartition(": ")[2]))
        certificate = isinstance(reason, urllib3.exceptions.SSLError)
        remedy = " (SSL_CERT_FILE can name another authority)" if certificate else ""
        return Unreachable(f"{self.name}: no answer: {text}{remedy}")

    def rest(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """The body, if it is short: an answer that was read to its end leaves a connection that is used again."""
        with contextlib.suppress(ContainerError):
            return b"".join(self.pieces(response, MAX_ANSWER))
        return b""

"""Chapter 5: a connection to one registry: which address, which password, what to do when it does not answer.

    with Connection("localhost:5000") as connection:
        response = connection.request("GET", "/v2/", allowed=(200,))

Plain HTTP is for registries on this machine, and for those named in MINIDOCKER_INSECURE ("host:port,…"): anybody on
the way can read it, and answer in their place. Passwords go to the registry and to the server that it names for tokens,
never to a host that it redirects to. urllib3 keeps connections open, and connects again if one was cut.
"""

from __future__ import annotations

import os
import time
import urllib.request
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from minidocker.images import login
from minidocker.images.answers import AGAIN, MAX_ANSWER, explained, number, printable, refusal, rest
from minidocker.images.reference import DEFAULT_REGISTRY
from minidocker.outcome import ContainerError

HUB_URL = "https://registry-1.docker.io"
REDIRECTS, MAX_REDIRECTS = (301, 302, 303, 307, 308), 5

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urllib3 import BaseHTTPResponse


class Unreachable(ContainerError):
    """No answer, or half of one: the network's fault, or time's, so it is worth to try again later."""


class Connection:
    """One registry, by its name in image names ("docker.io", "localhost:5000"), or by the URL of a mirror.

    Several threads may use it. `timeout`: seconds to wait for each answer and for each piece of it; `retries`: how
    often to ask again, `backoff`: seconds before the second time, doubled each time; `patience`: the longest time to
    wait if the registry itself says how long (Retry-After), in seconds.
    """

    timeout, retries, backoff, patience = 30.0, 4, 0.5, 20

    def __init__(self, name: str) -> None:
        self.url = url_of(name)
        self.name = urlsplit(self.url).netloc if "://" in name else name
        self.scopes: set[str] = set()  # what tokens are asked for: "repository:NAME:pull"
        self._authorization = ""
        self._pool = _pool(self.url, self.timeout, self.retries, self.backoff)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        """urllib3 would wait for Python to find out that nobody needs the connections any more."""
        for host in self._pool.pools.keys():  # noqa: SIM118  # it is no dict, and not to be iterated
            self._pool.pools[host].close()
        self._pool.clear()

    def request(
        self, method: str, url: str, allowed: tuple[int, ...], headers: dict[str, str] | None = None, body: bytes = b""
    ) -> BaseHTTPResponse:
        """Ask, log in if that is demanded, follow redirects; return an answer whose body is not read yet, to be closed.

        `url` may be relative. Raises `Unreachable`, or `ContainerError` for an answer that is not in `allowed`.
        """
        target = _joined(self.url, url)
        response = self._logged_in(method, target, headers or {}, body)
        for _ in range(MAX_REDIRECTS):
            place = response.headers.get("Location")
            if method not in ("GET", "HEAD") or response.status not in REDIRECTS or not place:
                break
            rest(response)
            target = _joined(target, place)
            response = self._logged_in(method, target, headers or {}, body)
        if response.status not in allowed:
            raise ContainerError(f"{self.name}: {refusal(response)}")
        return response

    def _logged_in(self, method: str, url: str, headers: dict[str, str], body: bytes) -> BaseHTTPResponse:
        """Ask; after a 401, which says what is wanted, once more."""
        ours = _origin(url) == _origin(self.url)
        response = self._send(method, url, headers | self._identity(ours), body)
        demand = response.headers.get("WWW-Authenticate", "")
        if response.status == 401 and demand and ours:
            rest(response)
            self._authorization = self._login(demand)
            response = self._send(method, url, headers | self._identity(ours), body)
        return response

    def _identity(self, ours: bool) -> dict[str, str]:
        return {"Authorization": self._authorization} if ours and self._authorization else {}

    def _login(self, demand: str) -> str:
        """The header Authorization that the registry wants: our password, or a token that we get for it elsewhere."""
        scheme, parameters = login.challenge(demand)
        known = login.credentials(self.name)
        if scheme == "basic":
            if not known:
                raise ContainerError(f"{self.name}: it wants a password: docker login {self.name}, or MINIDOCKER_AUTH")
            return login.basic(*known)
        if scheme != "bearer" or not parameters.get("realm"):
            raise ContainerError(f"{self.name}: it wants a login of a kind that is not known here: {printable(demand)}")
        self.scopes.update(filter(None, [parameters.get("scope")]))
        query = [("service", parameters.get("service", "")), *(("scope", scope) for scope in sorted(self.scopes))]
        realm = _joined(self.url, parameters["realm"])
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        response = self._send("GET", url, {"Authorization": login.basic(*known)} if known else {}, b"")
        if response.status != 200:
            raise ContainerError(f"{self.name}: no token from {_origin(realm)}: {refusal(response)}")
        return login.token(self.content(response, MAX_ANSWER), realm)

    def _send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> BaseHTTPResponse:
        """Ask until the answer is one that will stay the same."""
        if not may_ask(url, self.url):
            why = "is plain HTTP (name its host in MINIDOCKER_INSECURE), or on this machine"
            raise ContainerError(f"{self.name}: {printable(url)} {why}")
        for attempt in range(self.retries + 1):
            response = self._once(method, url, headers, body)
            pause = self._pause(response, attempt)
            if response.status not in AGAIN or method == "PATCH" or pause > self.patience or attempt == self.retries:
                break
            rest(response)
            time.sleep(pause)
        return response

    def _pause(self, response: BaseHTTPResponse, attempt: int) -> float:
        """Seconds to wait: what the registry says in Retry-After (if not as a date), else twice as long each time."""
        said = number(response.headers.get("Retry-After", ""))
        return self.backoff * 2**attempt if said is None else said

    def _once(self, method: str, url: str, headers: dict[str, str], body: bytes) -> BaseHTTPResponse:
        """One request. No compression on the way: digests and sizes are those of what is sent."""
        headers = {"User-Agent": "minidocker", "Accept-Encoding": "identity", **headers}
        try:
            return self._pool.request(
                method, url, headers=headers, body=body or None, preload_content=False, redirect=False
            )
        except (urllib3.exceptions.HTTPError, ValueError) as failure:
            raise Unreachable(f"{self.name}: {explained(failure, self.timeout)}") from None

    def content(self, response: BaseHTTPResponse, limit: int) -> bytes:
        """A small body, read to the end; one byte more than `limit` is read of a longer one."""
        return b"".join(self.pieces(response, limit + 1))[: limit + 1]

    def pieces(self, response: BaseHTTPResponse, limit: int, size: int = 1 << 16) -> Any:
        """Yield the body as it arrives, at most a piece more than `limit` bytes; then let go of the connection."""
        total = 0
        try:
            while total < limit and (data := response.read(size, decode_content=False)):
                total += len(data)
                yield data
        except (urllib3.exceptions.HTTPError, OSError) as failure:
            raise Unreachable(f"{self.name}: {explained(failure, self.timeout)}") from None
        finally:
            response.close()


# --- addresses -------------------------------------------------------------------------------------------------------


def url_of(name: str) -> str:
    """The URL of a registry. One that is given as a URL, as a mirror may be, is taken at its word; but a password in
    it is dropped: it would be shown in errors, and MINIDOCKER_AUTH is the place for it.
    """
    if "://" in name:
        parts = urlsplit(name)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if name == DEFAULT_REGISTRY:
        return HUB_URL
    return f"{'http' if _is_loopback(name) or name in _insecure() else 'https'}://{name}"


def may_ask(url: str, registry: str) -> bool:
    """Whether to speak to this address: over TLS, or where plain HTTP was asked for. Only what is itself on this
    machine may send us to another server on it, which might be one that trusts whoever asks from here.
    """
    parts = urlsplit(url)
    here = _is_loopback(parts.netloc)
    if here and not _is_loopback(urlsplit(registry).netloc):
        return False
    plain = _origin(url) == _origin(registry) or here or parts.netloc in _insecure()
    return parts.scheme == "https" or (parts.scheme == "http" and plain)


def _insecure() -> list[str]:
    return os.environ.get("MINIDOCKER_INSECURE", "").split(",")


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or (name.startswith("127.") and not name.strip("0123456789."))


def _origin(url: str) -> str:
    """Scheme, host and port: what must be the same for a password to be sent."""
    parts = urlsplit(url)
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower().removesuffix(port)}"


def _joined(base: str, url: str) -> str:
    try:
        target = urljoin(base, url)
        urlsplit(target).port  # noqa: B018  # it is read only when it is asked for, and may be no number
        return target
    except ValueError:
        raise ContainerError(f"{base}: it sent us to an address that is none: {printable(url)}") from None


def _pool(url: str, timeout: float, retries: int, backoff: float) -> urllib3.PoolManager:
    """Through the proxy of the environment (HTTPS_PROXY, NO_PROXY), if it names one for this host.

    Of the retries only those after a cut connection are left to urllib3; and not for PATCH, where twice would be wrong.
    """
    parts = urlsplit(url)
    again = urllib3.Retry(
        retries,
        connect=min(retries, 2),
        other=0,  # a certificate does not get better
        redirect=False,
        respect_retry_after_header=False,
        allowed_methods={"GET", "HEAD", "POST", "PUT"},
        backoff_factor=backoff,
        backoff_jitter=backoff,
    )
    limits = urllib3.Timeout(connect=timeout, read=timeout)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not _is_loopback(parts.netloc) and not urllib.request.proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy, timeout=limits, retries=again, maxsize=8)
    return urllib3.PoolManager(timeout=limits, retries=again, maxsize=8)

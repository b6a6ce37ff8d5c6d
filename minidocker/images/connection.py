"""Chapter 5: a connection to one registry: which address, which password, what to do when it does not answer.

    with Connection("localhost:5000") as connection:
        response = connection.request("GET", "/v2/", allowed=(200,))

Plain HTTP is for registries on this machine, and for those named in MINIDOCKER_INSECURE ("host:port,…"): anybody between
can read it, and can answer in their place. Passwords go to the registry and to the server that it names for tokens,
never to a host that it redirects to. urllib3 keeps connections open, and asks again after errors that may pass.
"""

from __future__ import annotations

import os
import urllib.request
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from minidocker.images import login
from minidocker.images.reference import DEFAULT_REGISTRY
from minidocker.outcome import ContainerError

HUB_URL = "https://registry-1.docker.io"
REDIRECTS = (301, 302, 303, 307, 308)
AGAIN = (429, 500, 502, 503, 504)  # answers that may be others in a moment
MAX_REDIRECTS = 5
MAX_ANSWER = 1 << 16  # bytes of an answer that is neither manifest nor blob
AGENT = "minidocker"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urllib3 import BaseHTTPResponse


class Unreachable(ContainerError):
    """No answer, or half of one: the network's fault, or time's, so it is worth to try again later."""


class Connection:
    """One registry, by its name in image names ("docker.io", "localhost:5000"), or by the URL of a mirror.

    Several threads may use it. `timeout`: seconds to wait for each answer and for each piece of it; `retries`: how
    often to ask again, `backoff`: seconds before the second time, doubled each time; `patience`: seconds to wait at
    most if the registry itself says how long (Retry-After).
    """

    timeout, retries, backoff, patience = 30.0, 4, 0.5, 20

    def __init__(self, name: str) -> None:
        self.name = urlsplit(name).netloc or name
        self.url = url_of(name)
        self.scopes: set[str] = set()  # what tokens are asked for: "repository:NAME:pull"
        self._authorization = ""
        self._pool = _pool(self.url, self.timeout, self._retry())

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def _retry(self) -> urllib3.Retry:
        """PATCH is not among them: twice the same piece would be one too many."""
        return urllib3.Retry(
            self.retries,
            redirect=False,
            status_forcelist=AGAIN,
            allowed_methods={"GET", "HEAD", "POST", "PUT"},
            backoff_factor=self.backoff,
            backoff_jitter=self.backoff,
            retry_after_max=self.patience,
            raise_on_status=False,
        )

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
            response.close()
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
            response.close()
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
        """One request. No compression on the way: digests and sizes are those of what is sent."""
        if not may_ask(url, self.url):
            raise ContainerError(f"{self.name}: {url} is plain HTTP: name its host in MINIDOCKER_INSECURE to allow it")
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
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
    """The URL of a registry. One that is given as a URL, as a mirror may be, is taken at its word."""
    if "://" in name:
        return name
    if name == DEFAULT_REGISTRY:
        return HUB_URL
    return f"{'http' if _is_loopback(name) or name in _insecure() else 'https'}://{name}"


def may_ask(url: str, registry: str) -> bool:
    """Whether to speak to this address: over TLS, or where plain HTTP was asked for."""
    parts = urlsplit(url)
    plain = _origin(url) == _origin(registry) or _is_loopback(parts.netloc) or parts.netloc in _insecure()
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


def _pool(url: str, timeout: float, retry: urllib3.Retry) -> urllib3.PoolManager:
    """Through the proxy of the environment (HTTPS_PROXY, NO_PROXY), if it names one for this host."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    limits = urllib3.Timeout(connect=timeout, read=timeout)
    if proxy and not _is_loopback(parts.netloc) and not urllib.request.proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy, timeout=limits, retries=retry, maxsize=8)
    return urllib3.PoolManager(timeout=limits, retries=retry, maxsize=8)


# --- what went wrong, in a line ---------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text from outside, short and without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def refusal(response: BaseHTTPResponse) -> str:
    """What an answer means for who reads it, and what they can do."""
    said = _message(response)
    meaning = {
        401: "it does not let us in: check the name, or docker login, or set MINIDOCKER_AUTH",
        403: "it does not allow that: is it your repository, and are you logged in?",
        404: "it does not have that: check the name and the tag",
        429: "too many requests: wait, log in, set MINIDOCKER_MIRROR to a registry nearby, or minidocker load a file",
    }.get(response.status, "it has a problem, try later" if response.status >= 500 else "an answer that does not fit")
    again = response.headers.get("Retry-After")
    wait = f" (it says: in {printable(again)} seconds)" if again and response.status in AGAIN else ""
    return f"HTTP {response.status}: {meaning}{wait}{said}"


def _message(response: BaseHTTPResponse) -> str:
    """The first error of the answer's body, which the specification makes {"errors": [{"code", "message"}]}."""
    import json

    try:
        error = json.loads(response.read(MAX_ANSWER, decode_content=False))["errors"][0]
        return f": {printable(str(error.get('message') or error['code']))}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError, urllib3.exceptions.HTTPError):
        return ""
    finally:
        response.close()


def explained(failure: Exception, timeout: float) -> str:
    """A failure of the network in few words; urllib3 wraps the real one into that of the last attempt."""
    reason = failure.reason if isinstance(failure, urllib3.exceptions.MaxRetryError) else failure
    kinds: list[tuple[Any, str]] = [
        (urllib3.exceptions.NameResolutionError, "no such host: check the name and the network"),
        (urllib3.exceptions.ReadTimeoutError, f"no answer within {timeout:g} seconds"),
        (urllib3.exceptions.ConnectTimeoutError, f"no connection within {timeout:g} seconds"),
        (urllib3.exceptions.SSLError, "no TLS with it (SSL_CERT_FILE can name another authority)"),
        (urllib3.exceptions.ProtocolError, "the connection was cut"),
    ]
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and not isinstance(reason, kinds[0][0]):
        return f"no connection: {printable(str(reason).rpartition(': ')[2])}"
    text = next((text for kind, text in kinds if isinstance(reason, kind)), "no answer that could be understood")
    return f"{text}: {printable(str(reason).rpartition(': ')[2])}"

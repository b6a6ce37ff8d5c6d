"""Chapter 5: what an answer of a registry means, or that there is none, in one line for who reads it.

    raise ContainerError(f"localhost:5000: {refusal(response)}")

The registry may say something of its own in the body. It is shown, but cut short and without what steers a terminal.
"""

from __future__ import annotations

import json

import urllib3

AGAIN = (429, 500, 502, 503, 504)  # answers that may be others in a moment
MAX_ANSWER = 1 << 16  # bytes of an answer that is neither manifest nor blob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urllib3 import BaseHTTPResponse


def printable(text: str) -> str:
    """Text from outside, as it may be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def number(text: str) -> int | None:
    """A number in a header, or None. int() would also take signs and other scripts' digits, and break on thousands."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


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
    try:
        error = json.loads(rest(response))["errors"][0]
        return f": {printable(str(error.get('message') or error['code']))}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def rest(response: BaseHTTPResponse) -> bytes:
    """Be done with an answer: its body, if it is short. A connection whose answer was read to the end is used again."""
    try:
        return response.read(MAX_ANSWER, decode_content=False)
    except (OSError, urllib3.exceptions.HTTPError):
        return b""
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

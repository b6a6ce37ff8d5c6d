"""Chapter 5: one instruction of a Dockerfile: KEYWORD --flag=value text, in one of three forms.

    COPY --chown=web index.html /srv/        words
    CMD ["nginx", "-g", "daemon off;"]       the exec form: a JSON list, in which nothing is split and no shell runs
    RUN <<EOF                                a here-document: its lines follow, up to one that is EOF

What is not understood is an error that names the line, and nothing is ever skipped.
Sources: Docker's Dockerfile reference, and where that is silent, what its builder does.
"""

from __future__ import annotations

import json
import re

from minidocker.images.words import BLANK, split
from minidocker.outcome import ContainerError

FLAGS: dict[str, tuple[str, ...]] = {  # all instructions, and the flags that each takes
    **dict.fromkeys(("ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "MAINTAINER", "ONBUILD"), ()),
    **dict.fromkeys(("SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"), ()),
    "ADD": ("chown", "chmod"),
    "COPY": ("from", "chown", "chmod"),
    "FROM": ("platform",),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
    "RUN": ("network",),
}
JSON_FORM = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")
DOCUMENT = re.compile(r"\d*<<(-?)([^<]+)")  # the word that announces a here-document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def refuse(line: int, problem: str) -> NoReturn:
    """An error with the line it is about."""
    raise ContainerError(f"Dockerfile line {line}: {problem}", exit_code=1)


class Document:
    """A here-document: `name` is its delimiter; `expand` is False if that was quoted; `text` ends with a line's end."""

    def __init__(self, name: str, expand: bool, strip: bool) -> None:
        self.name, self.expand, self.strip, self.text = name, expand, strip, ""

    def without_tabs(self) -> str:
        """The text; after <<- without the tabs at the beginning of its lines."""
        return re.sub(r"^\t+", "", self.text, flags=re.M) if self.strip else self.text


class Instruction:
    """`keyword` in capitals, `line` (from 1), `flags` by name, `text` behind them, `documents` below.

    `source` is the whole as one line, for people and for an image's history; `escape` the escape character.
    `json`: the list, if the text is a JSON list of strings where one is allowed (the exec form), else None.
    `trigger`: the instruction behind ONBUILD, else None.
    """

    def __init__(self, line: int, source: str, escape: str = "\\") -> None:
        word, _, rest = re.sub(f"[{BLANK}]+", " ", source, count=1).partition(" ")
        self.line, self.source, self.keyword, self.escape = line, source, word.upper(), escape
        if self.keyword not in FLAGS:
            refuse(line, f"unknown instruction {word}")
        self.flags, self.text = self._flags(rest)
        if not self.text:
            refuse(line, f"{self.keyword} needs an argument")
        self.json = self._json() if self.keyword in JSON_FORM else None
        self.documents: list[Document] = []
        self.trigger = self._trigger() if self.keyword == "ONBUILD" else None
        self._check()

    def _flags(self, rest: str) -> tuple[dict[str, str], str]:
        """({name: value}, what stands behind the flags): --name=value, before the first word without dashes."""
        flags: dict[str, str] = {}
        while rest.startswith("--"):
            word, rest = [*rest.split(None, 1), ""][:2]
            name, _, value = word[2:].partition("=")
            if name not in FLAGS[self.keyword]:
                known = " ".join(f"--{flag}" for flag in FLAGS[self.keyword]) or "none"
                refuse(self.line, f"{self.keyword} has no flag --{name} here; there are: {known}")
            if not value or name in flags:
                refuse(self.line, f"{self.keyword}: --{name} wants one value, --{name}=VALUE, and once")
            flags[name] = value
        return flags, rest

    def _json(self) -> list[str] | None:
        """The exec form. What is no JSON is the shell form, also if it begins with [, which is a program."""
        try:
            value = json.loads(self.text) if self.text.startswith("[") else None
        except (ValueError, RecursionError):
            return None
        if value is not None and not all(isinstance(item, str) for item in value):
            refuse(self.line, f"{self.keyword}: only strings may be in the JSON list")
        return value

    def _trigger(self) -> Instruction:
        """What waits behind ONBUILD for a build that begins with this image."""
        if (word := self.words()[0].upper()) in ("FROM", "MAINTAINER", "ONBUILD"):
            refuse(self.line, f"ONBUILD {word} is not allowed")
        return Instruction(self.line, self.text, self.escape)

    def _check(self) -> None:
        """What can be wrong with one instruction, whatever stands around it."""
        if self.keyword == "SHELL" and not self.json:
            refuse(self.line, 'SHELL takes a JSON list, such as ["/bin/sh", "-c"]')
        if self.keyword in ("ENV", "LABEL"):
            self.pairs()
        if self.keyword in ("ADD", "COPY") and len(self.words()) < 2:
            refuse(self.line, f"{self.keyword} takes one source or more, and where to put them")

    def words(self) -> list[str]:
        """The exec form's strings, or what stands between the blanks."""
        return re.findall(f"[^{BLANK}]+", self.text) if self.json is None else self.json

    def pairs(self) -> list[tuple[str, str]]:
        """NAME=VALUE … of ENV and LABEL, not expanded yet; "ENV NAME all the rest" is the form of old days."""
        words = split(self.text, self.escape)
        if "=" not in words[0]:
            value = self.text.removeprefix(words[0]).lstrip(BLANK)
            if not value:
                refuse(self.line, f"{self.keyword} {words[0]}: a value is missing")
            return [(words[0], value)]
        for word in words:
            if "=" not in word or word.startswith("="):
                refuse(self.line, f"{self.keyword}: {word!r} is not of the form NAME=VALUE")
        return [(name, value) for name, _, value in (word.partition("=") for word in words)]

    def script(self) -> str:
        """The command of a RUN in shell form. If it is one here-document and nothing else, that is the command."""
        if len(self.documents) == 1 and DOCUMENT.fullmatch(self.text):
            return self.documents[0].without_tabs()
        return "\n".join([self.text, *(document.text + document.name for document in self.documents)])

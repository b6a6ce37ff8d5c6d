"""Chapter 5: a Dockerfile, read. Text in, a list of stages with their instructions out; nothing is executed here.

    for instruction in parse(text).stages[0].instructions:
        print(instruction.line, instruction.keyword, instruction.flags, instruction.text)

    COPY --chown=web index.html /srv/        words
    CMD ["nginx", "-g", "daemon off;"]       the exec form: a JSON list, in which nothing is split and no shell runs
    RUN <<EOF                                a here-document: its lines follow, up to one that is EOF

A line that ends in a backslash goes on in the next; comments and empty lines between the two are left out.
What is not understood is an error with its line. Sources: Docker's Dockerfile reference, and what its builder does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from minidocker.outcome import ContainerError

FLAGS: dict[str, tuple[str, ...]] = {  # all instructions, and the flags that each takes
    **dict.fromkeys(("ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "MAINTAINER", "ONBUILD"), ()),
    **dict.fromkeys(("SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"), ()),
    **{"ADD": ("chown", "chmod"), "COPY": ("from", "chown", "chmod"), "FROM": ("platform",), "RUN": ("network",)},
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
JSON_FORM = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")
ESCAPE = re.compile(r"(?:#\s*(?:check|syntax)\s*=.*\n)*#\s*escape\s*=\s*[^\\\s]", re.I)  # of Windows: ` in place of \
DOCUMENT = re.compile(r"\d*<<(-?)([^<]+)")  # the word that announces a here-document
STAGE = re.compile(r"(\S+)(?:\s+AS\s+([a-z][a-z0-9_.-]*))?", re.I)
LEFT_OUT = re.compile(r"\s*(#|$)")  # comments and empty lines
BLANK = " \t\v\f\r\n"
MAX_SIZE = 1 << 20  # characters: a Dockerfile is text that somebody wrote
WORD = re.compile(rf"""(?:\\.|"(?:\\.|[^"\\])*"?|'[^']*'?|[^{BLANK}"'\\]|\\$)+""", re.S)
NAME = r"\d+|\w+|[@*#?$!-]"  # the last are a shell's own; none of them has a value here
PART = re.compile(
    rf"\\(?P<escaped>.?)|\$(?P<name>{NAME})|\$\{{(?P<braced>{NAME})(?P<sign>\}}|:?[-+?])|(?P<bad>\$\{{\w*:?.?)|.", re.S
)


class DockerfileError(ContainerError):
    """What is wrong in a Dockerfile, or went wrong there, in `line`."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"Dockerfile line {line}: {problem}", exit_code=1)
        self.line = line


class Document:
    """A here-document: `name` is its delimiter; `expand`: whether variables are replaced in `text`."""

    def __init__(self, name: str, text: str, expand: bool) -> None:
        self.name, self.text, self.expand = name, text, expand


class Instruction:
    """`keyword` in capitals, `line` (from 1), `flags` by name, `text` behind them, `documents` below.

    `source` is the whole as one line, for people and for an image's history.
    `json`: the list, if the text is a JSON list of strings where one is allowed (the exec form), else None.
    """

    def __init__(self, line: int, source: str) -> None:
        word, _, rest = re.sub(f"[{BLANK}]+", " ", source, count=1).partition(" ")
        self.line, self.source, self.keyword = line, source, word.upper()
        self.flags: dict[str, str] = {}
        self.documents: list[Document] = []
        self.json: list[str] | None = None
        if self.keyword not in FLAGS:
            raise self.error(f"unknown instruction {word}")
        self.text = self._after_flags(rest)
        if not self.text:
            raise self.error(f"{self.keyword} needs an argument")
        if self.keyword in JSON_FORM and self.text.startswith("["):
            self.json = self._json()
        if self.keyword == "SHELL" and not self.json:
            raise self.error('SHELL takes a JSON list, such as ["/bin/sh", "-c"]')
        if self.keyword in ("ENV", "LABEL"):
            self.pairs()
        if self.keyword in ("ADD", "COPY") and len(self.words()) < 2:
            raise self.error(f"{self.keyword} takes one source or more, and where to put them")

    def error(self, problem: object) -> DockerfileError:
        """What is wrong here, to raise."""
        return DockerfileError(self.line, str(problem))

    def _after_flags(self, rest: str) -> str:
        """Take --name=value, before the first word without dashes; return what stands behind."""
        while rest.startswith("--"):
            word, rest = [*rest.split(None, 1), ""][:2]
            name, _, value = word[2:].partition("=")
            if name not in FLAGS[self.keyword]:
                known = " ".join(f"--{flag}" for flag in FLAGS[self.keyword]) or "none"
                raise self.error(f"{self.keyword} has no flag --{name} here; there are: {known}")
            if not value or name in self.flags:
                raise self.error(f"{self.keyword}: --{name} wants one value, --{name}=VALUE, and once")
            self.flags[name] = value
        return rest

    def _json(self) -> list[str] | None:
        """The exec form. What is no JSON is the shell form, also if it begins with [, which is a program."""
        try:
            value: list[str] = json.loads(self.text)
        except (ValueError, RecursionError):
            return None
        if not all(isinstance(item, str) for item in value):
            raise self.error(f"{self.keyword}: only strings may be in the JSON list")
        return value

    def words(self) -> list[str]:
        """The exec form's strings, or what stands between the blanks."""
        return re.findall(f"[^{BLANK}]+", self.text) if self.json is None else self.json

    def quoted_words(self) -> list[str]:
        """What stands between the blanks outside of quotes, with quotes and escapes; an open quote lasts to the end."""
        return WORD.findall(self.text)

    def pairs(self) -> list[tuple[str, str]]:
        """NAME=VALUE … of ENV and LABEL, not expanded yet; "ENV NAME all the rest" is the form of old days."""
        words = self.quoted_words()
        if "=" not in words[0] and len(words) > 1:
            words = [f"{words[0]}={self.text.removeprefix(words[0]).lstrip(BLANK)}"]
        for word in words:
            if "=" not in word or word.startswith("="):
                raise self.error(f"{self.keyword}: {word!r} is not of the form NAME=VALUE")
        return [(name, value) for name, _, value in (word.partition("=") for word in words)]

    def script(self) -> str:
        """The command of a RUN in shell form: a here-document that is all of it, or the text with its documents."""
        if DOCUMENT.fullmatch(self.text) and len(self.quoted_words()) == len(self.documents) == 1:
            return self.documents[0].text
        return "\n".join([self.text, *(document.text + document.name for document in self.documents)])

    def expand(self, text: str, variables: Mapping[str, str], document: bool = False) -> str:
        """See `expand`; what is wrong is an error with the line."""
        try:
            return expand(text, variables, document)
        except ValueError as wrong:
            raise self.error(wrong) from None


class Stage:
    """What begins with FROM: `base` as it is written, `name` behind AS or "", `instructions`, `start`, its FROM."""

    def __init__(self, start: Instruction) -> None:
        found = STAGE.fullmatch(start.text)
        if not found:
            raise start.error("FROM takes IMAGE, or IMAGE AS NAME, of a letter, then letters, digits, - _ and .")
        self.base, self.name, self.start = found[1], (found[2] or "").lower(), start
        self.instructions: list[Instruction] = []


class Dockerfile:
    """`arguments`: the ARG instructions before the first FROM; `stages`."""

    def __init__(self) -> None:
        self.arguments: list[Instruction] = []
        self.stages: list[Stage] = []

    def stage(self, name: str, before: int) -> int:
        """The index of the stage of this name, or number, among the first `before` ones; -1 if it is none of them."""
        names = [stage.name for stage in self.stages[:before]]
        named = [index for index, known in enumerate(names) if name and name.lower() in (known, str(index))]
        return named[-1] if named else -1


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises `DockerfileError` for whatever is wrong with it."""
    if len(text) > MAX_SIZE:
        raise ContainerError(f"a Dockerfile of {len(text)} characters: more than {MAX_SIZE} are refused", exit_code=1)
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    dockerfile, rest = Dockerfile(), enumerate(lines, 1)
    if ESCAPE.match(text.removeprefix("\ufeff")):
        raise DockerfileError(1, "# escape=: a line goes on behind a backslash, and behind nothing else")
    for number, line in rest:
        if not (source := _joined(line, rest)):
            continue
        instruction = Instruction(number, source)
        instruction.documents = [*_documents(instruction, rest)]
        if instruction.keyword == "FROM":
            dockerfile.stages.append(Stage(instruction))
        elif dockerfile.stages:
            dockerfile.stages[-1].instructions.append(instruction)
        elif instruction.keyword == "ARG":
            dockerfile.arguments.append(instruction)
        else:
            raise instruction.error(f"{instruction.keyword} before the first FROM; only ARG may stand there")
    if not dockerfile.stages:
        raise DockerfileError(len(lines), "there is no FROM: an image begins with another one, or with scratch")
    return dockerfile


def _joined(line: str, rest: Iterator[tuple[int, str]]) -> str:
    """One line made of those that belong together; for a comment, or nothing, an empty one."""
    if LEFT_OUT.match(line):
        return ""
    whole = ""
    while (end := line.rstrip(" \t")).endswith("\\") and not end.endswith("\\\\"):  # two are one, escaped
        whole += end.removesuffix("\\")
        line = next((line for _, line in rest if not LEFT_OUT.match(line)), "")
    return (whole + line).strip(BLANK)


def _documents(instruction: Instruction, rest: Iterator[tuple[int, str]]) -> Iterator[Document]:
    """The here-documents that the instruction's words announce, each up to a line that is its delimiter."""
    if instruction.keyword not in ("ADD", "COPY", "ONBUILD", "RUN") or instruction.json is not None:
        return
    for word in instruction.quoted_words():
        if not (found := DOCUMENT.fullmatch(word)) or not (name := instruction.expand(found[2], {})):
            continue
        text = []
        for _, line in rest:
            line = line.lstrip("\t") if found[1] else line
            if line == name:
                break
            text.append(f"{line}\n")
        else:
            raise instruction.error(f"the here-document has no end: there is no line {name}")
        yield Document(name, "".join(text), name == found[2])


def expand(text: str, variables: Mapping[str, str], document: bool = False) -> str:
    """The text with $x, ${x}, ${x:-word}, ${x:+word}, ${x:?word} replaced, and without quotes and escapes.

    In a here-document quotes mean nothing, and an escape protects only a $ and itself. The rules are a shell's, as far
    as Docker follows them. Raises ValueError for bad syntax.
    """
    try:
        return _Text(text, variables).read("", "$\\" if document else "")
    except RecursionError:
        raise ValueError(f"{text[:40]!r}...: too many ${{x:-${{x:-... in each other") from None


class _Text:
    """A text, and how far it is read."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self.text, self.variables, self.at = text, variables, 0

    def read(self, stop: str, special: str) -> str:
        """Up to `stop`, or to the end. In quotes an escape protects only what is `special`, and quotes mean nothing."""
        out = []
        while (found := PART.match(self.text, self.at)) and found[0] != stop:
            self.at = found.end()
            out.append(self.value(found, special))
        if stop and not found:
            raise ValueError(f"{self.text!r}: {stop} is missing")
        self.at += len(stop)
        return "".join(out)

    def value(self, found: re.Match[str], special: str) -> str:
        """What a part of the text stands for."""
        if found["bad"]:
            raise ValueError(f"{self.text!r}: cannot substitute {found['bad']}")
        if found["escaped"] is not None:
            return found[0] if special and found["escaped"] not in [*special] else found["escaped"]
        if found["sign"]:
            return self.default(found["braced"], found["sign"])
        if found[0] == '"' and not special:
            return self.read('"', '"$\\')
        if found[0] == "'" and not special:
            word, end, _ = self.text[self.at :].partition("'")
            if not end:
                raise ValueError(f"{self.text!r}: ' is missing")
            self.at += len(word) + 1
            return word
        return self.variables.get(found["name"], "") if found["name"] else found[0]

    def default(self, name: str, sign: str) -> str:
        """${name}, or with a word, in which there may be anything; with the colon, an empty value counts as none."""
        word = "" if sign == "}" else self.read("}", "")
        value = self.variables.get(name)
        present = value if sign[0] == ":" else value is not None
        if sign[-1] == "+":
            return word if present else ""
        if sign[-1] == "?" and not present:
            raise ValueError(f"{name}: {word or 'is not allowed to be ' + ('unset' if value is None else 'empty')}")
        return word if sign[-1] == "-" and not present else value or ""

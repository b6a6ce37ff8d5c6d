"""Chapter 5: a Dockerfile, read. Text in, a list of stages with their instructions out; nothing is executed here.

    dockerfile = parse(text)
    for instruction in dockerfile.stages[0].instructions:
        print(instruction.line, instruction.keyword, instruction.flags, instruction.text)

    COPY --chown=web index.html /srv/        words
    CMD ["nginx", "-g", "daemon off;"]       the exec form: a JSON list, in which nothing is split and no shell runs
    RUN <<EOF                                a here-document: its lines follow, up to one that is EOF

A line that ends in the escape character goes on in the next; comments and empty lines between the two are left out.
What is not understood is an error that names the line. Sources: Docker's Dockerfile reference, and where that is
silent, what its builder does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from minidocker.outcome import ContainerError

FLAGS: dict[str, tuple[str, ...]] = {  # all instructions, and the flags that each takes
    **dict.fromkeys("ARG CMD ENTRYPOINT ENV EXPOSE LABEL MAINTAINER ONBUILD".split(), ()),
    **dict.fromkeys("SHELL STOPSIGNAL USER VOLUME WORKDIR".split(), ()),
    **{"ADD": ("chown", "chmod"), "COPY": ("from", "chown", "chmod"), "FROM": ("platform",), "RUN": ("network",)},
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
JSON_FORM = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")
DIRECTIVE = re.compile(r"#\s*(check|escape|syntax)\s*=\s*(.+?)\s*", re.I)
DOCUMENT = re.compile(r"\d*<<(-?)([^<]+)")  # the word that announces a here-document
STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
LEFT_OUT = re.compile(r"\s*(#|$)")  # comments and empty lines
BLANK = " \t\v\f\r\n"
MAX_SIZE = 1 << 20  # characters: a Dockerfile is text that somebody wrote
# In these, E stands for the escape character
WORD = rf"""(?:E.|"(?:E.|[^"E])*"?|'[^']*'?|[^{BLANK}"'E]|E$)+"""
NAME = r"\d+|\w+|[@*#?$!-]"  # the last are a shell's own; none of them has a value here
PART = rf"E(?P<escaped>.?)|\$(?P<name>{NAME})|\$\{{(?P<braced>{NAME})(?P<sign>\}}|:?[-+?])|(?P<bad>\$\{{\w*:?.?)|."


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

    `source` is the whole as one line, for people and for an image's history; `escape` the escape character.
    `json`: the list, if the text is a JSON list of strings where one is allowed (the exec form), else None.
    """

    def __init__(self, line: int, source: str, escape: str = "\\") -> None:
        word, _, rest = re.sub(f"[{BLANK}]+", " ", source, count=1).partition(" ")
        self.line, self.source, self.keyword, self.escape = line, source, word.upper(), escape
        if self.keyword not in FLAGS:
            raise DockerfileError(line, f"unknown instruction {word}")
        self.flags, self.text = self._flags(rest)
        if not self.text:
            raise DockerfileError(line, f"{self.keyword} needs an argument")
        self.json = self._json() if self.keyword in JSON_FORM else None
        self.documents: list[Document] = []
        if self.keyword == "SHELL" and not self.json:
            raise DockerfileError(line, 'SHELL takes a JSON list, such as ["/bin/sh", "-c"]')
        if self.keyword in ("ENV", "LABEL"):
            self.pairs()
        if self.keyword in ("ADD", "COPY") and len(self.words()) < 2:
            raise DockerfileError(line, f"{self.keyword} takes one source or more, and where to put them")

    def _flags(self, rest: str) -> tuple[dict[str, str], str]:
        """({name: value}, what stands behind the flags): --name=value, before the first word without dashes."""
        flags: dict[str, str] = {}
        while rest.startswith("--"):
            word, rest = [*rest.split(None, 1), ""][:2]
            name, _, value = word[2:].partition("=")
            if name not in FLAGS[self.keyword]:
                known = " ".join(f"--{flag}" for flag in FLAGS[self.keyword]) or "none"
                raise DockerfileError(self.line, f"{self.keyword} has no flag --{name} here; there are: {known}")
            if not value or name in flags:
                raise DockerfileError(self.line, f"{self.keyword}: --{name} wants one value, --{name}=VALUE, and once")
            flags[name] = value
        return flags, rest

    def _json(self) -> list[str] | None:
        """The exec form. What is no JSON is the shell form, also if it begins with [, which is a program."""
        try:
            value = json.loads(self.text) if self.text.startswith("[") else None
        except (ValueError, RecursionError):
            return None
        if value is not None and not all(isinstance(item, str) for item in value):
            raise DockerfileError(self.line, f"{self.keyword}: only strings may be in the JSON list")
        return value

    def words(self) -> list[str]:
        """The exec form's strings, or what stands between the blanks."""
        return re.findall(f"[^{BLANK}]+", self.text) if self.json is None else self.json

    def quoted_words(self) -> list[str]:
        """What stands between the blanks outside of quotes, with quotes and escapes; an open quote lasts to the end."""
        return re.findall(WORD.replace("E", re.escape(self.escape)), self.text, re.S)

    def pairs(self) -> list[tuple[str, str]]:
        """NAME=VALUE … of ENV and LABEL, not expanded yet; "ENV NAME all the rest" is the form of old days."""
        words = self.quoted_words()
        if "=" not in words[0]:
            words = [f"{words[0]}={value}"] if (value := self.text.removeprefix(words[0]).lstrip(BLANK)) else words
        for word in words:
            if "=" not in word or word.startswith("="):
                raise DockerfileError(self.line, f"{self.keyword}: {word!r} is not of the form NAME=VALUE")
        return [(name, value) for name, _, value in (word.partition("=") for word in words)]

    def script(self) -> str:
        """The command of a RUN in shell form: a here-document that is all of it, or the text with its documents."""
        if DOCUMENT.fullmatch(self.text) and len(self.quoted_words()) == len(self.documents) == 1:
            return self.documents[0].text
        return "\n".join([self.text, *(document.text + document.name for document in self.documents)])

    def expand(self, text: str, variables: Mapping[str, str]) -> str:
        """A word with its variables replaced; what is wrong with it is an error with the line."""
        try:
            return expand(text, variables, self.escape)
        except ValueError as wrong:
            raise DockerfileError(self.line, str(wrong)) from None

    def content(self, document: Document, variables: Mapping[str, str]) -> str:
        """A here-document as a file's content."""
        try:
            return expand_document(document.text, variables, self.escape) if document.expand else document.text
        except ValueError as wrong:
            raise DockerfileError(self.line, str(wrong)) from None


class Stage:
    """What begins with FROM: `base` as it is written, `name` behind AS or "", `instructions`, `start`, its FROM."""

    def __init__(self, start: Instruction) -> None:
        words = start.words()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise DockerfileError(start.line, "FROM takes IMAGE, or IMAGE AS NAME")
        self.base, self.name, self.start = words[0], words[2].lower() if len(words) == 3 else "", start
        if self.name and not STAGE_NAME.fullmatch(self.name):
            problem = f"a stage cannot be called {self.name!r}: a letter, then letters, digits, - _ and ."
            raise DockerfileError(start.line, problem)
        self.instructions: list[Instruction] = []


class Dockerfile:
    """`arguments`: the ARG instructions before the first FROM; `stages`; `escape`, the escape character."""

    def __init__(self, escape: str) -> None:
        self.escape = escape
        self.arguments: list[Instruction] = []
        self.stages: list[Stage] = []

    def stage(self, name: str, before: int) -> int:
        """The index of the stage of this name, or number, among the first `before` ones; -1 if it is none of them."""
        if name in map(str, range(before)):
            return int(name)
        named = [index for index, stage in enumerate(self.stages[:before]) if stage.name == name.lower() != ""]
        return named[-1] if named else -1

    def add(self, instruction: Instruction) -> None:
        """To its stage; before the first there are only ARGs."""
        if instruction.keyword == "FROM":
            self.stages.append(Stage(instruction))
        elif self.stages or instruction.keyword == "ARG":
            (self.stages[-1].instructions if self.stages else self.arguments).append(instruction)
        else:
            problem = f"{instruction.keyword} before the first FROM; only ARG may stand there"
            raise DockerfileError(instruction.line, problem)


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises `DockerfileError` for whatever is wrong with it."""
    if len(text) > MAX_SIZE:
        raise ContainerError(f"a Dockerfile of {len(text)} characters: more than {MAX_SIZE} are refused", exit_code=1)
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    dockerfile = Dockerfile(_escape(lines))
    rest = enumerate(lines, 1)
    for number, line in rest:
        if source := _joined(line, rest, dockerfile.escape):
            instruction = Instruction(number, source, dockerfile.escape)
            instruction.documents = [*_documents(instruction, rest)]
            dockerfile.add(instruction)
    if not dockerfile.stages:
        raise DockerfileError(len(lines), "there is no FROM: an image begins with another one, or with scratch")
    return dockerfile


def _escape(lines: list[str]) -> str:
    """The escape character: parser directives are comments NAME=VALUE before anything else."""
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        found = DIRECTIVE.fullmatch(line.strip())
        if not found:
            break
        name, value = found[1].lower(), found[2]
        if name in seen or (name == "escape" and value not in ("\\", "`")):
            raise DockerfileError(number, f"# {name}={value}: a directive is there once, and escape is \\ or `")
        seen[name] = value
    return seen.get("escape", "\\")


def _joined(line: str, rest: Iterator[tuple[int, str]], escape: str) -> str:
    """One line made of those that belong together; for a comment, or nothing, an empty one."""
    if LEFT_OUT.match(line):
        return ""
    whole = ""
    while (end := line.rstrip(" \t")).endswith(escape) and not end.endswith(2 * escape):  # two are one, escaped
        whole += end.removesuffix(escape)
        line = next((line for _, line in rest if not LEFT_OUT.match(line)), "")
    return (whole + line).strip(BLANK)


def _documents(instruction: Instruction, rest: Iterator[tuple[int, str]]) -> Iterator[Document]:
    """The here-documents that the instruction's words announce, each up to a line that is its delimiter."""
    if instruction.keyword not in ("ADD", "COPY", "ONBUILD", "RUN") or instruction.json is not None:
        return
    for word in instruction.quoted_words():
        found = DOCUMENT.fullmatch(word)
        name = instruction.expand(found[2], {}) if found else ""
        if found and name:
            text = []
            for _, line in rest:
                line = line.lstrip("\t") if found[1] else line
                if line == name:
                    break
                text.append(f"{line}\n")
            else:
                raise DockerfileError(instruction.line, f"the here-document has no end: there is no line {name}")
            yield Document(name, "".join(text), name == found[2])


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The text with $x, ${x}, ${x:-word}, ${x:+word}, ${x:?word} replaced, and without quotes and escapes.

    The rules are a shell's, as far as Docker follows them. Raises ValueError for bad syntax.
    """
    return _Text(text, variables, escape).read("")


def expand_document(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The same for a here-document, in which quotes mean nothing, and an escape protects only a $ and itself."""
    return _Text(text, variables, escape).read("", f"${escape}")


class _Text:
    """A text, and how far it is read."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self.text, self.variables, self.escape, self.at = text, variables, escape, 0
        self.part = re.compile(PART.replace("E", re.escape(escape), 1), re.S)

    def read(self, stop: str, special: str = "") -> str:
        """Up to `stop`, or to the end. In quotes an escape protects only what is `special`, and quotes mean nothing."""
        out = []
        try:
            while (found := self.part.match(self.text, self.at)) and found[0] != stop:
                self.at = found.end()
                out.append(self.value(found, special))
        except RecursionError:
            raise ValueError(f"{self.text[:40]!r}...: too many ${{x:-${{x:-... in each other") from None
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
        if found[0] == "'" and not special:
            end = self.text.find("'", self.at)
            if end < 0:
                raise ValueError(f"{self.text!r}: ' is missing")
            start, self.at = self.at, end + 1
            return self.text[start:end]
        if found[0] == '"' and not special:
            return self.read('"', f'"${self.escape}')
        return self.variables.get(found["name"], "") if found["name"] else found[0]

    def default(self, name: str, sign: str) -> str:
        """${name}, or with a word, in which there may be anything; with the colon, an empty value counts as none."""
        word = "" if sign == "}" else self.read("}")
        value = self.variables.get(name)
        present = value if sign[0] == ":" else value is not None
        if sign[-1] == "+":
            return word if present else ""
        if sign[-1] == "?" and not present:
            raise ValueError(f"{name}: {word or 'is not allowed to be ' + ('unset' if value is None else 'empty')}")
        return word if sign[-1] == "-" and not present else value or ""

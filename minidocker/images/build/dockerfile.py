"""Chapter 5: a Dockerfile, read: instructions, and what they say about the image's config. Nothing is executed here.

    arguments, stages = parse(text)          # the ARGs before the first FROM; the stages, which begin with FROM
    change(stages[0][1], config, {"PATH": "/bin"})

    COPY --chown=web index.html /srv/        words
    CMD ["nginx", "-g", "daemon off;"]       the exec form: a JSON list, in which nothing is split and no shell runs
    RUN <<EOF                                a here-document: its lines follow, up to one that is EOF

What is not understood is an error with its line. Sources: Docker's Dockerfile reference, and what its builder does; the
OCI image specification, config.md.
"""

from __future__ import annotations

import contextlib
import csv
import json
import posixpath
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minidocker.outcome import ContainerError

LEFT_OUT = {  # what is known, and does nothing
    **dict.fromkeys(("HEALTHCHECK", "ONBUILD"), "an image of the OCI's format has no place for it"),
    "MAINTAINER": "LABEL org.opencontainers.image.authors says it",
}
FLAGS: dict[str, tuple[str, ...]] = {  # all instructions, and the flags that each takes
    **dict.fromkeys(("ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL"), ()),
    **dict.fromkeys(("SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR", *LEFT_OUT), ()),
    "ADD": ("chown", "chmod", "link", "exclude", "checksum"),
    "COPY": ("from", "chown", "chmod", "link", "exclude", "parents"),
    "FROM": ("platform",),
    "RUN": ("network", "mount"),
}
SWITCHES, LISTS = ("link", "parents"), ("exclude", "mount")  # flags that may stand alone, and those that may come again
MOUNTS = {  # what --mount takes with each type, beside target
    "bind": ("from", "source", "readonly", "readwrite"),
    "cache": ("id", "sharing", "mode", "uid", "gid", "readonly", "readwrite"),
    "secret": ("id", "required", "env", "mode", "uid", "gid"),
    "tmpfs": ("size",),
}
KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
JSON_FORM = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")
MAX_SIZE = 1 << 20  # characters: a Dockerfile is text that somebody wrote
SHELL = ["/bin/sh", "-c"]
ESCAPE = re.compile(r"(?:#\s*(?:check|syntax)\s*=.*\n)*#\s*escape\s*=\s*[^\\\s]", re.I)  # of Windows: ` in place of \
DOCUMENT = re.compile(r"\d*<<(-?)(\\?(['\"]?))([^<]*?[^<'\"])\3")  # the word that announces a here-document
STAGE = re.compile(r"(\S+)(?:\s+AS\s+([a-z][a-z0-9_.-]*))?", re.I)
COMMENT = re.compile(r"\s*(#|$)")
PORT = re.compile(r"(?:[\w.:\[\]-]*:)?(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.I | re.A)
SIGNAL = re.compile(r"SIG([1-9]|[1-5]\d|6[0-4]|RTM(IN|AX)([+-]\d{1,2})?)", re.A)
BLANK = " \t\v\f\r\n"
WORD = re.compile(f"[^{BLANK}]+")
QUOTED = re.compile(rf"""(?:\\.|"(?:\\.|[^"\\])*"?|'[^']*'?|[^{BLANK}"'\\]|\\$)+""", re.S)  # an open quote: to the end
NAME = r"\d+|\w+|[@*#?$!-]"  # the last are a shell's own; none of them has a value here
PART = re.compile(
    rf"""\\(?P<escaped>.?)
    | \$(\{{)?(?P<name>{NAME})(?(2)(?P<sign>\}}|:?[-+?]))  # behind a brace and a name: the other brace, or a sign
    | (?P<bad>\$\{{\w*:?.?)
    | .""",
    re.S | re.X,
)

Config = dict[str, Any]
Dockerfile = tuple[list["Instruction"], list[list["Instruction"]]]


class DockerfileError(ContainerError):
    """What is wrong in a Dockerfile, or went wrong there, in `line`."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"Dockerfile line {line}: {problem}", exit_code=1)
        self.line = line


class Instruction:
    """`keyword` in capitals, `line` (from 1), `flags` by name, `text` behind them, `words` of it, with their quotes.

    `lists`: the values of flags that may come again, by name.
    `source` is the whole as one line, for people. `json`: the words of the exec form, else None. `documents`: the name,
    the text, and whether variables are replaced in it. FROM has a `base`, as it is written, and a `name`, or "".
    """

    def __init__(self, line: int, source: str) -> None:
        self.line, self.source = line, source
        self.flags: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {name: [] for name in LISTS}
        self.json: list[str] | None = None
        self.documents: list[tuple[str, str, bool]] = []
        word, _, self.text = re.sub(f"[{BLANK}]+", " ", source, count=1).partition(" ")
        self.keyword = word.upper()
        if self.keyword not in FLAGS:
            raise self.error(f"unknown instruction {word}")
        while self.text.startswith("--") and self.keyword not in LEFT_OUT:
            flag, *others = self.text.split(None, 1)
            self.text = "".join(others)
            name, equals, value = flag.removeprefix("--").partition("=")
            if name not in FLAGS[self.keyword]:
                known = " ".join(f"--{flag}" for flag in FLAGS[self.keyword]) or "none"
                raise self.error(f"{self.keyword} has no flag --{name} here; there are: {known}")
            if name in SWITCHES:
                value = {"": "true", "=true": "true", "=false": "false"}.get(equals + value, "")
            if not value or name in self.flags:
                raise self.error(f"{self.keyword}: --{name} wants one value, --{name}=VALUE, and once")
            if name in LISTS:
                self.lists[name].append(value)
            else:
                self.flags[name] = value
        if not self.text:
            raise self.error(f"{self.keyword} needs an argument")
        self.mounts = [{"type": "bind"} | fields(text) for text in self.lists["mount"]]
        for one in self.mounts:
            if one.keys() - {*MOUNTS.get(one["type"], ()), "type", "target"} or one["type"] not in MOUNTS:
                raise self.error(f"RUN --mount: type={one['type']} with {' '.join(one)}: there are {MOUNTS}")
            if not one.get("target") and not (one["type"] == "secret" and one.get("id")):
                raise self.error(f"RUN --mount=type={one['type']} wants a target=PATH in the container")
        if self.keyword in JSON_FORM and self.text.startswith("["):
            with contextlib.suppress(ValueError, RecursionError):  # what is no JSON is the shell form: [ is a program
                self.json = json.loads(self.text)
        pattern = QUOTED if self.keyword in ("ARG", "ENV", "LABEL", "RUN") else WORD
        self.words: list[str] = pattern.findall(self.text) if self.json is None else self.json
        if not all(isinstance(word, str) for word in self.words):
            raise self.error(f"{self.keyword}: only strings may be in the JSON list")
        if self.keyword == "SHELL" and not self.json:
            raise self.error('SHELL takes a JSON list, such as ["/bin/sh", "-c"]')
        if self.keyword in ("ADD", "COPY") and len(self.words) < 2:
            raise self.error(f"{self.keyword} takes one source or more, and where to put them")
        if self.keyword in ("ENV", "LABEL"):
            self.pairs()
        if self.keyword == "FROM":
            if not (found := STAGE.fullmatch(self.text)):
                raise self.error("FROM takes IMAGE, or IMAGE AS NAME, of a letter, then letters, digits, - _ and .")
            self.base, self.name = found[1], (found[2] or "").lower()

    def error(self, problem: object) -> DockerfileError:
        """What is wrong here, to raise."""
        return DockerfileError(self.line, str(problem))

    @contextlib.contextmanager
    def errors(self, place: str = "") -> Iterator[None]:
        """What goes wrong meanwhile is an error with the line; a full disk, which names no file, is one of `place`."""
        try:
            yield
        except DockerfileError:
            raise
        except (ContainerError, OSError, ValueError) as wrong:
            what = f"{wrong.filename or place}: {wrong.strerror}" if isinstance(wrong, OSError) else wrong
            raise self.error(f"{self.keyword}: {what}") from wrong

    def pairs(self) -> list[tuple[str, str]]:
        """NAME=VALUE … of ENV and LABEL, not expanded yet; "ENV NAME all the rest" is the form of old days."""
        words = self.words
        if "=" not in words[0] and len(words) > 1:
            words = [f"{words[0]}={self.text.removeprefix(words[0]).lstrip(BLANK)}"]
        for word in words:
            if "=" not in word or word.startswith("="):
                raise self.error(f"{self.keyword}: {word!r} is not of the form NAME=VALUE")
        return [(name, value) for name, _, value in (word.partition("=") for word in words)]

    def argv(self, config: Config) -> list[str]:
        """The words to execute. The shell gets the text with its documents, or a document that is all of it."""
        if self.json is not None:
            return self.json
        script = "\n".join([self.text, *(text + name for name, text, _ in self.documents)])
        if len(self.words) == len(self.documents) == 1:
            script = self.documents[0][1]
        return [*(config.get("Shell") or SHELL), script]


def fields(text: str) -> dict[str, str]:
    """KEY=VALUE, separated by commas, in which a key alone is true, and quotes hold commas: CSV."""
    pairs = (word.partition("=") for word in next(csv.reader([text]), []))
    return {KEYS.get(key, key): value if equals else "true" for key, equals, value in pairs}


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises `DockerfileError` for whatever is wrong with it."""
    if len(text) > MAX_SIZE:
        raise ContainerError(f"a Dockerfile of {len(text)} characters: more than {MAX_SIZE} are refused", exit_code=1)
    text = text.removeprefix("\ufeff")
    if ESCAPE.match(text):
        raise DockerfileError(1, "# escape=: a line goes on behind a backslash, and behind nothing else")
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), 1)
    stages: list[list[Instruction]] = [[]]
    for number, line in lines:
        if not (source := _joined(line, lines)):
            continue
        instruction = Instruction(number, source)
        instruction.documents = [*_documents(instruction, lines)]
        if instruction.keyword == "FROM":
            stages.append([])
        elif len(stages) == 1 and instruction.keyword != "ARG":
            raise instruction.error(f"{instruction.keyword} before the first FROM; only ARG may stand there")
        stages[-1].append(instruction)
    if len(stages) == 1:
        raise DockerfileError(number, "there is no FROM: an image begins with another one, or with scratch")
    return stages[0], stages[1:]


def _joined(line: str, lines: Iterator[tuple[int, str]]) -> str:
    """One line made of those that belong together; for a comment, or nothing, an empty one."""
    if COMMENT.match(line):
        return ""
    whole = ""
    while (end := line.rstrip(" \t")).endswith("\\") and not end.endswith("\\\\"):  # two are one, escaped
        whole += end.removesuffix("\\")
        line = next((line for _, line in lines if not COMMENT.match(line)), "")
    return (whole + line).strip(BLANK)


def _documents(instruction: Instruction, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, str, bool]]:
    """The here-documents that the instruction's words announce, each up to a line that is its delimiter."""
    if instruction.keyword not in ("ADD", "COPY", "ONBUILD", "RUN") or instruction.json is not None:
        return
    for found in filter(None, map(DOCUMENT.fullmatch, instruction.words)):
        dash, quoted, _, name = found.groups()
        text = ""
        for _, line in lines:
            line = line.lstrip("\t") if dash else line
            if line == name:
                break
            text += f"{line}\n"
        else:
            raise instruction.error(f"the here-document has no end: there is no line {name}")
        yield name, text, not quoted


def expand(text: str, variables: Mapping[str, str], document: bool = False) -> str:
    """The text with $x, ${x}, ${x:-word}, ${x:+word}, ${x:?word} replaced, and without quotes and escapes.

    In a here-document quotes mean nothing, and an escape protects only a $ and itself. The rules are a shell's, as far
    as Docker follows them. Raises ValueError for bad syntax.
    """
    try:
        return _read(PART.finditer(text), variables, "", "$\\" if document else "", 0)
    except ValueError as wrong:
        raise ValueError(f"{text[:80]!r}: {wrong}") from None


def _read(parts: Iterator[re.Match[str]], variables: Mapping[str, str], stop: str, special: str, depth: int) -> str:
    """Up to `stop`, or to the end. In quotes an escape protects only what is `special`, and quotes mean nothing."""
    out = ""
    if depth > 100:  # Python's own limit is no error that one can rely on: an iterator may just end there
        raise ValueError("too many ${x:-${x:-... in each other")
    for part in parts:
        if part[0] == stop:
            return out
        if part["bad"]:
            raise ValueError(f"cannot substitute {part['bad']}")
        if part["escaped"] is not None:
            out += part[0] if special and part["escaped"] not in special else part["escaped"]
        elif part["name"]:
            word = _read(parts, variables, "}", "", depth + 1) if part["sign"] not in (None, "}") else ""
            out += _value(part["name"], part["sign"] or "}", word, variables)
        elif part[0] == '"' and not special:
            out += _read(parts, variables, '"', '"$\\', depth + 1)
        elif part[0] == "'" and not special:
            for raw in parts:  # in which a backslash is a letter like any other
                out += raw[0]
                if raw[0].endswith("'"):
                    break
            else:
                raise ValueError("' is missing")
            out = out[:-1]
        else:
            out += part[0]
    if stop:
        raise ValueError(f"{stop} is missing")
    return out


def _value(name: str, sign: str, word: str, variables: Mapping[str, str]) -> str:
    """${name}, or with a word behind a sign; with a colon in that, an empty value counts as none."""
    value = variables.get(name)
    present = value if sign[0] == ":" else value is not None
    if sign[-1] == "+":
        return word if present else ""
    if sign[-1] == "?" and not present:
        kind = "unset" if value is None else "empty"
        raise ValueError(f"{name}: {word or f'is not allowed to be {kind}'}")
    return word if sign[-1] == "-" and not present else value or ""


def change(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    """Change the inner `config` of an image as the instruction says; return what its history is to say."""
    said: str | list[str]
    match instruction.keyword:
        case "CMD" | "ENTRYPOINT" | "SHELL" as keyword:
            said = config[keyword.capitalize()] = instruction.argv(config)
        case "ENV" | "LABEL" as keyword:  # all values of one line are made with the variables from before it
            new = {expand(name, variables): expand(value, variables) for name, value in instruction.pairs()}
            said = " ".join(f"{name}={value}" for name, value in new.items())
            if keyword == "LABEL":
                config["Labels"] = (config.get("Labels") or {}) | new
            else:
                config["Env"] = [f"{name}={value}" for name, value in (environment(config) | new).items()]
        case "EXPOSE":
            said = expand(instruction.text, variables)
            config["ExposedPorts"] = (config.get("ExposedPorts") or {}) | dict.fromkeys(_ports(said), {})
        case "VOLUME":
            said = [posixpath.join("/", expand(word, variables)) for word in instruction.words]
            if not said or "/" in said:
                raise ValueError("a path is missing, or empty")
            config["Volumes"] = (config.get("Volumes") or {}) | dict.fromkeys(said, {})
        case "USER":
            said = config["User"] = expand(instruction.text, variables)
        case "STOPSIGNAL":
            said = config["StopSignal"] = expand(instruction.text, variables)
            name = f"SIG{said.upper().removeprefix('SIG')}"
            if name not in signal.Signals.__members__ and not SIGNAL.fullmatch(name):
                raise ValueError(f"there is no signal {said}")
        case "WORKDIR":
            if not (path := expand(instruction.text, variables)):
                raise ValueError("the path is empty")
            said = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path))
            config["WorkingDir"] = said
        case _:
            raise ValueError("only what sets a part of the config can be here")
    return f"{instruction.keyword} {said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)}"


def configured(changes: Sequence[str], config: Config | None = None) -> Config:
    """The config that instructions make of another one, or out of nothing: `import --change`, `commit --change`."""
    config = {} if config is None else config
    for number, text in enumerate(changes, 1):
        instruction = Instruction(number, text)
        with instruction.errors():
            change(instruction, config, environment(config))
    return config


def environment(config: Config) -> dict[str, str]:
    """The Env of a config."""
    return dict(setting.partition("=")[::2] for setting in config.get("Env") or [])


def _ports(text: str) -> Iterator[str]:
    """ "80", "53/udp", "8000-8003"; of "8080:80" only what is inside counts. A note: chapter 7 publishes ports."""
    for word in text.split():
        found = PORT.fullmatch(word)
        first = int(found[1]) if found else 0
        last = int(found[2] or first) if found else 0
        if not found or not 0 < first <= last < 65536:
            raise ValueError(f"{word!r} is no port, such as 80, 53/udp or 8000-8003")
        yield from (f"{port}/{(found[3] or 'tcp').lower()}" for port in range(first, last + 1))

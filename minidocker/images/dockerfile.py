"""Chapter 5: a Dockerfile, read. Text in, a list of stages with their instructions out; nothing is executed here.

    dockerfile = parse(text)
    for instruction in dockerfile.stages[0].instructions:
        print(instruction.line, instruction.keyword, instruction.flags, instruction.text)

A line that ends in the escape character goes on in the next; comments and empty lines between the two are left out. A
here-document follows its line up to its delimiter. Source: Docker's Dockerfile reference.
"""

from __future__ import annotations

import re

from minidocker.images.instruction import DOCUMENT, Document, Instruction, refuse
from minidocker.images.words import BLANK, expand, split
from minidocker.outcome import ContainerError

DIRECTIVES = ("check", "escape", "syntax")
DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
MAX_SIZE = 1 << 20  # characters: a Dockerfile is text that somebody wrote


class Stage:
    """What begins with FROM: `base` as it is written, `name` behind AS or "", `platform`, `instructions`, `line`."""

    def __init__(self, instruction: Instruction) -> None:
        words = instruction.words()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            refuse(instruction.line, "FROM takes IMAGE, or IMAGE AS NAME")
        self.base, self.name, self.line = words[0], words[2].lower() if len(words) == 3 else "", instruction.line
        if self.name and not STAGE_NAME.fullmatch(self.name):
            refuse(self.line, f"a stage cannot be called {self.name!r}: a letter, then letters, digits, - _ and .")
        self.platform, self.source = instruction.flags.get("platform", ""), instruction.source
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
        elif self.stages:
            self.stages[-1].instructions.append(instruction)
        elif instruction.keyword == "ARG":
            self.arguments.append(instruction)
        else:
            refuse(instruction.line, f"{instruction.keyword} before the first FROM; only ARG may stand there")


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises `ContainerError` with the line for whatever is wrong with it."""
    if len(text) > MAX_SIZE:
        raise ContainerError(f"a Dockerfile of {len(text)} characters: more than {MAX_SIZE} are refused", exit_code=1)
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    dockerfile = Dockerfile(_escape(lines))
    at = 0
    while at < len(lines):
        number = at + 1
        source, at = _logical_line(lines, at, dockerfile.escape)
        if source:
            instruction = Instruction(number, source, dockerfile.escape)
            at = _documents(instruction.trigger or instruction, lines, at)
            dockerfile.add(instruction)
    if not dockerfile.stages:
        refuse(len(lines), "there is no FROM: an image begins with another one, or with scratch")
    return dockerfile


def _escape(lines: list[str]) -> str:
    """The escape character: parser directives are comments NAME=VALUE before anything else."""
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        found = DIRECTIVE.fullmatch(line.strip())
        if not found or found[1].lower() not in DIRECTIVES:
            break
        if found[1].lower() in seen:
            refuse(number, f"the directive {found[1].lower()} is there twice")
        seen[found[1].lower()] = found[2]
        if found[1].lower() == "escape" and found[2] not in ("\\", "`"):
            refuse(number, f"the escape character is \\ or `, and not {found[2]}")
    return seen.get("escape", "\\")


def _logical_line(lines: list[str], at: int, escape: str) -> tuple[str, int]:
    """(one line made of those that belong together, where the next begins); for a comment, or nothing, an empty one."""
    whole, begun, going_on = "", False, True
    while going_on and at < len(lines):
        line, at = lines[at], at + 1
        if not line.strip() or line.lstrip().startswith("#"):
            going_on = begun
            continue
        end = line.rstrip(" \t")
        begun = going_on = end.endswith(escape) and not end.endswith(2 * escape)  # two of them are one, escaped
        whole += end.removesuffix(escape) if going_on else line
    return whole.strip(BLANK), at


def _documents(instruction: Instruction, lines: list[str], at: int) -> int:
    """Read the here-documents that the instruction's words announce, in their order; return where they end."""
    if instruction.keyword not in ("ADD", "COPY", "RUN") or instruction.json is not None:
        return at
    for word in split(instruction.text, instruction.escape):
        found = DOCUMENT.fullmatch(word)
        if found and (name := _unquoted(instruction, found[2])):
            document = Document(name, name == found[2], bool(found[1]))
            instruction.documents.append(document)
            at = _document(document, instruction.line, lines, at)
    return at


def _document(document: Document, line: int, lines: list[str], at: int) -> int:
    """The lines up to one that is the delimiter and nothing else."""
    start = at
    while at < len(lines) and (lines[at].lstrip("\t") if document.strip else lines[at]) != document.name:
        at += 1
    if at == len(lines):
        refuse(line, f"the here-document has no end: there is no line {document.name}")
    document.text = "".join(f"{text}\n" for text in lines[start:at])
    return at + 1


def _unquoted(instruction: Instruction, word: str) -> str:
    """A delimiter without its quotes."""
    try:
        return expand(word, {}, instruction.escape)
    except ValueError as wrong:
        refuse(instruction.line, str(wrong))

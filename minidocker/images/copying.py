"""Chapter 5: COPY and ADD, planned: what to read, from where, and where to put it. Nothing is read here.

    plan = plan_of(instruction, variables, "/srv", ignore)
    plan.selection                            # for `context.read`, in the jail of the context or of another image
    plan.target, plan.owner, plan.mode        # for `receive`, in the jail of the image that is being made

Source: Docker's Dockerfile reference, COPY and ADD.
"""

from __future__ import annotations

import posixpath
import re

from minidocker.images.context import Selection
from minidocker.images.instruction import DOCUMENT, Instruction, refuse
from minidocker.images.patterns import Ignore, regex
from minidocker.images.settings import expanded
from minidocker.images.words import expand_document

URL = re.compile(r"(https?|ftp|git|ssh)://|git@", re.I)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from minidocker.images.instruction import Document


class Plan:
    """`selection`, `target`, `owner`, `mode`; `source`: --from, or ""; `text`: for the history."""

    def __init__(self, selection: Selection, target: str, owner: str, mode: int | None, source: str, text: str) -> None:
        self.selection, self.target, self.owner, self.mode = selection, target, owner, mode
        self.source, self.text = source, text


def plan_of(instruction: Instruction, variables: Mapping[str, str], directory: str, ignore: Ignore | None) -> Plan:
    """What a COPY or ADD wants. `directory`: WORKDIR; `ignore`: the rules of .dockerignore, for the context."""
    *words, path = [expanded(instruction, word, variables) for word in instruction.words()]
    sources = [word for word in words if instruction.json is not None or not DOCUMENT.fullmatch(word)]
    flags = {name: expanded(instruction, value, variables) for name, value in instruction.flags.items()}
    source, target = instruction.flags.get("from", ""), target_of(path, directory)
    _check(instruction, sources, len(words), path, target)
    archives = None
    if instruction.keyword == "ADD":
        from minidocker.images.layer import compressed  # it brings four libraries that COPY does not need

        archives = compressed.opened
    selection = Selection(
        sources,
        [(document.name, _content(instruction, document, variables)) for document in instruction.documents],
        ignore=None if source else ignore,
        owners=bool(source),
        archives=archives,
        single=not target.endswith("/"),
    )
    spelled = "".join(f"--{name}={value} " for name, value in flags.items())
    text = f"{instruction.keyword} {spelled}{' '.join([*words, target])}"
    return Plan(selection, target, flags.get("chown", ""), _mode(instruction, flags.get("chmod", "")), source, text)


def target_of(path: str, directory: str) -> str:
    """The last word as an absolute path, with a slash at the end if it must be a directory."""
    whole = "/" + posixpath.normpath(posixpath.join("/", directory, path)).lstrip("/")
    return whole if path.rpartition("/")[2] not in ("", ".", "..") else whole.rstrip("/") + "/"


def _check(instruction: Instruction, sources: list[str], count: int, path: str, target: str) -> None:
    """What can be wrong before anything is read."""
    keyword, line = instruction.keyword, instruction.line
    if not path or not all(sources):
        refuse(line, f"{keyword}: a path is empty")
    if count > 1 and not target.endswith("/"):
        refuse(line, f"{keyword}: for more than one source, the target must end with a slash: {path}/")
    for source in sources:
        if URL.match(source):
            refuse(line, f"{keyword} does not download: RUN can, with the program of your choice and --network=host")
        try:
            regex(source)
        except ValueError as wrong:
            refuse(line, str(wrong))


def _mode(instruction: Instruction, text: str) -> int | None:
    """--chmod, in octal."""
    if text and not re.fullmatch("[0-7]{3,4}", text):
        refuse(instruction.line, f"--chmod={text}: three or four octal digits are expected, such as 755")
    return int(text, 8) if text else None


def _content(instruction: Instruction, document: Document, variables: Mapping[str, str]) -> bytes:
    """A here-document as a file's content."""
    text = document.without_tabs()
    try:
        return (expand_document(text, variables, instruction.escape) if document.expand else text).encode()
    except ValueError as wrong:
        refuse(instruction.line, str(wrong))

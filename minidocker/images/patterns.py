"""Chapter 5: names with * in them: the sources of COPY, and the file .dockerignore.

    find("src/*.py")                          ["src/a.py", "src/b.py"]
    Ignore("*.log\n!keep.log").ignores("a.log")

Both are Go's filepath.Match: * and ? do not match a slash, [a-c] and [^a-c] are classes, a backslash takes the meaning
of the next character away, and a leading dot is a character like any other. In .dockerignore ** matches any number of
directories. Sources: Docker's "Build context" manual, ".dockerignore files"; Go's package path/filepath.
"""

from __future__ import annotations

import os
import posixpath
import re

MAGIC = frozenset("*?[\\")
CLASS = re.compile(r"\[(\^?)((?:\\.|[^\]\\])+)\]", re.S)


def regex(pattern: str, deep: bool = False) -> re.Pattern[str]:
    """The regular expression for a pattern; with `deep`, ** has its meaning. Raises ValueError for a bad one."""
    out, at = "", 0
    while at < len(pattern):
        rest, step = pattern[at:], 1
        if deep and rest.startswith("**"):
            step = 3 if rest.startswith("**/") else 2
            out += "(.*/)?" if at + step < len(pattern) else ".*"
        elif rest[0] == "*":
            out += "[^/]*"
        elif rest[0] == "?":
            out += "[^/]"
        elif rest[0] == "[":
            found = CLASS.match(rest)
            if not found:
                raise ValueError(f"{pattern!r}: a class [...] is not closed, or empty")
            step = found.end()
            body = re.sub(r"\\(.)|([\[&~|])", lambda special: re.escape(special[1] or special[2]), found[2])
            out += f"[{'^/' if found[1] else ''}{body}]"
        elif rest[0] == "\\" and len(rest) > 1:
            out, step = out + re.escape(rest[1]), 2
        else:
            out += re.escape(rest[0])
        at += step
    try:
        return re.compile(out, re.S)
    except re.error as wrong:
        raise ValueError(f"{pattern!r}: {wrong}") from None


def clean(path: str) -> str:
    """The path from the context's root, without "." and empty parts; ".." goes no higher than the root."""
    return posixpath.normpath("/" + path).lstrip("/")


def find(pattern: str) -> list[str]:
    """The paths below the root that match, sorted. Runs in a jail, whose root is the context."""
    found = [""]
    for part in filter(None, clean(pattern).split("/")):
        if MAGIC.isdisjoint(part):
            found = [posixpath.join(base, part) for base in found if os.path.lexists(f"/{base}/{part}")]
            continue
        matching = regex(part)
        bases = [base for base in found if os.path.isdir(f"/{base}")]
        found = [
            posixpath.join(base, name)
            for base in bases
            for name in sorted(os.listdir(f"/{base}"))
            if matching.fullmatch(name)
        ]
    return found


class Ignore:
    """The rules of a .dockerignore; the last one that matches a path, or a directory above it, decides."""

    def __init__(self, text: str = "") -> None:
        self.rules: list[tuple[bool, re.Pattern[str]]] = []  # (whether it ignores, what)
        for line in text.removeprefix("\ufeff").split("\n"):
            word = "" if line.startswith("#") else line.strip()
            ignoring = not word.startswith("!")
            pattern = clean(word.removeprefix("!").strip())
            if pattern:
                self.rules.append((ignoring, regex(pattern, deep=True)))
        self.exceptions = not all(ignoring for ignoring, _ in self.rules)

    def ignores(self, path: str) -> bool:
        """Whether the path, relative to the context, is left out."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        ignored = False
        for ignoring, matching in self.rules:
            if ignored != ignoring and any(matching.fullmatch(name) for name in above):
                ignored = ignoring
        return ignored

"""Chapter 5: names with * in them: the sources of COPY, and the file .dockerignore.

    re.compile(component("*.py"))                          # one part of a path
    Ignore("*.log\n!keep.log").ignores("a.log")

Both are Go's filepath.Match: * and ? do not match a slash, [a-c] and [^a-c] are classes, a backslash takes the meaning
of the next character away, and a leading dot is a character like any other. In .dockerignore ** matches any number of
directories. Sources: Docker's "Build context" manual, ".dockerignore files"; Go's package path/filepath.

What stands between two stars is looked for once, and stays where it is first found, (?>…): if the rest does not fit
behind that, it fits behind no later place. So no pattern takes longer than its length times that of the path.
"""

from __future__ import annotations

import posixpath
import re

MAGIC = frozenset("*?[\\")
CLASS = r"\[(?P<not>\^?)(?P<class>(?:\\.|[^\]\\])+)\]"
GLOB = re.compile(rf"(?P<star>\*+)|(?P<any>\?)|{CLASS}|(?P<open>\[)|\\?(?P<letter>.)", re.S)
END = r"(?=/|\Z)"


def component(pattern: str) -> str:
    """The regular expression of one part of a path. Raises ValueError for a bad pattern."""
    chunks = [""]
    for found in GLOB.finditer(pattern):
        if found["star"]:
            chunks.append("")
        elif found["open"]:
            raise ValueError(f"{pattern!r}: a class [...] is not closed, or empty")
        elif found["class"]:
            body = re.sub(r"\\(.)|([\[&~|])", lambda special: re.escape(special[1] or special[2]), found["class"])
            chunks[-1] += f"[{'^/' if found['not'] else ''}{body}]"
        else:
            chunks[-1] += "[^/]" if found["any"] else re.escape(found["letter"])
    first, *middle = chunks
    last = f"[^/]*{middle.pop()}" if middle else ""
    whole = first + "".join(f"(?>[^/]*?{chunk})" for chunk in middle) + last
    try:
        re.compile(whole)
    except re.error as wrong:
        raise ValueError(f"{pattern!r}: {wrong}") from None
    return whole


def clean(path: str) -> str:
    """The path from the root, without "." and empty parts; ".." goes no higher than the root."""
    return posixpath.normpath("/" + path).lstrip("/")


class Ignore:
    """The rules of a .dockerignore; the last one that matches a path, or a directory above it, decides."""

    def __init__(self, text: str = "") -> None:
        self.rules: list[tuple[bool, re.Pattern[str]]] = []  # (whether it ignores, what), the last one first
        for line in text.removeprefix("\ufeff").split("\n"):
            word = "" if line.startswith("#") else line.strip()
            if pattern := clean(word.removeprefix("!").strip()):
                self.rules.insert(0, (not word.startswith("!"), _regex(pattern)))
        self.exceptions = not all(ignoring for ignoring, _ in self.rules)

    def ignores(self, path: str) -> bool:
        """Whether the path, relative to the context, is left out."""
        return next((ignoring for ignoring, matching in self.rules if matching.match(f"/{path}")), False)


def _regex(pattern: str) -> re.Pattern[str]:
    """For the beginning of a path, /a/b, up to the end of a part."""
    pattern = re.sub(r"(?<![^/])\*\*(?=[^/*])", "**/*", pattern)  # **.go is meant for all directories, too
    first, *others = (
        "".join(f"/{component(part)}{END}" for part in group.split("/")[1:])
        for group in re.split(rf"(?:/\*\*)+{END}", f"/{pattern}")
    )
    middle = "".join(f"(?>(?:/[^/]*+)*?{group})" for group in others if group)
    return re.compile(first + middle + ("/" if others and not others[-1] else ""), re.S)

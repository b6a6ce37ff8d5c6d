"""Is the package as small as it is to be? And its reading order, the docstring of minidocker/__init__.py.

    python -m tools.book.budget           write the reading order, with lines and docstrings as they are
    python -m tools.book.budget --check   change nothing; list what is over its budget, and an order that is stale

The budgets are in pyproject.toml: lines (of wc -l) of each chapter in the package, of the packages that chapters keep
for themselves, of one module, and of the corridor, which is what a whole `minidocker run IMAGE COMMAND` has imported
when it ends. That is measured by running one, so it needs root and the image busybox. A module belongs to the chapter
that its docstring names, the command line and the doctor to `cli`.
"""

import ast
import collections
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import tomllib

from tools import KEPT, REPO

ORDER = REPO / "minidocker/__init__.py"
LINE = re.compile(r"^ {4}(?:\d\d|--) +\d+  (\S+)", re.M)
LOADED = """
import sys
sys.path += sys.argv[1:]
from minidocker.cli import main
assert main(["run", "--rm", "--network=none", "--pull=never", "busybox", "true"]) == 0
files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "minidocker"]
print(*files, sep="\\n")
"""


def about(path):
    """The chapter of a module (None: the command's), and what it is about in a line."""
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    chapter = re.match(r"Chapter (\d+)[:,] ", first)
    text = textwrap.shorten(first[chapter.end() :] if chapter else first, 78, placeholder=" …")
    return (int(chapter[1]) if chapter else None), text.rstrip(".")


def count(path):
    """Lines, docstrings and blanks included."""
    return len(path.read_text().splitlines())


def modules():
    """The package's files, but for the one that lists them."""
    return [path for path in REPO.glob("minidocker/**/*.py") if path != ORDER and KEPT not in path.parts]


def corridor():
    """The files that one run has imported; None where one cannot run."""
    if os.geteuid():
        return None
    command = [sys.executable, "-I", "-S", "-c", LOADED, REPO, sysconfig.get_paths()["purelib"]]
    for _ in range(2):  # the first one may have to find the image's layers, and writes them down
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return [REPO / name for name in done.stdout.split() if REPO / name != ORDER] if done.returncode == 0 else None


def counted():
    """Budget -> lines, as far as they can be counted here; of modules, the longest."""
    lines = collections.Counter()
    names = {int(path.name[:2]): path.name for path in REPO.glob("chapters/[0-9]*")}
    for path in modules():
        chapter, _ = about(path)
        lines["cli" if chapter is None else names.get(chapter, f"{chapter:02}")] += count(path)
        lines["all"] += 0 if chapter in (9, 10, 11) else count(path)
    for path in REPO.glob("chapters/*/*/__init__.py"):
        place = path.parent
        lines[str(place.relative_to(REPO))] = sum(map(count, place.rglob("*.py")))
    loaded = corridor()
    return dict(lines) | ({"corridor": sum(map(count, loaded))} if loaded else {})


def over(budgets):
    """What has more lines than it may have, one line each."""
    for name, lines in counted().items():
        if lines > budgets.get(name, 0):
            yield f"{name}: {lines} lines; {budgets.get(name, 0)} at most"
    for path in modules():
        if count(path) > budgets["module"]:
            yield f"{path.relative_to(REPO)}: {count(path)} lines; {budgets['module']} at most"


def ordered(text):
    """The reading order as it is to be: files keep their places within a chapter, new ones come last in theirs."""
    known = {name: place for place, name in enumerate(LINE.findall(text))}
    rows = []
    for path in modules():
        chapter, says = about(path)
        name = str(path.relative_to(REPO / "minidocker"))
        number = "--" if chapter is None else f"{chapter:02}"
        key = (99 if chapter is None else chapter, known.get(name, 999), name)
        rows.append((key, f"    {number} {count(path):4}  {name:26} {says}".rstrip()))
    return "\n".join(row for _, row in sorted(rows)) + "\n"


def main(words):
    """Write, or check."""
    text = ORDER.read_text()
    new = re.sub(r"(?:^ {4}(?:\d\d|--) .*\n)+", lambda _: ordered(text), text, count=1, flags=re.M)
    if "--check" not in words:
        ORDER.write_text(new)
        return 0
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["minidocker"]
    wrong = list(over(settings["budget"] | settings.get("ratchet", {}))) + (
        [f"{ORDER.name}: stale; run make weave"] if new != text else []
    )
    print("\n".join(wrong) or "everything is within its budget")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Copy the package's source into the chapters' text, and prove that each symbol of it is explained exactly once.

    python -m tools.book.weave            rewrite what stands between the markers of chapters/*/*.md
    python -m tools.book.weave --check    change nothing; list what is stale, too long, explained twice or nowhere

A marker names a file and symbols of it, in the order in which the text wants them. `source` prints them (a block has at
most 25 lines); `see` only names them, in a folded list with how each docstring opens. Without symbols, `see`
names all those of the file that no other marker prints or names:

    <!-- source minidocker/process.py: run Isolator.<head> -->
    <!-- /source -->
    <!-- see minidocker/process.py -->
    <!-- /see -->

A symbol is a function, a class (`Isolator`) or part of one (`Isolator.attach`; `Isolator.<head>`, up to its first
method), a constant (`PIPE`), `<imports>` (docstring and imports), or `<head>` (all before the first function or class).
A comment belongs to what follows it. A module whose docstring begins "Chapter N:" is explained in chapter N, any other
in any one. A page prints at most 350 lines, and has at most 2,500 words outside of code, folded parts and the
alternative texts of pictures. (cog also fills markers, but with code that stands in the text, and cannot say what no
text shows.)

In README.md and chapters/*.md, `<!-- cell 01: class Escape -->[10]<!-- /cell -->` is the count of the first such cell
in lab 1. A mark within a line must not begin it: Markdown would take the line for HTML.
"""

import ast
import collections
import json
import re
import sys
import tomllib

from tools import KEPT, REPO
from tools.book import minutes
from tools.book.map import maps

MARKER = re.compile(
    r"(<!-- (source|see) (\S+?)(?:: ([^\n]+?))? -->\n)((?:(?!<!-- (?:source|see) ).)*?)(<!-- /\2 -->)", re.S
)
BLOCK_LINES, PAGE_LINES, PAGE_WORDS = 25, 350, 2500
NO_PROSE = re.compile(
    r"!\[[^\]]*\]|<details>.*?</details>|^ *```.*?^ *```|<!--.*?-->|^    .*?$|(?<=\])\([^)\s]*\)", re.S | re.M
)


def leaves(body, lines, first, last, prefix=""):
    """Cut the lines first..last, which hold the statements of `body`; yield (name, first, last), without gaps."""
    starts = [(prefix + ("<head>" if prefix else "<imports>"), first)]
    for node in body:
        if (name := _name(node, inside=bool(prefix))) and node.lineno > first:
            line = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
            while line - 1 > first and lines[line - 2].lstrip().startswith("#"):
                line -= 1
            starts.append((prefix + name, line))
    ends = [line - 1 for _, line in starts[1:]] + [last]
    classes = {node.name: node.body for node in body if isinstance(node, ast.ClassDef)}
    for (name, start), end in zip(starts, ends, strict=True):
        if name in classes:
            yield from leaves(classes[name], lines, start, end, f"{name}.")
        elif start <= end:
            yield name, start, end


def _name(node, inside):
    """The name under which a statement begins a symbol of its own; within a class only its methods do."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) and not inside else None


class Module:
    """A source file: its lines, its leaves, what it says of each, and the chapter that it belongs to (None: to any)."""

    def __init__(self, path):
        source = path.read_text()
        tree = ast.parse(source)
        self.lines = source.splitlines()
        self.leaves = list(leaves(tree.body, self.lines, 1, len(self.lines))) if self.lines else []
        self.says = dict(_says(tree.body))
        self.about = opening(ast.get_docstring(tree) or "")
        chapter = re.match(r"Chapter (\d+):", self.about)
        self.chapter = int(chapter[1]) if chapter else None
        defs = (node.lineno for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
        self.first_def = next(defs, len(self.lines) + 1)

    def select(self, name):
        """The leaves that a name stands for: one, those of a class, or those of the head."""
        if name == "<head>":
            return [leaf for leaf in self.leaves if leaf[2] < self.first_def]
        return [leaf for leaf in self.leaves if leaf[0] == name or leaf[0].startswith(f"{name}.")]

    def code(self, leaves):
        """Their text; what follows one another in the file does so here, with the file's own blank lines."""
        text = ""
        for before, (_, start, end) in zip([None, *leaves], leaves, strict=False):
            if before and before[2] + 1 != start:
                text = text.rstrip() + "\n\n"
            text += "\n".join(self.lines[start - 1 : end]) + "\n"
        return text.strip("\n")


def opening(text):
    """How a docstring begins: its first line, and the rest of the sentence that does not end there."""
    line, _, rest = text.partition("\n")
    if not line or line[-1] in ".:!?)" or not rest.partition("\n")[0]:
        return line
    return line + " " + re.split(r"(?<=[.!?])\s|\n\n", rest, maxsplit=1)[0].replace("\n", " ")


def _says(body, prefix=""):
    """(symbol, what one line says of it) for functions, classes, methods: the docstring's first, or the signature."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
            signature = f"`({arguments})`" if arguments and node.name != "__exit__" else ""
            yield prefix + node.name, opening(ast.get_docstring(node) or signature)
        elif isinstance(node, ast.ClassDef):
            yield f"{node.name}.<head>", opening(ast.get_docstring(node) or "")
            yield from _says(node.body, f"{node.name}.")


class Page:
    """A page of a chapter: its text and its markers, each a kind, a file, the leaves that it names (None: the rest)."""

    def __init__(self, path, where, modules, wrong):
        self.path, self.where, self.text, self.markers = path, where, path.read_text(), []
        for match in MARKER.finditer(self.text):
            _, kind, file, names, _, _ = match.groups()
            module, chosen = modules.get(file), None if kind == "see" and not names else []
            for name in (names or "").split():
                found = module.select(name) if module else []
                wrong += [] if found else [f"{where}: there is no {name} in {file}"]
                chosen += found
            if module is None:
                wrong.append(f"{where}: there is no {file}")
            elif module.chapter is not None and not where.startswith(f"chapters/{module.chapter:02}_"):
                wrong.append(f"{where}: explains {file}, which belongs to chapter {module.chapter}")
            self.markers.append((kind, file, module, chosen))
        if len(re.findall("<!-- (?:source|see) ", self.text)) != len(self.markers):
            wrong.append(f"{where}: a marker is malformed, or not closed by its <!-- /source --> or <!-- /see -->")

    def filled(self, rest, wrong):
        """The text with its markers filled; `rest` is what a `see` without symbols names, by file."""
        markers = iter(self.markers)

        def fill(match):
            kind, file, module, chosen = next(markers)
            chosen = rest[file] if chosen is None else chosen
            if not chosen:
                wrong.append(f"{self.where}: nothing is left of {file} for a marker to name")
            if not module or not chosen:
                return match[0]
            return (
                match[1] + (named(file, module, chosen) if kind == "see" else printed(file, module, chosen)) + match[6]
            )

        return MARKER.sub(fill, self.text)

    def blocks(self):
        """(file, number of lines) of each block that is printed."""
        found = [(file, module, chosen) for kind, file, module, chosen in self.markers if kind == "source" and module]
        return [(file, len(module.code(chosen).splitlines())) for file, module, chosen in found]

    def words(self):
        """How many it has outside of code and what is folded."""
        return len(re.findall(r"\S*\w\S*", NO_PROSE.sub(" ", self.text)))

    def too_long(self):
        """What of it is longer than a page or a block may be."""
        for file, lines in self.blocks():
            if lines > BLOCK_LINES:
                yield f"{self.where}: prints {lines} lines of {file} in one block; {BLOCK_LINES} at most"
        lines, words = sum(lines for _, lines in self.blocks()), self.words()
        if lines > PAGE_LINES:
            yield f"{self.where}: prints {lines} lines of code; {PAGE_LINES} at most"
        if words > PAGE_WORDS:
            yield f"{self.where}: has {words} words; {PAGE_WORDS} at most"


def printed(file, module, chosen):
    """Where the code is from, and the code."""
    owner, _, method = chosen[0][0].partition(".")
    name = file.replace("__", r"\_\_")  # which would be bold
    link = f"[{name}](../../{file})" + (f", in class `{owner}`" if method not in ("", "<head>") else "")
    return f"{link}\n\n```python\n{module.code(chosen)}\n```\n\n"


def named(file, module, chosen):
    """A folded list: a link to the file, and a line for each symbol."""
    lines = []
    for leaf in chosen:
        if (name := leaf[0]) in ("<imports>", "<head>"):
            continue
        code = [line for line in module.code([leaf]).splitlines() if not line.startswith("#")]
        says = module.says.get(name, f"`{code[0]}`" if len(code) == 1 else "")
        if name.endswith("__") and not says:
            continue
        lines.append(f"- `{name.removesuffix('.<head>')}`" + f": {_escaped(says)}" * bool(says))
    about = f": {_escaped(module.about)}" if chosen[0][0] == "<imports>" and module.about else ""
    about = re.sub(r"`([^`]*)`", r"<code>\1</code>", about)  # a summary is HTML
    summary = f'<details><summary><a href="../../{file}">{file}</a>{about}</summary>'
    return "\n".join([summary, "", *lines, *[""] * bool(lines), "</details>", ""])


def _escaped(text):
    """Text for a list of Markdown: what is no code must not look like a tag or like emphasis."""
    return re.sub(r"`[^`]*`|[<*_]", lambda found: found[0] if len(found[0]) > 1 else f"\\{found[0]}", text)


def cells(text, repo):
    """The text with what stands between each pair of `cell NN: WORDS` marks: the count of the lab's first such cell."""

    def count(match):
        (lab,) = repo.glob(f"notebooks/{match[2]}_*.ipynb")
        for cell in json.loads(lab.read_text())["cells"]:
            if cell["cell_type"] == "code" and match[3] in "".join(cell["source"]):
                return f"{match[1]}[{cell['execution_count']}]{match[4]}"
        raise SystemExit(f"{lab.name}: no cell has {match[3]!r}, which a mark names")

    return re.sub(r"(<!-- cell (\d\d): (.+?) -->).*?(<!-- /cell -->)", count, text)


def sources(repo):
    """The files whose symbols are explained: the package, the packages of chapters, the container on one screen."""
    inside = [path.parent.glob("**/*.py") for path in repo.glob("chapters/*/*/__init__.py")]
    alone = [*repo.glob("minidocker/**/*.py"), *repo.glob("chapters/*/one_screen.py")]
    found = [*alone, *(path for paths in inside for path in paths)]
    return sorted(path for path in found if KEPT not in path.parts)


def printed_lines(repo=REPO):
    """File -> the numbers of those of its lines that some page prints."""
    modules = {str(path.relative_to(repo)): Module(path) for path in sources(repo)}
    lines = collections.defaultdict(set)
    for path in sorted(repo.glob("chapters/*/*.md")):
        for kind, file, _, chosen in Page(path, str(path.relative_to(repo)), modules, []).markers:
            for _, first, last in chosen if kind == "source" else ():
                lines[file] |= {*range(first, last + 1)}
    return lines


def weave(repo=REPO, check=False):
    """Fill the markers (or, to check, only compare); return what is wrong, one line each."""
    wrong, shown = [], collections.defaultdict(list)
    modules = {str(path.relative_to(repo)): Module(path) for path in sources(repo)}
    pages = [Page(path, str(path.relative_to(repo)), modules, wrong) for path in sorted(repo.glob("chapters/*/*.md"))]
    for page in pages:
        for _, file, _, chosen in page.markers:
            for leaf in chosen or ():
                shown[file, leaf].append(page.where)
    rest = {file: [leaf for leaf in module.leaves if not shown[file, leaf]] for file, module in modules.items()}
    for page in pages:
        for _, file, _, chosen in page.markers:
            for leaf in rest.get(file, ()) if chosen is None else ():
                shown[file, leaf].append(page.where)
        new = minutes.MARK.sub(
            lambda found, page=page: f"{found[1]}{_minutes(page, modules)}{found[2]}", page.filled(rest, wrong)
        )
        if new != page.text and check:
            wrong.append(f"{page.where}: stale; run make weave")
        elif new != page.text:
            page.path.write_text(new)
    for path, drawing in maps(repo).items():
        if check and (not path.exists() or path.read_text() != drawing):
            wrong.append(f"{path.relative_to(repo)}: stale; run make weave")
        elif not check:
            path.write_text(drawing)
    for path in (*repo.glob("README.md"), *repo.glob("chapters/*.md")):
        if (new := cells(path.read_text(), repo)) != path.read_text():
            if check:
                wrong.append(f"{path.relative_to(repo)}: stale; run make weave")
            else:
                path.write_text(new)
    for path in (*repo.glob("README.md"), *repo.glob("chapters/*.md"), *repo.glob("chapters/*/*.md")):
        for line in re.findall(r"^ *<!-- (?:figure|value|given|cell|minutes)\b.*", path.read_text(), re.MULTILINE):
            where = path.relative_to(repo)
            wrong.append(f"{where}: a line begins with a mark, so it is HTML and no Markdown: {line[:50]}")
    settings = repo / "pyproject.toml"
    tools = tomllib.loads(settings.read_text()).get("tool", {}) if settings.exists() else {}
    over = tools.get("minidocker", {}).get("pages", {}).get("over", [])
    wrong += [problem for page in pages if page.where not in over for problem in page.too_long()]
    return wrong + [problem for file, module in modules.items() for problem in _unexplained(file, module, shown)]


def _minutes(page, modules):
    """What a chapter says of its own length."""
    printed = sum(lines for _, lines in page.blocks())
    chapter = int(page.path.parent.name[:2])
    inside = f"{page.path.parent.name}/"
    known = [module for file, module in modules.items() if module.chapter == chapter or inside in file]
    folded = sum(len(module.lines) for module in known) - printed
    return minutes.stated(page.path.parent, page.words(), printed, folded)


def _unexplained(file, module, shown):
    """The leaves of a module that are explained in no place, or in more than one."""
    for leaf in module.leaves:
        if len(places := shown[file, leaf]) != 1:
            times = f"{len(places)} times: {', '.join(places)}" if places else "in no chapter"
            yield f"{file}: {leaf[0]} (line {leaf[1]}) is explained {times}"


if __name__ == "__main__":
    found = weave(check="--check" in sys.argv)
    print("\n".join(found) or "each symbol of the package is explained exactly once")
    sys.exit(bool(found))

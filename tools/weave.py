"""Copy the package's source into the chapters' text, and prove that each line of it is explained exactly once.

    weave.py           rewrite the code between the markers of chapters/*/*.md
    weave.py --check   change nothing; list what is stale, unexplained, explained twice or in the wrong chapter

A marker names a file and pieces of it, in the order in which the text wants them:

    <!-- source minidocker/process.py: run Isolator.<head> -->
    <!-- /source -->

A piece is a function, a class (`Isolator`) or part of one (`Isolator.attach`; `Isolator.<head>`, up to its first
method), a constant (`PIPE`), `<imports>` (docstring and imports), or `<head>` (all before the first function or class).
A comment belongs to what follows it. A module whose docstring begins "Chapter N:" is explained in chapter N, any other
in any one. (cog also fills markers, but with code that stands in the text, and cannot say what no text shows.)
"""

import ast
import collections
import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- source (\S+): ([^\n]+?) -->\n)((?:(?!<!-- source).)*?)(<!-- /source -->)", re.S)


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
    """The name under which a statement begins a piece of its own; within a class only its methods do."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) and not inside else None


class Module:
    """A source file: its lines, its leaves, and the chapter that it belongs to (None: to any)."""

    def __init__(self, path):
        source = path.read_text()
        tree = ast.parse(source)
        self.lines = source.splitlines()
        self.leaves = list(leaves(tree.body, self.lines, 1, len(self.lines))) if self.lines else []
        chapter = re.match(r"Chapter (\d+):", ast.get_docstring(tree) or "")
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


def weave(repo=REPO, check=False):
    """Fill the markers (or, to check, only compare); return what is wrong, one line each."""
    modules = {str(path.relative_to(repo)): Module(path) for path in sorted(repo.glob("minidocker/**/*.py"))}
    shown, wrong = collections.defaultdict(list), []
    for text in sorted(repo.glob("chapters/*/*.md")):
        old, where = text.read_text(), str(text.relative_to(repo))
        new = BLOCK.sub(lambda match, where=where: _block(match, modules, where, shown, wrong), old)
        if old.count("<!-- source") != len(BLOCK.findall(old)):
            wrong.append(f"{where}: a source marker is malformed or has no <!-- /source -->")
        if new != old and check:
            wrong.append(f"{where}: stale; run make weave")
        elif new != old:
            text.write_text(new)
    for file, module in modules.items():
        for leaf in module.leaves:
            places = shown[file, leaf]
            if len(places) != 1:
                times = f"{len(places)} times: {', '.join(places)}" if places else "in no chapter"
                wrong.append(f"{file}: {leaf[0]} (line {leaf[1]}) is explained {times}")
    return wrong


def _block(match, modules, where, shown, wrong):
    """The text between two markers: where it is from, and the code."""
    start, file, names, _, end = match.groups()
    module, leaves = modules.get(file), []
    for name in names.split():
        found = module.select(name) if module else []
        if not found:
            wrong.append(f"{where}: there is no {name} in {file}")
            return match[0]
        leaves += found
    for leaf in leaves:
        shown[file, leaf].append(where)
    if module.chapter is not None and not where.startswith(f"chapters/{module.chapter:02}_"):
        wrong.append(f"{where}: shows {file}, which belongs to chapter {module.chapter}")
    owner, _, method = leaves[0][0].partition(".")
    link = f"[{file}](../../{file})" + (f", in class `{owner}`" if method not in ("", "<head>") else "")
    return f"{start}{link}\n\n```python\n{module.code(leaves)}\n```\n\n{end}"


if __name__ == "__main__":
    found = weave(check="--check" in sys.argv)
    print("\n".join(found) or "each line of the package is explained exactly once")
    sys.exit(bool(found))

"""What is left of a chapter's module when its work is taken out, to be written anew: `make skeleton CHAPTER=01`.

    python -m tools.learner.skeleton 01      into work/rootfs.py, unless it is there

Docstrings, signatures and constants stay; private functions and comments go; each function says that it is your turn.
"""

import ast
import sys

from tests.helpers.swap import MODULES, PACKAGES
from tools.learner import desk

TURN = ast.parse('raise NotImplementedError("your turn")').body


def skeleton(source):
    """The module's text without its work."""
    tree = ast.parse(source)
    tree.body = [node for node in map(_emptied, tree.body) if node]
    return ast.unparse(tree) + "\n"


def _emptied(node):
    """A statement as it stays, or None."""
    if isinstance(node, ast.FunctionDef):
        if node.name.startswith("_") and not node.name.startswith("__"):
            return None
        docstring = node.body[:1] if ast.get_docstring(node) else []
        node.body = docstring + TURN
    if isinstance(node, ast.ClassDef):
        node.body = [inner for inner in map(_emptied, node.body) if inner]
    return node


def main(arguments):
    """Write it for the owner of work/; return its path."""
    if not arguments or not arguments[0].isdecimal() or int(arguments[0]) not in MODULES:
        known = ", ".join(f"{number:02} ({name})" for number, name in MODULES.items())
        sys.exit(f"skeleton: which chapter? make skeleton CHAPTER=01; known are {known}")
    module = MODULES[int(arguments[0])]
    place = PACKAGES[module.partition(".")[0]] / module.replace(".", "/")
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    mine = desk.WORK / f"{place.name}.py"
    if mine.exists():
        sys.exit(f"skeleton: {mine} is there already: delete it first, if you want to begin anew")
    desk.WORK.mkdir(parents=True, exist_ok=True)
    mine.write_text(skeleton(source.read_text()))
    for path in (desk.WORK, mine):
        desk.chown(path, desk.REPO.stat())
    print(f"{mine}: {module} without its work. Write it, and judge it: make check-my CHAPTER={arguments[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])

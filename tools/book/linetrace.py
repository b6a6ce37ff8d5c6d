"""Which lines that a chapter prints does no notebook run?

    python -m tools.book.linetrace [NN_name ...]

Coverage tools lose a process that changes its root, closes its descriptors, or executes something. This one marks each
line in a file that is mapped into memory and shared: one byte for a line. A new process inherits the mapping, whatever
it does to its root and its descriptors, and to mark a line is to write a byte. `lab.setup` starts it in a notebook's
kernel; the launcher of that kernel, and the server of a union, start it by their boot lines; and the command
`minidocker` that a notebook calls is one that starts it first.

What a page only names is the tests' business, and so are refusals: lines that raise, or handle what was raised. Other
printed lines that may stay unrun are in tools/book/unrun.txt, by symbol, with the reason; at most 100 lines.
"""

from __future__ import annotations

import ast
import mmap
import os
import sys
import sysconfig
import threading
from pathlib import Path

from tools import REPO
from tools.book import weave

ALONE = "one_screen.py"  # a program of its own, without the package: lab 0 runs all of it, and no tracer can be in it
FILES = [path for path in weave.sources(REPO) if path.name != ALONE]
LINES = 1000  # bytes for each file; no module may be longer
LOG = REPO / "build" / "lines"


def start(log: str) -> None:
    """Mark from now on each line of the package that this process, and what is forked from it, runs."""
    with open(log, "r+b") as file:
        marks = mmap.mmap(file.fileno(), len(FILES) * LINES)
    places = {str(path): number * LINES for number, path in enumerate(FILES)}

    def local(frame, event, _):
        marks[places[frame.f_code.co_filename] + frame.f_lineno] = 1
        return local

    def everywhere(frame, event, argument):
        return local(frame, event, argument) if frame.f_code.co_filename in places else None

    threading.settrace(everywhere)
    sys.settrace(everywhere)


def follow(module) -> None:
    """Let the process that this module starts, the launcher or a union's server, do the same: extend its boot line."""
    repo, log = str(REPO), os.environ["MINIDOCKER_LINES"]
    start = f"import sys; sys.path.append({repo!r}); from tools.book import linetrace; linetrace.start({log!r})"
    module.BOOT = f"{start}; {module.BOOT}"


def command(place: Path) -> Path:
    """A directory with a program `minidocker` that is the installed one, traced; to stand first in PATH."""
    libraries = [str(REPO), sysconfig.get_paths()["purelib"]]
    place.mkdir(parents=True, exist_ok=True)
    program = place / "minidocker"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path += {libraries!r}\n"
        f"from tools.book import linetrace\nlinetrace.start({str(LOG)!r})\n"
        "from minidocker.cli import command\ncommand()\n"
    )
    program.chmod(0o755)
    return place


def executable(path: Path) -> set[int]:
    """The lines that the compiler made code for, but for what only a type checker reads, and refusals.

    A line that raises, or that handles an exception, is the tests' business: a lab does not break everything.
    """
    source = path.read_text()
    hidden: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise | ast.ExceptHandler):
            hidden |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden |= {line for part in node.body for line in range(part.lineno, (part.end_lineno or 0) + 1)}
    codes, lines = [compile(source, str(path), "exec")], set()
    while codes:
        code = codes.pop()
        lines |= {line for _, _, line in code.co_lines() if line}
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_lines")]
    return lines - hidden


def symbols(path: Path) -> dict[str, range]:
    """Functions, classes and methods by name, with their lines; `*` is the whole file."""
    text = path.read_text()
    found = {"*": range(len(text.splitlines()) + 1)}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = range(node.lineno, (node.end_lineno or 0) + 1)
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef):
                    found[f"{node.name}.{part.name}"] = range(part.lineno, (part.end_lineno or 0) + 1)
    return found


def excused() -> list[tuple[str, str]]:
    """(file, symbol) of each entry of unrun.txt; the indented lines below are its reason."""
    lines = (REPO / "tools/book/unrun.txt").read_text().splitlines()
    entries = [line.split(": ") for line in lines if line and not line.startswith((" ", "#"))]
    return [(file, symbol) for file, symbol in entries]


def report(marks: bytes) -> int:
    """Print what a page prints and no notebook runs, and excuses for what is not there."""
    entries, printed, names = excused(), weave.printed_lines(), {str(path.relative_to(REPO)) for path in FILES}
    problems = [f"{file}: excused, and not there" for file, _ in entries if file not in names]
    for number, path in enumerate(FILES):
        name, places = str(path.relative_to(REPO)), symbols(path)
        unrun = {line for line in executable(path) & printed[name] if not marks[number * LINES + line]}
        for file, symbol in entries:
            if file == name:
                problems += [] if symbol in places else [f"{file}: {symbol}: excused in unrun.txt, and not there"]
                unrun -= {*places.get(symbol, ())}
        lines = path.read_text().splitlines()
        problems += [f"{name}:{line}: run by no notebook: {lines[line - 1].strip()}" for line in sorted(unrun)]
    print("\n".join(problems) or "each line that is printed is run by a notebook, or excused with a reason")
    return bool(problems)


def main(names: list[str]) -> int:
    """Run the notebooks traced, then report."""
    from tools.book import notebooks

    LOG.parent.mkdir(exist_ok=True)
    LOG.write_bytes(bytes(len(FILES) * LINES))
    traced = {"MINIDOCKER_LINES": LOG, "PATH": f"{command(REPO / 'build/traced')}:{os.environ['PATH']}"}
    for path in sorted(REPO.glob("notebooks/*.ipynb")):
        if not names or path.stem in names:
            run = notebooks.execute(path, env=notebooks.environment(**traced), keep_going=True)
            for cell in run.cells:
                for what in notebooks.failures(cell):
                    print(f"{path.name}: {what}", flush=True)
    return report(LOG.read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

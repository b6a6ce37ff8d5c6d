"""Execute the notebooks, store them with their outputs, and say what is wrong with stored ones.

    notebooks.py --run [NAME...]      execute in place; one that fails stays as it was
    notebooks.py --execute-to DIR     execute copies into DIR
    notebooks.py --check [NAME...]    change nothing; list what breaks a rule of the house

nbclient executes, nbval compares (notebooks/conftest.py). Here is what both leave open: a notebook that nbval passes
because it holds nothing to compare, and outputs that tell which machine stored them.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
from nbval.plugin import find_comment_markers, find_metadata_tags

from tools import REPO

NOTEBOOKS = REPO / "notebooks"
SECTIONS = ["See it", "Break it", "Measure it", "Your turn"]
MAGICS = {"bash", "sh", "writefile"}  # others print timings, or hide what happens
PICTURES = ("image/png", "image/svg+xml", "image/jpeg")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},  # no version: it is the same notebook on Python 3.11 to 3.13
}
MACHINE = re.compile(rf"/home/\w|/root/|/tmp/ipykernel|site-packages|\.pyenv|{re.escape(str(REPO))}(?!\w)")


def environment(**more):
    """The environment of every notebook's kernel, whoever starts it, so that all get the same outputs."""
    # Under PYTEST_CURRENT_TEST ipykernel would not capture descriptors 1 and 2.
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    path = os.pathsep.join(filter(None, [kept.get("PYTHONPATH"), str(REPO), str(NOTEBOOKS)]))
    plain = {"COLUMNS": "80", "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "PYTHONPATH": path}
    return kept | plain | {name: str(value) for name, value in more.items()}


def execute(path, env=None, keep_going=False):
    """Run a notebook top to bottom in a new kernel, in its own directory; return it in the form in which it is stored.

    A cell that raises is a `CellExecutionError`, unless `keep_going`.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        allow_errors=keep_going,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--HistoryManager.enabled=False"],
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    # The kernel's own stderr says only that others on this machine may listen; a cell's stderr is not that one.
    client.execute(env=env or environment(), stderr=subprocess.DEVNULL)
    return normal(notebook)


def normal(notebook):
    """Drop what differs between two machines, or between two editors; copy each picture's alt text to its cell."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    names = set()
    for cell in notebook.cells:
        cell.source = cell.source.strip()
        kept = {key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb") and value}
        alts = [alt for output in cell.get("outputs", ()) if (alt := alt_text(output))]
        if alts:
            kept["mystnb"] = {"image": {"alt": " ".join(alts)}}  # where myst-nb looks for it
        cell.metadata = nbformat.from_dict(kept)
        cell.id = identity(cell, names)
    return notebook


def identity(cell, names):
    """A cell's id depends on its source alone: an editor's random ids would change with each copy."""
    text, number = cell.cell_type + cell.source, 0
    while (name := hashlib.sha256(f"{text}{number or ''}".encode()).hexdigest()[:8]) in names:
        number += 1
    names.add(name)
    return name


def alt_text(output):
    """The alt text of an output's picture: "" if there is none, None if the output is no picture."""
    data = output.get("data", {})
    mime = next((mime for mime in PICTURES if mime in data), None)
    return output.metadata.get(mime, {}).get("alt", "") if mime else None


def problems(path):
    """Yield each rule that the stored notebook breaks, as "notebook: where: what"."""
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    for where, what in (*_whole(notebook, text), *_cells(notebook.cells)):
        yield f"{path.name}: {where}: {what}"


def _whole(notebook, text):
    """Rules about the notebook as a whole."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield "counts", f"{counts}: not executed top to bottom; run make notebook NAME=..."
    elif nbformat.writes(normal(notebook)).strip() != text.strip():
        yield "metadata", "not in the form in which it is stored; run make notebook NAME=..."
    if not code or "lab.setup()" not in code[0].source:
        yield "first cell", "the first code cell must call lab.setup()"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## +(.+)", text, re.M)
    found = [section for heading in headings for section in SECTIONS if heading.startswith(section)]
    if found != SECTIONS or not headings[-1].startswith(SECTIONS[-1]):
        yield "sections", f"must be, in this order, the last one last: {' · '.join(SECTIONS)}"
    ignored = sum(not compared(cell) for cell in code)
    if ignored > 0.2 * len(code):
        yield "compared", f"{ignored} of {len(code)} code cells are not compared; at most a fifth may be"


def compared(cell):
    """Whether nbval compares this cell's outputs; it reads a tag, or a comment in the cell."""
    options = dict(find_metadata_tags(cell.metadata)) | dict(find_comment_markers(cell.source))
    return options.get("check", True) and not options.get("skip")


def _cells(cells):
    """Rules about each cell."""
    before = None
    for number, cell in enumerate(cells, 1):
        where = f"cell {number}"
        if cell.cell_type == "code":
            for what in (*_code(cell, before), *_outputs(cell)):
                yield where, what
        elif re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"\w)", cell.source):
            yield where, "a picture without alt text"
        before = cell


def _code(cell, before):
    """Rules about what a code cell says, and what is said before it."""
    if before is None or before.cell_type != "markdown":
        yield "no sentence before it"
    elif not compared(cell) and "not compared" not in before.source:
        yield 'its output is ignored: the text before it must say "not compared", and why'
    for magic in re.findall(r"^\s*%{1,2}(\w+)", cell.source, re.M):
        if magic not in MAGICS:
            yield f"the magic {magic} is not one of {', '.join(sorted(MAGICS))}"
    if dict(find_metadata_tags(cell.metadata)).get("skip") or dict(find_comment_markers(cell.source)).get("skip"):
        yield "it is skipped: a notebook is executed whole"
    if MACHINE.search(cell.source):
        yield f"a path of one machine in the code: {MACHINE.search(cell.source)[0]}"
    if not cell.source:
        yield "it is empty"


def failures(cell):
    """What went wrong in a cell that was not meant to fail."""
    for output in cell.get("outputs", []):
        if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            yield f"it failed: {output.ename}: {output.evalue}"


def _outputs(cell):
    """Rules about what is stored under a code cell."""
    yield from failures(cell)
    for output in cell.outputs:
        if output.get("name") == "stderr":
            yield f"it wrote to stderr: {output.text[:60]!r}"
        if alt_text(output) == "":
            yield "a picture without alt text: lab.show(figure, alt=...)"
        data = output.get("data", {})
        shown = output.get("text", "") + "".join(text for mime, text in data.items() if mime.startswith("text/"))
        if match := re.search(r"\w+Warning:", shown):
            yield f"a warning: {match[0]}"
        if match := MACHINE.search(shown):
            yield f"a path of one machine in its output: {match[0]}"


def chosen(names):
    """The notebooks with these names, or all."""
    paths = [NOTEBOOKS / f"{Path(name).stem}.ipynb" for name in names]
    return paths or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def run(paths, directory):
    """Execute each, and store it in the directory; say which failed, and go on with the next."""
    failed = 0
    for path in paths:
        try:
            notebook = execute(path)
        except Exception as error:
            failed += 1
            print(f"{path.name}: failed\n{error}", file=sys.stderr)
        else:
            nbformat.write(notebook, directory / path.name)
            print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells")
    return failed


def main():
    """Parse the command line; the exit status is 1 if anything failed or broke a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", action="store_true", help="execute in place")
    what.add_argument("--execute-to", metavar="DIR", type=Path, help="execute copies")
    what.add_argument("--check", action="store_true", help="list what breaks a rule")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 00_process (default: all)")
    options = parser.parse_args()
    paths = chosen(options.names)
    if options.check:
        found = [problem for path in paths for problem in problems(path)]
        print("\n".join(found) or f"{len(paths)} notebooks, nothing to say against")
        return bool(found)
    directory = options.execute_to or NOTEBOOKS
    directory.mkdir(parents=True, exist_ok=True)
    return bool(run(paths, directory))


if __name__ == "__main__":
    sys.exit(main())

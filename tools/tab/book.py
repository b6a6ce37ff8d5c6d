"""Put the machine into the book: its folder, what its page knows of the chapters, and a script on their pages."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

from tools import REPO
from tools.tab.build import CHAPTERS, FURTHER, OUT

WHOLE, SOME = range(5), range(8)  # chapters that run in the machine; those whose pages have at least a terminal
STORED = REPO / "tools/tab/stored.txt"


def named(places, chapters):
    """Files and folders of these chapters."""
    return [path for path in sorted(places) if path.name[:2].isdecimal() and int(path.name[:2]) in chapters]


def stored():
    """{lab: {number of a code cell: why it does not run in the machine}}; a cell that is not there is a mistake."""
    reasons, found = {}, {}
    for line in STORED.read_text().splitlines():
        if line and not line.startswith("#"):
            cell, _, reason = line.partition(": ")
            reasons[cell] = reason
    for path in named(REPO.glob("notebooks/*.ipynb"), WHOLE):
        cells = [cell["id"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        found[path.stem] = {number: reasons.pop(cell) for number, cell in enumerate(cells) if cell in reasons}
    if reasons:
        raise SystemExit(f"{STORED.name}: no lab has a cell {', '.join(reasons)}")
    return found


def exercises():
    """{chapter: {number: the file to begin with}}."""
    found = {}
    for chapter in CHAPTERS:
        files = sorted(chapter.glob("exercises/exercise_*.py"))
        found[chapter.name] = {path.stem.partition("_")[2]: path.read_text() for path in files}
    return found


def pages(book, chapters):
    """The pages of these chapters and their labs."""
    texts = [page for folder in named((book / "chapters").iterdir(), chapters) for page in folder.glob("*.html")]
    return texts + named((book / "notebooks").glob("*.html"), chapters)


def attach(book):
    """Into a book that has been built."""
    tab = book / "tab"
    shutil.copytree(OUT, tab)
    (tab / "book.json").touch()
    kept = [book / "index.html", book / "tools/tab/README.html", *pages(book, WHOLE)]
    texts = "".join(page.read_text() for page in kept)
    kept += [image for image in (book / "_images").iterdir() if image.name in texts]
    kept += [*(book / "_static").rglob("*"), *tab.iterdir()]
    worker = (tab / "sw.js").read_text()  # it lies at the top, since it answers for what is below it
    (tab / "sw.js").unlink()
    known = {
        "stages": {int(chapter.name[:2]): f"chapters/{chapter.name}/stage.py" for chapter in [*CHAPTERS, *FURTHER]},
        "stored": stored(),
        "exercises": exercises(),
        "offline": [str(path.relative_to(book)) for path in kept if path.is_file() and path.suffix != ".map"],
    }
    (tab / "book.json").write_text(json.dumps(known) + "\n")
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(tab.iterdir()))).hexdigest()[:16]
    (book / "sw.js").write_text(worker.replace("VERSION", version))
    for page in pages(book, SOME):
        up = os.path.relpath(tab, page.parent)
        head = f'<link rel="stylesheet" href="{up}/xterm.css"><link rel="stylesheet" href="{up}/tab.css">'
        head += f'<script type="module" src="{up}/tab.js"></script></head>'
        page.write_text(page.read_text().replace("</head>", head, 1))

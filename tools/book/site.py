"""Build the book, a web site of the texts and the labs with their stored outputs: `make book`, into build/book.

    python -m tools.book.site

Its folder can be put on any web server, and needs no other host. Sphinx builds it from copies in build/pages: a link to
a program or a folder leads to a page that shows it, and a lab stands below the text of its chapter. A warning of
Sphinx, such as a link without a target, is an error.
"""

import json
import os
import re
import shutil
import sys

from sphinx.application import Sphinx

from tools import REPO
from tools.tab import book as tab
from tools.tab import build as machine

PAGES, BOOK = REPO / "build/pages", REPO / "build/book"
LINK = re.compile(r'(?P<before>\]\(|href=")(?P<target>[^)\s"#:[]+)(?P<after>[)"#])')
FIRST = "README.md"  # becomes index.html
LANGUAGES = {".md": "markdown", ".py": "python", ".sh": "sh", ".toml": "toml", ".yaml": "yaml"}
# pages of no chapter
ROOM = ["chapters/WORDS.md", "chapters/TEACHING.md", "vagrant/README.md", "tools/tab/README.md", "CONTRIBUTING.md"]
SETTINGS = {
    "project": "minidocker",
    "root_doc": "index",
    "extensions": ["myst_nb"],
    "nb_execution_mode": "off",
    "html_theme": "furo",
    "html_title": "minidocker",
    "html_show_copyright": False,
    "html_theme_options": {"navigation_with_keys": True},
    "myst_heading_anchors": 4,
    "source_suffix": {".md": "myst-nb", ".ipynb": "myst-nb"},
}


def chapters():
    """For each chapter its pages and its lab, in the order of reading."""
    for lab in sorted(REPO.glob("notebooks/*.ipynb")):
        texts = sorted((REPO / "chapters" / lab.stem).glob("*.md"), key=lambda path: (path.name != "README.md", path))
        yield [str(path.relative_to(REPO)) for path in [*texts, lab]]


def contents(room):
    """The hidden tables of contents at the end of the first page: Sphinx makes the side bar of them."""
    rows = {"Chapters and labs": [page for pages in chapters() for page in pages], "The room": room}
    blocks = ("```{toctree}\n:hidden:\n:caption: " + name + "\n\n" + "\n".join(rows[name]) + "\n```" for name in rows)
    return "\n\n" + "\n\n".join(blocks) + "\n"


class Site:
    """The copies, and the source pages that their links ask for."""

    def __init__(self):
        self.room = [page for page in ROOM if (REPO / page).exists()]
        self.texts = [FIRST, *(page for pages in chapters() for page in pages), *self.room]
        self.sources = {}  # a file or folder of the repository -> its page

    def linked(self, text, page, there=None):
        """The text of `page`, to be written as `there`. Links to what is no page lead to one that shows it."""

        def follow(match):
            target = os.path.normpath(os.path.join(os.path.dirname(page), match["target"]))
            raw = match["before"].startswith("href")
            if target not in self.texts and not target.endswith((".svg", ".png")):
                if not (REPO / target).exists():
                    raise SystemExit(f"{page}: there is no {target}")
                self.sources.setdefault(target, f"source/{target}.md")
                target = f"source/{target}.md"
            target = "index.md" if target == FIRST else target
            place = os.path.relpath(target, os.path.dirname(there or page) or ".")
            built = re.sub(r"\.(md|ipynb)$", ".html", place) if raw else place
            return match["before"] + built + match["after"]

        return LINK.sub(follow, text)

    def copy(self):
        """Write all pages anew."""
        shutil.rmtree(PAGES, ignore_errors=True)
        for page in self.texts:
            text = (REPO / page).read_text()
            if page.endswith(".ipynb"):
                lab = json.loads(text)
                lab["metadata"].setdefault("language_info", {})["pygments_lexer"] = "ipython3"
                for cell in lab["cells"]:
                    if cell["cell_type"] == "markdown":
                        cell["source"] = self.linked("".join(cell["source"]), page)
                write(page, json.dumps(lab))
            else:
                write(page, self.linked(text, page) + (contents(self.room) if page == FIRST else ""))
        for picture in [*REPO.glob("chapters/*/*.svg"), *REPO.glob("chapters/*/*.png"), *REPO.glob("chapters/*.svg")]:
            shutil.copy(picture, PAGES / picture.relative_to(REPO))
        while missing := [source for source, page in self.sources.items() if not (PAGES / page).exists()]:
            for source in missing:
                write(self.sources[source], self.shown(source))

    def shown(self, source):
        """The page of a file, or of a folder with links to what is in it."""
        path, head = REPO / source, f"---\norphan: true\n---\n# {source}\n\n"
        if path.is_file():
            fence = "`" * 8
            return f"{head}{fence}{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n{fence}\n"
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() or entry.suffix in LANGUAGES)
        lines = [f"- [{name}]({name})" for name in names if not name.startswith((".", "__pycache__"))]
        return head + self.linked("\n".join(lines), f"{source}/index.md", self.sources[source]) + "\n"


def write(page, text):
    """A page, in a folder that may be new."""
    path = PAGES / ("index.md" if page == FIRST else page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def main():
    """Copy and build; the exit code is that of Sphinx."""
    Site().copy()
    shutil.rmtree(BOOK, ignore_errors=True)
    trees = REPO / "build/doctrees"
    sphinx = Sphinx(PAGES, None, BOOK, trees, "html", SETTINGS, status=None, warningiserror=True, freshenv=True)
    sphinx.build()
    if machine.OUT.exists():  # make tab has built it
        tab.attach(BOOK)
    print(f"the book is in {BOOK.relative_to(REPO)}: python3 -m http.server -d {BOOK.relative_to(REPO)}")
    return sphinx.statuscode


if __name__ == "__main__":
    sys.exit(main())

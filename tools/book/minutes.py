"""How long a chapter takes, as its first lines say: computed, so that it stays true. `make weave` writes it.

200 words of prose a minute, 12 lines of code, half a minute for each cell of code that is run; an exercise takes 5, 15
or 30 minutes by its stars. Rounded to five minutes; nobody reads twice or takes a break.
"""

import json
import re

WORDS, LINES, CELL, STARS = 200, 12, 0.5, (5, 15, 30)
MARK = re.compile(r"(<!-- minutes -->).*?(<!-- /minutes -->)")


def stated(directory, prose, printed, folded):
    """The sentence for the chapter in `directory`: `prose` words and `printed` lines on its first page, `folded` lines
    that it only names.
    """
    reading = prose / WORDS + printed / LINES
    tasks = re.findall(r"^(?:\d\.|\*\*\d\.\*\*) (★+) ", (directory / "README.md").read_text(), re.MULTILINE)
    exercises = sum(STARS[len(stars) - 1] for stars in tasks)
    return (
        f"Reading: {five(reading)} minutes, {five(reading + folded / LINES)} with all of its code. "
        f"Lab: {five(lab(directory))} minutes. Exercises: {five(exercises)} minutes."
    )


def lab(directory):
    """Minutes for the chapter's notebook."""
    path = directory.parent.parent / "notebooks" / f"{directory.name}.ipynb"
    cells = json.loads(path.read_text())["cells"] if path.exists() else []
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    words = sum(len(text.split()) for text, kind in texts if kind == "markdown")
    lines = [len(text.splitlines()) for text, kind in texts if kind == "code"]
    return words / WORDS + sum(lines) / LINES + len(lines) * CELL


def five(minutes):
    """Rounded to five, and at least that."""
    return max(5, 5 * round(minutes / 5))

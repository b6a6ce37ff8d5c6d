"""The map of the course: one drawing for each chapter, chapters/NN_name/map.svg, in which its own part is lit.

`make weave` writes them, `make check` compares.
"""

# What each chapter is about: its number, the words in its box, and where that stands: x, y, width, height
BOXES = (
    (0, "a process", 330, 114, 130, 30),
    (1, "another root", 330, 152, 130, 30),
    (2, "a view of its own", 330, 38, 130, 30),
    (3, "a fence", 330, 76, 130, 30),
    (4, "union mount", 170, 152, 118, 30),
    (5, "images", 20, 152, 108, 30),
    (6, "volumes", 170, 76, 118, 30),
    (7, "ports", 502, 76, 78, 30),
    (8, "virtual machines", 614, 38, 130, 186),
    (9, "what root may", 330, 190, 130, 30),
    (10, "the engine", 170, 38, 118, 30),
    (11, "the standard", 20, 38, 118, 30),
)
LINES = (
    "M128 167h42",  # images are layers of a union
    "M288 167h42",  # which is the root
    "M288 91h22",  # volumes go into it
    "M288 53h22",  # a monitor stays with it
    "M138 53h32",  # other engines may take its place
    "M480 91h22",  # ports lead out of it
    "M580 91h24",
)


def drawing(lit):
    """The SVG, with the box of the chapter `lit` filled."""
    shapes = []
    for number, words, x, y, width, height in BOXES:
        fill = "#e69f00" if number == lit else "#ffffff"
        shapes.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="#000000"/>')
        middle = y + (20 if height < 40 else height / 2 + 5)
        text = f'<text x="{x + width / 2:g}" y="{middle:g}" text-anchor="middle">'
        shapes.append(f"{text}{number} {words}</text>")
    lines = "".join(f'<path d="{line}" stroke="#000000" fill="none"/>' for line in LINES)
    title = next(words for number, words, *_ in BOXES if number == lit)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 288" role="img"
     font-family="sans-serif" font-size="13">
  <title>The map of the course, with chapter {lit}, {title}, lit</title>
  <rect width="760" height="288" fill="#ffffff"/>
  <rect x="310" y="10" width="170" height="228" fill="none" stroke="#0072b2" stroke-width="2" stroke-dasharray="7 4"/>
  <text x="395" y="28" text-anchor="middle" fill="#0072b2">a container</text>
  {lines}
  {"".join(shapes)}
  <text x="679" y="28" text-anchor="middle" fill="#0072b2">beside it</text>
  <rect x="20" y="250" width="560" height="28" fill="#dddddd" stroke="#000000"/>
  <text x="300" y="269" text-anchor="middle">one Linux kernel, for all containers</text>
  <rect x="614" y="250" width="130" height="28" fill="#dddddd" stroke="#000000"/>
  <text x="679" y="269" text-anchor="middle">a kernel each</text>
</svg>
"""


def maps(repo):
    """path -> text of each chapter's map."""
    known = {number for number, *_ in BOXES}
    places = {path: int(path.name[:2]) for path in repo.glob("chapters/[0-9][0-9]_*")}
    return {path / "map.svg": drawing(number) for path, number in places.items() if number in known}

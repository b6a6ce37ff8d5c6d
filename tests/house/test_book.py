"""The book: everything that it links to is there, and it can be read on any width, in the light and in the dark."""

import html
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import pytest

from tests.helpers import BARE, REPO, need

browser = pytest.mark.xfail(bool(BARE), reason="the guest has no browser", run=False)
BOOK = REPO / "build/book"
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def pages():
    """path -> HTML of each page of a book that was built now."""
    done = subprocess.run([sys.executable, "-m", "tools.book.site"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: path.read_text() for path in BOOK.rglob("*.html")}


def test_every_link_leads_somewhere_also_to_a_place_on_a_page(pages):
    places = {path: {*re.findall(r'\bid="([^"]+)"', text)} for path, text in pages.items()}
    dead = []
    for path, text in pages.items():
        for link in map(html.unescape, re.findall(r'(?:href|src)="([^"]+)"', text)):
            if re.match(r"https?:|data:|mailto:", link):
                continue
            file, _, place = link.partition("#")
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not target.exists() or (place and place not in places.get(target, {place})):
                dead.append(f"{path.relative_to(BOOK)}: {link}")
    assert not dead
    assert sum(text.count("href=") for text in pages.values()) > 1000


def test_each_chapter_and_lab_is_there_with_its_outputs(pages):
    for lab in REPO.glob("notebooks/*.ipynb"):
        page = pages[BOOK / "notebooks" / f"{lab.stem}.html"]
        assert page.count("cell_output") > 10
        assert BOOK / "chapters" / lab.stem / "README.html" in pages
    assert BOOK / "index.html" in pages


def test_nothing_is_fetched_from_elsewhere(pages):
    fetched = re.compile(r'<(?:script|img|link)\b[^>]*(?:src|href)="(https?:[^"]+)"')
    assert not {found for text in pages.values() for found in fetched.findall(text)}


@browser
@pytest.mark.parametrize("width, scheme", [(1400, "light"), (1400, "dark"), (390, "light")])
def test_in_a_browser_pages_fit_and_pictures_load(pages, width, scheme):
    need(CHROMIUM, "needs a browser: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        for name in ("index.html", "chapters/01_chroot/README.html", "notebooks/03_cgroups.html"):
            page.goto((BOOK / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            assert page.evaluate(broken) == []
            colors = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
            dark, light = sorted(sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
            assert light - dark > 400, f"{name}: {colors} can hardly be read"
        browser.close()


@browser
def test_a_word_is_found(pages):
    """Search works on what the build indexed, in the reader's browser; from files, since there is no server."""
    need(CHROMIUM, "needs a browser: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((BOOK / "search.html").as_uri() + "?q=pivot_root")
        page.wait_for_selector("#search-results li a", timeout=20_000)
        assert page.locator("#search-results li a").count() > 2
        browser.close()

"""What the first cell of every notebook needs, and how a notebook shows a picture.

    import lab
    lab.setup()
    lab.show(figure, alt="Bars: the hog takes all of a CPU without the fence, a fifth with it.")
    lab.claim("C2", f"a hog is held to {share:.1%} of a CPU; the fence says 20 %")
    lab.look(process)

Timings and measured sizes go into pictures, `measured` and claims, never into other text: that is compared each time.
"""

import html
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
from IPython.display import display

REPO = Path(__file__).resolve().parent.parent
for place in (str(REPO), f"{REPO}/chapters/04_union_mounts"):
    if place not in sys.path:  # at the end: whoever swapped a chapter's module put theirs in front
        sys.path.append(place)

HERE = Path.cwd()  # where the notebook lies; some labs go elsewhere on their way
HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
BUSYBOX, DEBIAN = f"{HOME}/roots/busybox", f"{HOME}/roots/debian"
ROOT = f"{HOME}/roots/{os.environ.get('MINIDOCKER_ROOT', 'debian')}"

# Okabe and Ito's eight colours, which also those who are colour-blind tell apart; black comes first for lines of text
COLORS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]

STYLE = {
    "figure.figsize": (8, 4),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 14,  # readable from the last row, on a projector
    "lines.linewidth": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=[COLORS[n] for n in (5, 6, 3, 1, 7, 2, 0)]),
    # The same picture has the same bytes, so that an SVG can be compared; its text stays text.
    "svg.hashsalt": "minidocker",
    "svg.fonttype": "none",
}


def setup():
    """Say what is missing, remove what dead owners left on this machine, set the style of plots. Prints nothing."""
    if os.geteuid() != 0:
        raise PermissionError("containers need root: start the lab with make lab, which asks sudo for it")
    for root in (BUSYBOX, DEBIAN):
        if not os.path.isdir(root):
            raise FileNotFoundError(f"no root file system at {root}: run sh vagrant/provision.sh")
    matplotlib.rcParams.update(STYLE)
    if log := os.environ.get("MINIDOCKER_LINES"):  # tools/book/linetrace.py wants to know which lines the labs run
        from tools.book import linetrace

        linetrace.start(log)
        import aufs
        from minidocker import launcher

        for module in (launcher, aufs):  # each starts another process
            linetrace.follow(module)
    from minidocker import cgroups, network, state
    from minidocker.volumes import store as volumes

    for owner in (cgroups, state, volumes, network):
        owner.prune()


def show(figure, alt, diagram=False):
    """Display a figure with `alt`, the text for those who cannot see it, as its caption; close the figure.

    `alt` is compared each time, so it holds no measured number. A plot of measurements is a PNG, which is not compared;
    a `diagram` has none in it: it is an SVG, and compared.
    """
    kind = "svg" if diagram else "png"
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, metadata={"Date": None} if diagram else None)
    matplotlib.pyplot.close(figure)
    mime, data = ("image/svg+xml", picture.getvalue().decode()) if diagram else ("image/png", picture.getvalue())
    display({mime: data, "text/plain": alt}, metadata={mime: {"alt": alt}}, raw=True)
    display({"text/html": f"<p><em>{html.escape(alt)}</em></p>", "text/plain": alt}, raw=True)


def check(chapter, number):
    """Judge your solution of an exercise, in a process of its own: print "done", or what is still in the way.

    Your file is NN_name/exercise_M.py beside this notebook, in work/; in notebooks/ it is the unsolved one.
    """
    (given,) = REPO.glob(f"chapters/{chapter:02}_*/exercises")
    mine = HERE / given.parent.name / f"exercise_{number}.py"
    command = [sys.executable, given / "check.py", str(number), mine if mine.exists() else given / mine.name]
    done = subprocess.run(command, cwd=mine.parent if mine.exists() else given, capture_output=True, text=True)
    said = (done.stdout or done.stderr or "?").strip().splitlines()[-1]  # of a traceback, what went wrong
    print(said if said.startswith("exercise") else f"exercise {number}: not yet: {said}")


def measured(what, measure, below=None, above=None, tries=6):
    """Decide a measured claim, and print it with its value: `measure()` is below, or above, a bound.

    What else the machine does slows one side or the other, so the claim is tried again until it holds. If it never does
    on a machine that is busy, nothing is said about the claim. The line is not compared (sanitize.cfg).
    """
    bound = f"< {below}" if above is None else f"> {above}"
    for turn in range(tries):
        value = measure()
        if value < below if above is None else value > above:
            print(f"measured: {what}: {value:.2f} {bound}")
            return
        time.sleep(turn)
    busy = os.getloadavg()[0] / os.cpu_count()
    assert busy > 0.75, f"{what}: {value:.2f}, which is not {bound}"
    print(f"measured: {what}: {value:.2f}, but this machine is too busy to tell")


def look(*processes, alt="What /proc says of it: namespaces of its own in blue, limits as bars, processes, mounts."):
    """Draw running containers beside one another: `Process` objects. The drawing is not compared, `alt` is."""
    from minidocker.look import look as seen

    first, *others = [seen(process.pid) for process in processes]
    drawing = {"image/svg+xml": first.svg(*others), "text/plain": alt}
    display(drawing, metadata={"image/svg+xml": {"alt": alt}}, raw=True)


def claim(number, text):
    """Show in a box what this run showed of a claim, and record it for the table at the end of `make run`.

    The figures in `text` come from variables of the run; the box is not compared, but for the claim's number.
    """
    style = "border-left: 6px solid #009E73; padding: 0.4em 1em; background: #009E7320"
    box = f'<div class="claim" style="{style}"><strong>Claim {number}, shown here:</strong> {html.escape(text)}</div>'
    display({"text/html": box, "text/plain": f"Claim {number}, shown here: {text}"}, raw=True)
    if path := os.environ.get("MINIDOCKER_CLAIMS"):
        with open(path, "a") as file:
            file.write(json.dumps({"claim": number, "text": text}) + "\n")


def exercises(chapter):
    """Show the exercises of a chapter, with their hints folded: the text of its page, which is the only one."""
    (page,) = REPO.glob(f"chapters/{chapter:02}_*/README.md")
    text = page.read_text().partition("\n## Exercises\n")[2]
    text = re.split(r"^(?:## |\*\*(?:Read on|Man pages))", text, maxsplit=1, flags=re.MULTILINE)[0]
    text = re.sub(r"<!--.*?-->|\[([^\]]+)\]\([^)]+\)", lambda found: found[1] or "", text)
    display({"text/markdown": text.strip(), "text/plain": f"the exercises of chapter {chapter}"}, raw=True)

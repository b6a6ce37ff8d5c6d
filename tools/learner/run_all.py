"""Run every stage and every notebook, and say what they showed: `make run`.

    python -m tools.learner.run_all

Executed copies of the notebooks and their pictures go to build/run; those of the repository stay as they are. The table
at the end holds what cells recorded with `lab.claim`, and in which lab: the figures are this run's own. If one fails,
the others still run, and the exit status is 1.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tools import REPO
from tools.book import notebooks

BUILD = REPO / "build" / "run"
CELL_TIMEOUT = 120  # seconds


def bar(done: int, total: int, what: str) -> None:
    """One line that is written over on a terminal, and a line each elsewhere."""
    width = 24
    text = f"[{'#' * (width * done // total):{width}}] {done}/{total} {what}"
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True)


def run_stage(path: Path) -> str:
    """Run a stage as a reader would; what went wrong, or nothing."""
    try:
        done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=CELL_TIMEOUT)
    except subprocess.TimeoutExpired as late:
        return str(late)
    (BUILD / f"{path.parent.name}.txt").write_text(done.stdout + done.stderr)
    return "" if done.returncode == 0 else f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()}"


def run_notebook(path: Path) -> str:
    """Execute a copy, and take its pictures out; what went wrong, or nothing."""
    try:
        claims = BUILD / f"{path.stem}.claims"
        notebook = notebooks.execute(path, env=notebooks.environment(MINIDOCKER_CLAIMS=claims))
    except CellExecutionError as failure:
        return f"{failure.ename}: {failure.evalue}"
    except (CellTimeoutError, DeadKernelError) as failure:
        return str(failure)
    nbformat.write(notebook, BUILD / path.name)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    for number, picture in enumerate(pictures, 1):
        (BUILD / f"{path.stem}_{number}.png").write_bytes(base64.b64decode(picture))
    return ""


def table() -> None:
    """What this run showed: claim, figure, and in which notebook."""
    found = []
    for path in sorted(BUILD.glob("*.claims")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found += [(record["claim"], record["text"], path.stem) for record in records]
    for claim, text, where in sorted(found, key=lambda line: int(line[0].removeprefix("C"))):
        print(f"  {claim:4} {text:100} {where}")


def main() -> int:
    """All of it, in the order of the chapters."""
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    jobs = [(path, run_stage) for path in sorted(REPO.glob("chapters/*/stage.py"))]
    jobs += [(path, run_notebook) for path in sorted(REPO.glob("notebooks/*.ipynb"))]
    begin, problems = time.monotonic(), []
    for number, (path, job) in enumerate(jobs):
        name = str(path.relative_to(REPO))
        bar(number, len(jobs), name)
        if problem := job(path):
            problems.append(f"{name}: {problem}")
    bar(len(jobs), len(jobs), f"in {time.monotonic() - begin:.0f} s\n")
    print("What this run showed:")
    table()
    print(f"\nExecuted notebooks and pictures: {BUILD}")
    print(*problems, sep="\n", end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())

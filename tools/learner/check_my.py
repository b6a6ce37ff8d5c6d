"""Grade a reader's own module with the tests of its chapter: `make check-my CHAPTER=03`.

    python -m tools.learner.check_my 03 [FILE]      FILE is work/cgroups.py unless it is named

The chapter's tests run with the file in the place of the package's module, also in the launcher, in kernels and in
commands. For each test that fails, the answer is what was found and the fact behind it, of the kernel or of a
specification, from chapters/NN_name/hints.txt. Of a chapter with many modules, only the tests of that one are run. The
exercises that are in work/NN_name are checked, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.swap import MODULES
from tools import REPO

WORK = Path(os.environ.get("MINIDOCKER_WORK", REPO / "work"))

SHOWN = 5  # failures that are told at once: the first ones are often the reason of the others
EXAMPLES = "8"  # of each test that makes up its cases: fewer than for us, as somebody waits for the answer
ELSEWHERE = ("same_on_version_2_alone", "exercises")  # pieces of the names of tests that are not about the module
LONG = ("host_side_is_killed", "thousand_starts")  # minutes of the same again: make test has them
PARTS = {
    5: ("test_layers",),
    8: ("pss", "two_processes_share", "fleet", "kernels_part", "open_files", "machine_uses"),
    9: ("test_capabilities",),
    10: ("test_one_more_process",),
}  # which tests are about it, where it is one module of many


def hints(chapter: Path) -> dict[str, str]:
    """From the chapter's hints.txt: a piece of a test's name, a colon, and what the kernel does."""
    file = chapter / "hints.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.partition(": ") for line in lines if line and not line.startswith("#"))
    return {name: text for name, _, text in pairs}


class Report:
    """Collects what failed, and says it in the reader's words."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known, self.passed = known, 0
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each part of each test."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else str(report.longrepr)
            self.failed.setdefault(report.location[2], " ".join(message.split()))
        elif report.when == "call" and report.passed:
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported fails before any test."""
        if report.failed:
            self.failed.setdefault(report.nodeid, str(report.longrepr).strip().splitlines()[-1])

    def lines(self) -> list[str]:
        """Tests that found the same are one failure, told by the first; a hint is given once."""
        found: dict[str, list[str]] = {}
        for name, message in self.failed.items():
            found.setdefault(message[:160], []).append(name)
        told: set[str] = set()
        text = []
        for message, (name, *others) in list(found.items())[:SHOWN]:
            more = f", and {len(others)} more" if others else ""
            text.append(f"not yet: {name.removeprefix('test_').replace('_', ' ')}{more}\n    found: {message}")
            hint = next((self.known[piece] for piece in self.known if piece in name), "")
            if hint and hint not in told:
                told.add(hint)
                text.append(f"    the fact: {hint}")
        return text


def tests(number: int) -> list[Path]:
    """Where the chapter's tests are; attacks on all chapters lie together."""
    return [*REPO.glob(f"tests/{number:02}_*"), REPO / "tests/attacks"]


def selection(number: int) -> str:
    """For pytest -k: the tests that are run."""
    part = f" and ({' or '.join(PARTS[number])})" if number in PARTS else ""
    return f"not ({' or '.join(ELSEWHERE + LONG)}){part}"


def grade(number: int, file: Path) -> int:
    """Run the chapter's tests against the file."""
    (chapter,) = REPO.glob(f"chapters/{number:02}_*")
    os.environ[f"MINIDOCKER_MODULE_{number:02}"] = str(file)
    os.environ.setdefault("MINIDOCKER_EXAMPLES", EXAMPLES)
    report = Report(hints(chapter))
    options = ["-q", "-q", "--no-header", "--no-summary", "--tb=line", "-p", "no:cacheprovider", "--capture=fd"]
    options += ["-k", selection(number), "--chapter", str(number), *map(str, tests(number))]
    with open(os.devnull, "w") as nowhere:
        keep, sys.stdout = sys.stdout, nowhere
        try:
            status = pytest.main(options, plugins=[report])
        finally:
            sys.stdout = keep
    print(*report.lines(), sep="\n", end="\n" if report.failed else "")
    print(f"chapter {number}: {report.passed} tests pass with {file}, {len(report.failed)} do not")
    return int(status != 0)


def exercises(number: int) -> int:
    """Check those that are in work/; one that is still the skeleton is passed over."""
    failed = 0
    for mine in sorted(WORK.glob(f"{number:02}_*/exercise_*.py")):
        (given,) = REPO.glob(f"chapters/{mine.parent.name}/exercises")
        if mine.read_text() != (given / mine.name).read_text():
            command = [sys.executable, given / "check.py", mine.stem.rpartition("_")[2], mine]
            failed += bool(subprocess.run(command, cwd=mine.parent).returncode)
    return failed


def main(arguments: list[str]) -> int:
    """Both, as far as they are there."""
    if not arguments or not arguments[0].isdecimal() or int(arguments[0]) not in MODULES:
        known = ", ".join(f"{number:02} ({name})" for number, name in MODULES.items())
        sys.exit(f"check-my: which chapter? make check-my CHAPTER=03; known are {known}")
    number = int(arguments[0])
    name = MODULES[number].rpartition(".")[2]
    file = Path(arguments[1] if arguments[1:] else WORK / f"{name}.py").absolute()
    failed = exercises(number)
    if not file.exists():
        if not any(WORK.glob(f"{number:02}_*")):
            sys.exit(f"check-my: there is no {file}: make skeleton begins it, MY=FILE names another")
        print(f"there is no {file}, so only the exercises that you changed were checked")
        return int(failed > 0)
    return int(grade(number, file) + failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

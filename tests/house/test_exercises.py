"""Every exercise is solved by its solution, and not by its skeleton."""

import subprocess
import sys

import pytest

from tests.helpers import REPO

CHAPTERS = REPO / "chapters"


def parameter(path):
    chapter = path.parts[-3]
    return pytest.param(path, id=f"{chapter}-{path.stem[-1]}", marks=pytest.mark.chapter(int(chapter[:2])))


EXERCISES = [
    parameter(path)
    for path in sorted(CHAPTERS.glob("*/solutions/exercise_*.py"))
    if path.parts[-3] != "00_process"  # chapter 0 has its own, in tests/00_process
]


def check(solution, path):
    command = [sys.executable, solution.parent.parent / "exercises/check.py", solution.stem[-1], path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("solution", EXERCISES)
def test_the_solution_is_right_and_the_skeleton_is_not(solution):
    solved = check(solution, solution)
    assert solved.stdout == f"exercise {solution.stem[-1]}: done\n", solved.stderr
    skeleton = check(solution, solution.parent.parent / "exercises" / solution.name)
    assert skeleton.returncode == 1
    assert "not yet" in skeleton.stderr

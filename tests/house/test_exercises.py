"""Every exercise is solved by its solution, not by its skeleton, and not by what the solution returned once."""

import ast
import subprocess
import sys
import textwrap

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
CHAPTER_0 = [parameter(path) for path in sorted(CHAPTERS.glob("00_process/solutions/exercise_*.py"))]


def check(solution, path):
    command = [sys.executable, solution.parent.parent / "exercises/check.py", solution.stem[-1], path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("solution", EXERCISES)
def test_the_solution_is_right_and_the_skeleton_is_not(solution):
    solved = check(solution, solution)
    assert solved.stdout.endswith(f"exercise {solution.stem[-1]}: done\n"), solved.stderr
    skeleton = check(solution, solution.parent.parent / "exercises" / solution.name)
    assert skeleton.returncode == 1
    assert "not yet" in skeleton.stderr


RECORDER = """
import atexit, importlib.util, json

spec = importlib.util.spec_from_file_location("solved", {path!r})
solved = importlib.util.module_from_spec(spec)
spec.loader.exec_module(solved)
returned = {{}}

def recorded(name):
    def wrapper(*arguments, **options):
        value = getattr(solved, name)(*arguments, **options)
        returned.setdefault(name, []).append(repr(value))
        return value
    return wrapper

for name in {names!r}:
    globals()[name] = recorded(name)
atexit.register(lambda: json.dump(returned, open({log!r}, "w")))
"""
REPLAYED = """
import ast, json

def replayed(values):
    def answer(*arguments, **options):
        try:
            return ast.literal_eval(values.pop(0))
        except (ValueError, SyntaxError, IndexError):
            return None
    return answer

for name, values in json.load(open({log!r})).items():
    globals()[name] = replayed(values)
"""


def has_class(solution):
    """An isolator that is a class is no constant."""
    return any(isinstance(node, ast.ClassDef) for node in ast.parse(solution.read_text()).body)


@pytest.mark.parametrize("solution", [one for one in EXERCISES + CHAPTER_0 if not has_class(one.values[0])])
def test_what_the_solution_returned_once_is_not_enough(solution, tmp_path):
    """A reader who writes down the answers of yesterday has not done the exercise."""
    names = [
        node.name
        for node in ast.parse(solution.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_"
    ]
    log, mine = str(tmp_path / "returned.json"), tmp_path / solution.name
    mine.write_text(textwrap.dedent(RECORDER).format(path=str(solution), names=names, log=log))
    assert check(solution, mine).returncode == 0
    mine.write_text(textwrap.dedent(REPLAYED).format(log=log))
    done = [check(solution, mine) for _ in range(3)]  # a secret is drawn anew each time, and may be the same once
    wrong = [judged.stderr for judged in done if judged.returncode]
    assert wrong, f"constants pass: {open(log).read()}"
    assert "not yet" in wrong[0]

"""The machinery notices what it is there for: notebooks that changed or did not run, stale text, lines unrun."""

import re
import subprocess
import sys

import nbformat
import pytest

from tests.helpers import HOME, REPO, python
from tools.book import budget, linetrace, notebooks, weave

SANITIZE = (REPO / "notebooks/sanitize.cfg").read_text()


def cell(source, *texts):
    """A code cell with its stored output: the lines that it printed, in one piece."""
    outputs = [nbformat.v4.new_output("stream", name="stdout", text="".join(f"{text}\n" for text in texts))]
    return nbformat.v4.new_code_cell(source, outputs=outputs if texts else [])


def compare(directory, *cells):
    """Compare a notebook with what running it gives, as `pytest notebooks` does; the exit status and what was said."""
    shared = str(REPO / "notebooks/conftest.py")
    (directory / "conftest.py").write_text(
        f"from runpy import run_path\npytest_configure = run_path({shared!r})['pytest_configure']\n"
    )
    for count, code in enumerate(cells, 1):  # as executed: nbval does not compare a cell without a count
        code.execution_count = count
    notebook = nbformat.v4.new_notebook(cells=[*cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, directory / "case.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "case.ipynb"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_what_has_not_changed_passes(tmp_path):
    assert compare(tmp_path, cell("print('same')", "same"))[0] == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (cell("print('new')", "old"), "mismatch"),
        (cell("print('printed')"), "printed"),
        (cell("1/0"), "ZeroDivisionError"),
        (cell("%nosuch"), "not run"),
    ],
    ids=["changed", "not stored", "raises", "unknown magic"],
)
def test_what_has_changed_or_not_run_fails(tmp_path, wrong, words):
    status, said = compare(tmp_path, wrong)
    assert status == 1
    assert words in said


def test_a_line_that_ends_in_a_semicolon_prints_nothing(tmp_path):
    assert compare(tmp_path, cell("'value';"))[0] == 0


def test_what_a_child_writes_to_descriptor_1_is_compared(tmp_path):
    assert compare(tmp_path, cell("import os; os.system('echo child');", "child"))[0] == 0
    assert compare(tmp_path, cell("import os; os.system('echo child');", "other"))[0] == 1


def test_a_dead_kernel_is_noticed_at_once(tmp_path):
    status, said = compare(tmp_path, cell("import os; os._exit(1)"), cell("1"))
    assert status == 1
    assert "the kernel died" in said  # and not that the time for the cell was over


def test_each_rule_of_the_sanitiser_is_read_and_changes_its_example():
    from nbval.plugin import get_sanitize_patterns

    rules = get_sanitize_patterns(SANITIZE)
    examples = re.findall(r"^example: (.*)$", SANITIZE, re.MULTILINE)
    assert len(rules) == len(examples) == len(re.findall("^regex: ", SANITIZE, re.MULTILINE))
    for (pattern, replacement), example in zip(rules, examples, strict=True):
        assert re.sub(pattern, replacement, example) != example


def stored(tmp_path, *cells):
    """What the lint says of a notebook."""
    path = tmp_path / "case.ipynb"
    nbformat.write(notebooks.normal(nbformat.v4.new_notebook(cells=[*cells])), path)
    return "\n".join(notebooks.problems(path))


def test_the_lint_wants_notebooks_that_were_executed(tmp_path):
    said = stored(tmp_path, nbformat.v4.new_markdown_cell("# A"), cell("print(1)"))
    assert "count" in said
    assert "See it" in said


MODULE = '"""Chapter 0: one."""\n\nNUMBER = 1\n\n\ndef one():\n    return NUMBER\n'


@pytest.fixture
def house(tmp_path):
    """A package with one module and a chapter that explains it."""
    (tmp_path / "minidocker").mkdir()
    (tmp_path / "minidocker/one.py").write_text(MODULE)
    text = tmp_path / "chapters/00_one/README.md"
    text.parent.mkdir(parents=True)
    text.write_text("<!-- source minidocker/one.py: <imports> NUMBER one -->\n<!-- /source -->\n")
    assert weave.weave(tmp_path) == []
    assert "return NUMBER" in text.read_text()
    return tmp_path, text


def test_weave_finds_what_is_stale(house):
    repo, text = house
    assert weave.weave(repo, check=True) == []
    (repo / "minidocker/one.py").write_text(MODULE.replace("return NUMBER", "return 2"))
    assert "stale" in "".join(weave.weave(repo, check=True))
    assert "return NUMBER" in text.read_text()


def test_weave_finds_a_mark_that_markdown_would_not_see(house):
    repo, page = house
    page.write_text(page.read_text() + "\nIt is *fast*:\n<!-- given -->2 s<!-- /given --> and *small*.\n")
    assert "a line begins with a mark" in "".join(weave.weave(repo))


def test_weave_finds_what_is_missing_doubled_or_in_the_wrong_chapter(house):
    repo, text = house
    whole = text.read_text()
    text.write_text(whole.replace(" NUMBER one -->", " NUMBER -->"))
    assert "one (line 6) is explained in no chapter" in "".join(weave.weave(repo))
    text.write_text(whole + whole)
    assert "is explained 2 times" in "".join(weave.weave(repo))
    text.write_text(whole.replace("NUMBER one -->", "NUMBER one two -->"))
    assert "there is no two" in "".join(weave.weave(repo))
    text.unlink()
    other = repo / "chapters/01_two/README.md"
    other.parent.mkdir()
    other.write_text(whole)
    assert "belongs to chapter 0" in "".join(weave.weave(repo))


def test_weave_names_what_it_does_not_print(house):
    repo, text = house
    start = "<!-- source minidocker/one.py: one -->\n<!-- /source -->\n"
    text.write_text(start + "<!-- see minidocker/one.py -->\n<!-- /see -->\n")
    assert weave.weave(repo) == []
    assert '<a href="../../minidocker/one.py">minidocker/one.py</a>: Chapter 0: one.</summary>' in text.read_text()
    assert "- `NUMBER`: `NUMBER = 1`\n\n</details>" in text.read_text()
    (repo / "minidocker/one.py").write_text(MODULE + "\n\ndef two(a):\n    pass\n")
    assert "stale" in "".join(weave.weave(repo, check=True))
    assert weave.weave(repo) == []
    assert "- `two`: `(a)`\n" in text.read_text()
    text.write_text(start + "<!-- see minidocker/one.py: NUMBER -->\n<!-- /see -->\n")
    assert "<imports> (line 1) is explained in no chapter" in "".join(weave.weave(repo))


def test_weave_counts_a_package_of_a_chapter(house):
    repo, text = house
    (text.parent / "part").mkdir()
    (text.parent / "part/__init__.py").write_text('"""Chapter 0: a part."""\n')
    assert "00_one/part/__init__.py: <imports> (line 1) is explained in no" in "".join(weave.weave(repo))


def test_weave_finds_a_page_that_prints_or_says_too_much(house):
    repo, text = house
    long = '"""Chapter 0: long."""\n' + "".join(f"\n\ndef f{n}():\n" + "    pass\n" * 22 for n in range(16))
    (repo / "minidocker/long.py").write_text(long)
    names = [f"f{n}" for n in range(16)]
    blocks = [f"<!-- source minidocker/long.py: {name} -->\n<!-- /source -->\n" for name in ("<imports>", *names)]
    whole = text.read_text()
    text.write_text(whole + "".join(blocks[:15]))
    assert "lines of code" not in "".join(weave.weave(repo))
    text.write_text(whole + "".join(blocks))
    assert "prints 376 lines of code; 350 at most" in "".join(weave.weave(repo))
    text.write_text(whole + "<!-- source minidocker/long.py: f0 f1 f2 -->\n<!-- /source -->\n")
    assert "prints 73 lines of minidocker/long.py in one block" in "".join(weave.weave(repo))
    text.write_text(whole + "<!-- see minidocker/long.py -->\n<!-- /see -->\n" + "word " * 2499)
    assert weave.weave(repo) == []
    text.write_text(text.read_text() + "more `word`s, | - <details> not these </details>\n\n    nor = these\n")
    assert "has 2502 words; 2500 at most" in "".join(weave.weave(repo))
    (repo / "pyproject.toml").write_text('[tool.minidocker.pages]\nover = ["chapters/00_one/README.md"]\n')
    assert weave.weave(repo) == []


TRACED = """
    import sys
    from tools.book import linetrace
    linetrace.start(sys.argv[1])
    from minidocker import rootfs
    from minidocker.process import run
    print(run(["true"], rootfs.PivotRoot(sys.argv[2])).exit_code)
"""


def test_the_tracer_follows_a_process_into_another_root(tmp_path):
    log, root = tmp_path / "lines", HOME / "roots/busybox"
    log.write_bytes(bytes(len(linetrace.FILES) * linetrace.LINES))
    assert python(TRACED, str(log), str(root)).stdout == "0\n"
    number = linetrace.FILES.index(REPO / "minidocker/rootfs.py")
    marks = log.read_bytes()[number * linetrace.LINES :]
    lines = (REPO / "minidocker/rootfs.py").read_text().splitlines()
    seen = {line.strip() for place, line in enumerate(lines, 1) if marks[place]}
    assert any(line.startswith('call("umount2"') for line in seen)  # run by the new process, between two roots
    assert not any(line.startswith("import shutil") for line in seen)


def test_no_module_is_longer_than_the_tracer_has_room_for():
    assert max(len(path.read_text().splitlines()) for path in linetrace.FILES) < linetrace.LINES


def test_a_budget_that_is_exceeded_is_named(monkeypatch):
    monkeypatch.setattr(budget, "counted", lambda: {"00_process": 961, "cli": 800, "10": 1})
    said = list(budget.over({"00_process": 960, "cli": 800, "module": 350}))
    assert said == ["00_process: 961 lines; 960 at most", "10: 1 lines; 0 at most"]
    assert any(line.startswith("minidocker/process.py: ") for line in budget.over({"cli": 800, "module": 10}))


def test_the_reading_order_has_each_file_once_and_keeps_places():
    text = budget.ordered("    00    1  process.py\n    00    1  gone.py\n    00    1  isolator.py\n")
    names = budget.LINE.findall(text)
    assert sorted(names) == sorted(str(path.relative_to(REPO / "minidocker")) for path in budget.modules())
    assert names[:2] == ["process.py", "isolator.py"]
    assert names[-1].startswith(("cli/", "doctor"))


def test_the_corridor_is_what_a_run_imports():
    names = {str(path.relative_to(REPO)) for path in budget.corridor()}
    assert {"minidocker/process.py", "minidocker/cli/run.py", "minidocker/union.py"} <= names
    assert not any("registry" in name or "volumes" in name for name in names)


def test_the_list_of_excuses_stays_short():
    """And each has a reason: what is only named needs none."""
    lines = (REPO / "tools/book/unrun.txt").read_text().splitlines()
    assert len(lines) <= 100
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        assert line.startswith(("#", "    ")) or below.startswith("    ")


def test_the_tracer_follows_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(linetrace, "LOG", tmp_path / "lines")
    linetrace.LOG.write_bytes(bytes(len(linetrace.FILES) * linetrace.LINES))
    program = linetrace.command(tmp_path / "traced") / "minidocker"
    done = subprocess.run([program, "images"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    number = linetrace.FILES.index(REPO / "minidocker/images/store.py")
    assert any(linetrace.LOG.read_bytes()[number * linetrace.LINES : (number + 1) * linetrace.LINES])


def test_only_printed_lines_are_looked_at(house):
    repo, text = house
    assert weave.printed_lines(repo) == {"minidocker/one.py": {*range(1, 8)}}
    text.write_text(
        "<!-- source minidocker/one.py: one -->\n<!-- /source -->\n<!-- see minidocker/one.py -->\n<!-- /see -->"
    )
    assert weave.printed_lines(repo) == {"minidocker/one.py": {6, 7}}


def test_tests_find_helpers_by_name_and_nothing_in_each_other():
    for path in REPO.glob("tests/*/*.py"):
        text = path.read_text()
        assert not re.search(r"^(from|import) (test_|tests\.\d|conftest)", text, re.M), path
        assert path.parent.name == "helpers" or not re.search(r"^\s*sys\.path(\.|\[|\s*[+=])", text, re.M), path


def test_a_run_of_everything_outlives_a_kernel_and_says_where_a_claim_was_shown(tmp_path):
    code = ["import os, lab", *(f"lab.claim('C{number}', 'shown')" for number in (10, 2)), "os._exit(1)"]
    path = tmp_path / "05_images.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(line) for line in code]), path)
    script = """if True:
        import sys
        from pathlib import Path
        from tools.learner import run_all
        run_all.BUILD = Path(sys.argv[1]).parent
        print(run_all.run_notebook(Path(sys.argv[1])))
        run_all.table()
    """
    words = [sys.executable, "-c", script, path]  # nbclient leaves its loop open
    problem, *table = subprocess.run(words, cwd=REPO, capture_output=True, text=True).stdout.splitlines()
    assert problem == "Kernel died"
    assert [line.split() for line in table] == [[claim, "shown", "05_images"] for claim in ("C2", "C10")]

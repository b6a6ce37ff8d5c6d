"""The project can be installed: what it imports is declared, all verbs are in it; and what readers type is there."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.helpers import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
FOR_READERS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *REPO.glob("vagrant/*.md"), *REPO.glob("chapters/*/*.md")]


def imported():
    """The top names of all that the package imports, in functions, too."""
    for path in REPO.glob("minidocker/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module


def test_what_the_package_imports_is_declared_and_nothing_else():
    names = {name.partition(".")[0] for name in imported()} - {*sys.stdlib_module_names, "minidocker"}
    needed = {{"backports": "backports.zstd"}.get(name, name) for name in names}
    optional = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    assert needed == {re.match(r"[\w.-]+", text)[0] for text in [*PROJECT["dependencies"], *optional]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An empty environment with the package in it, and the packages that it declares lent by ours."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True, timeout=120)
    shutil.copytree(REPO / "minidocker", place / "source/minidocker", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, place / "source")
    pip, quiet = [sys.executable, "-m", "pip"], ["-q", "--no-index", "--no-deps", "--disable-pip-version-check"]
    for command in (
        [*pip, "wheel", *quiet, "--no-build-isolation", "-w", place, place / "source"],
        [*pip, "--python", place / "venv/bin/python", "install", *quiet, "--find-links", place, "minidocker"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    (lent,) = place.glob("venv/lib/*/site-packages")
    Path(lent, "lent.pth").write_text(sysconfig.get_paths()["purelib"])
    return place / "venv/bin"


def test_an_installed_command_has_all_verbs(installed):
    from minidocker.cli import VERBS

    done = subprocess.run(
        [installed / "minidocker", "help"], capture_output=True, text=True, env={}, cwd="/", timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb} " in done.stdout for verb in VERBS if not verb.startswith("__"))


def test_every_module_is_installed(installed):
    code = "import minidocker, pathlib; print(*sorted(map(str, pathlib.Path(minidocker.__path__[0]).rglob('*.py'))))"
    found = subprocess.run([installed / "python", "-I", "-c", code], capture_output=True, text=True, cwd="/").stdout
    names = {name.rpartition("/site-packages/")[2] for name in found.split()}
    assert names == {str(path.relative_to(REPO)) for path in REPO.glob("minidocker/**/*.py")}


def commands(text):
    """The programs that the fenced blocks of shell in a text call."""
    for block in re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", text, re.M | re.S):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            line = re.sub(r"'[^']*'|\"[^\"]*\"|\s#.*|^#.*", "", line)
            for part in re.split(r"&&|\|\||[;|&]|\$\(", line):
                words = [word for word in part.split() if not re.match(r"\w+=", word) and word not in ("sudo", ")")]
                yield from words[:1]


def test_every_command_that_a_reader_types_is_there():
    wanted = {(path.name, word) for path in FOR_READERS for word in commands(path.read_text())}
    assert len(wanted) > 3
    at_home = {"vagrant", "limactl", "git"}  # on the reader's own computer, before there is a machine
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for place, word in sorted(wanted):
        known = subprocess.run(["sh", "-c", 'command -v "$1"', "sh", word], capture_output=True, env={"PATH": path})
        assert known.returncode == 0 or word in at_home, f"{place}: {word}"


def test_no_reader_types_python_without_its_number():
    """Debian has no program of that name."""
    for path in [*FOR_READERS, *REPO.glob("notebooks/*.ipynb")]:
        found = re.findall(r"(?:^    |`|sudo |[\"!])python (?:-|\w+[/.]).*", path.read_text(), re.M)
        assert not found, f"{path.name}: {found}"


def top_level_imports(path, known):
    """The modules of the package that a file imports when it is imported itself."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from ({alias.name for alias in node.names} & known)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & known
            yield from {node.module} & known if names - known else ()


def test_no_two_modules_import_each_other():
    paths = {}
    for path in REPO.glob("minidocker/**/*.py"):
        paths[".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")] = path
    graph = {name: {*top_level_imports(path, paths.keys())} - {name} for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names them


@pytest.mark.parametrize("stage", sorted(REPO.glob("chapters/*/stage.py")), ids=lambda path: path.parent.name)
def test_a_stage_is_short(stage):
    assert len(stage.read_text().splitlines()) <= 40

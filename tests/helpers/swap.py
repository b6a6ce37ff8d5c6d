"""A reader's own modules in the place of the package's: MINIDOCKER_MODULE_03=my_cgroups.py."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers import REPO

MODULES = {
    0: "minidocker.process",
    1: "minidocker.rootfs",
    2: "minidocker.namespaces",
    3: "minidocker.cgroups",
    4: "minidocker.union",
    5: "minidocker.images.layer.unpack",
    6: "minidocker.volumes",
    7: "minidocker.network",
    8: "bench.memory",
    9: "minidocker.security.capabilities",
    10: "minidocker.engine.exec",
}  # the module that a reader of a chapter may write; of a package, its `__init__`
PACKAGES = {
    "minidocker": REPO,
    "aufs": REPO / "chapters/04_union_mounts",
    "bench": REPO / "chapters/08_versus_vms",
}  # and where the package lies


def module_of(variable):
    """MINIDOCKER_MODULE_03 stands for `minidocker.cgroups`."""
    number = variable.rpartition("_")[2]
    if not number.isdecimal() or int(number) not in MODULES:
        known = ", ".join(f"{chapter:02} ({name})" for chapter, name in MODULES.items())
        raise pytest.UsageError(f"{variable}: there is no module to swap for {number!r}; known are {known}")
    return MODULES[int(number)]


def reader_file(variable, value):
    """The reader's file, which must exist."""
    path = Path(value).absolute()
    if not path.is_file():
        raise pytest.UsageError(f"{variable}={value}: there is no such file (looked for {path})")
    return path


def swap(files):
    """Make a directory in which the packages are links to their modules, and to the reader's; put it first.

    Through sys.path and PYTHONPATH the launcher, kernels and other programs find the same modules as the tests.
    """
    directory = tempfile.mkdtemp(prefix="swapped-")
    link_packages(directory, files)
    sys.path.insert(0, directory)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [directory, os.environ.get("PYTHONPATH")]))
    return directory


def link_packages(directory, files):
    """Links to all packages; `files` are the reader's, by the names of their modules."""
    for package, place in PACKAGES.items():
        theirs = {name.partition(".")[2]: file for name, file in files.items() if name.partition(".")[0] == package}
        link(place / package, Path(directory, package), theirs)


def link(source, target, files):
    """Links to all modules. Where the reader's is one of a package, or its `__init__`, the others are the package's."""
    target.mkdir()
    for path in source.iterdir():
        below = {
            name.partition(".")[2] or "__init__": file
            for name, file in files.items()
            if name.partition(".")[0] == path.name
        }
        if path.is_dir() and below:
            link(path, target / path.name, below)
        elif path.name != "__pycache__":
            (target / path.name).symlink_to(files.get(path.stem, path))

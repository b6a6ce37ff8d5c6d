"""Run code of the package as a user without any rights, for tests and labs.

That user may not look into a home, where the clone or its Python may well be. So the package is copied to where all may
read it, and the interpreter is the system's, which set-up has installed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import REPO

NOBODY = 65534
PYTHON = "/usr/bin/python3"


@contextmanager
def as_nobody() -> Iterator[dict[str, object]]:
    """Options for the functions of subprocess, with which [PYTHON, "-c", ...] runs as nobody and finds the package."""
    with tempfile.TemporaryDirectory(prefix="for-nobody-") as place:
        Path(place).chmod(0o755)
        shutil.copytree(REPO / "minidocker", Path(place, "minidocker"), ignore=shutil.ignore_patterns("__pycache__"))
        yield {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "env": {"PYTHONPATH": place}}

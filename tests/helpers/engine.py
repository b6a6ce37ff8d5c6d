"""What the tests of chapter 10 share: commands that run on, and what is left of containers."""

import json
import os
import pathlib
import subprocess
import sys

from tests.helpers import REPO
from tests.helpers.images import minidocker


def environment(home):
    """Of a command with that home."""
    return {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}


def begun(home, *words, **options):
    """The command, which runs on: Popen."""
    argv = [sys.executable, "-m", "minidocker", *map(str, words)]
    return subprocess.Popen(argv, env=environment(home), **options)


def state(home, word):
    """What state.json of the container says, without any look at its monitor."""
    path = next(iter((home / "names").glob(word)), None) or next((home / "records").glob(f"{word}*"))
    try:
        return json.loads((path.resolve() / "state.json").read_text())
    except FileNotFoundError:
        return {"status": "created"}


def monitors(home):
    """The pids of the monitors of that home."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text() == "monitor\n" and f"MINIDOCKER_HOME={home}\0" in (
                path / "environ"
            ).read_text(errors="replace"):
                found.append(int(path.name))
        except OSError:
            pass
    return found


def left(home):
    """What there is of containers in that home, and of their cgroups: nothing, when all were removed."""
    found = [str(path) for kind in ("records", "names", "uses", "containers") for path in (home / kind).glob("*")]
    shorts = {path.name[:12] for path in (home / "records").glob("*")}
    groups = [str(path) for name in shorts for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/minidocker/{name}")]
    return found + groups + [f"monitor {pid}" for pid in monitors(home)]


def clean(home):
    """Remove all containers."""
    names = [path.name for path in (home / "records").glob("*") if len(path.name) == 64]
    if names:
        minidocker(home, "rm", "-f", *names)
    minidocker(home, "prune")

"""Chapter 10: a day with Docker's commands, once with minidocker and once with Podman: what one sees is the same."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers import BARE, need, python

# One line each, for the shell; D is the engine. What comes out of it, and its exit code, are compared. The image
# `bench` is there; `pause` and the like are compared by what the next lines see.
DAY = Path(__file__).with_name("day.txt").read_text().splitlines()
PROGRAM = r"""
import json, os, re, subprocess, sys
from tools.bench.engines import archive, on_disk, podman_client
from tools.bench.sandbox import GROUP, PATH, ROOT, checked, lab

engine, lines = sys.argv[1], json.loads(sys.argv[2])
with lab() as scratch, on_disk() as data:
    if engine == "podman":
        client, more = podman_client(scratch, data), f"--cgroup-parent=/{GROUP}-podman"
    else:
        client, more = ["env", f"MINIDOCKER_HOME={data}/home", sys.executable, "-m", "minidocker"], ""
    checked([*client, "import", str(archive(scratch, ROOT)), "bench"])
    (scratch / "d").write_text(
        '#!/bin/sh\nverb=$1; shift\n'
        'case "$verb $*" in *--network*) ;; run*|create*) set -- --network none "$@";; esac\n'
        f'case $verb in run|create) set -- {more} "$@";; build) set -- --network none "$@";; esac\n'
        f'exec {" ".join(client)} $verb "$@"\n')
    (scratch / "d").chmod(0o755)
    (scratch / "work").mkdir()
    seen = []
    for line in lines:
        line = re.sub(r"\bD ", f"{scratch}/d ", line)
        done = subprocess.run(["sh", "-c", line], cwd=scratch / "work", capture_output=True, text=True, timeout=60)
        seen.append((done.returncode, done.stdout, done.stderr))
print(json.dumps(seen))
"""


def normal(text):
    """Without what cannot be the same: IDs, and where the engine keeps an image."""
    text = re.sub(r"\b(sha256:)?[0-9a-f]{64}\b", "ID", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"(docker\.io/library/|localhost/)", "", text)
    return text.replace(":latest", "")


def day(engine):
    seen = json.loads(python(PROGRAM, engine, json.dumps(DAY), timeout=300).stdout)
    return [(line, code, normal(out), err) for line, (code, out, err) in zip(DAY, seen, strict=True)]


@pytest.mark.xfail(bool(BARE), reason="the guest has no room for Podman", run=False)
def test_a_day_is_the_same_with_podman():
    need(shutil.which("podman"), "needs podman: run vagrant/provision.sh")
    ours, theirs = day("minidocker"), day("podman")
    different = [
        "\n   ".join([mine[0], *(f"{seen[1:3]} {seen[3][:200]!r}" for seen in (mine, their))])
        for mine, their in zip(ours, theirs, strict=True)
        if mine[1:3] != their[1:3]
    ]
    assert not different, "\n" + "\n".join(different)

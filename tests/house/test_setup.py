"""Set-up does its work once; the command says what this machine can do, and removes what is left over."""

import os
import pathlib
import subprocess
import sys

from tests.helpers import HOME, REPO

COMMAND = "/usr/local/bin/minidocker"


def minidocker(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def test_set_up_again_does_nothing_and_says_nothing():
    subprocess.run(["sh", "vagrant/provision.sh"], cwd=REPO, check=True, timeout=600)  # here, not in another clone
    watched = [HOME, *HOME.iterdir(), HOME / "roots/debian/etc", pathlib.Path(COMMAND)]
    before = {path: path.stat().st_mtime_ns for path in watched}
    done = subprocess.run(["sh", "vagrant/provision.sh"], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in watched} == before


def test_the_doctor_finds_all_that_the_chapters_need():
    done = minidocker("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("kernel", "namespace time", "cgroup memory", "overlayfs", "FUSE", "nftables", "KVM", "free disk"):
        assert word in done.stdout


def test_the_doctor_tells_a_user_without_rights_to_be_root():
    done = subprocess.run([COMMAND, "doctor"], capture_output=True, text=True, user=65534, group=65534, extra_groups=[])
    assert done.returncode == 1
    assert "root" in done.stdout


def test_prune_is_quiet_when_there_is_nothing():
    assert minidocker("prune").returncode == 0


def test_an_unknown_verb_is_refused():
    done = minidocker("nosuch")
    assert done.returncode == 1
    assert "nosuch" in done.stderr


def test_the_roots_are_whole():
    for name in ("busybox", "debian"):
        for entry in ("bin", "proc", "etc/passwd", "dev/null", "tmp"):
            assert os.path.lexists(HOME / "roots" / name / entry)


def test_a_readers_module_takes_the_place_of_a_chapters(tmp_path):
    mine = tmp_path / "my_cgroups.py"
    mine.write_text("from minidocker.cgroups.hierarchy import prune\nclass Cgroup: pass\n")
    command = [sys.executable, "-m", "pytest", "--chapter", "3", "--collect-only", "-q", "tests/03_cgroups"]
    env = {**os.environ, "MINIDOCKER_MODULE_03": str(mine)}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert subprocess.run(
        command, cwd=REPO, env={**env, "MINIDOCKER_MODULE_03": "/nowhere.py"}, capture_output=True
    ).returncode

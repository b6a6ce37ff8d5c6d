"""The container on one screen is one; and each way of breaking it that the page names does what the page says."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import REPO, until

pytestmark = pytest.mark.chapter(0)
PROGRAM = REPO / "chapters/00_process/one_screen.py"


def inside(script, program=PROGRAM):
    return subprocess.run([sys.executable, program], input=script, capture_output=True, text=True, timeout=30)


def test_it_has_a_name_processes_and_a_root_of_its_own_and_leaves_nothing():
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    done = inside("hostname; echo $$; set -- /proc/[0-9]*; echo $#; test -x /bin/busybox && echo busybox")
    assert done.stdout.split() == ["box", "1", "1", "busybox"], done.stderr
    assert pathlib.Path("/proc/self/mountinfo").read_text() == mounts
    assert len(PROGRAM.read_text().splitlines()) <= 25


def test_when_its_parent_is_killed_it_lives_on():
    program = subprocess.Popen([sys.executable, PROGRAM], stdin=subprocess.PIPE, text=True)
    program.stdin.write("exec sleep 1000\n")
    program.stdin.close()
    children = pathlib.Path(f"/proc/{program.pid}/task/{program.pid}/children")
    assert until(lambda: children.read_text().split())
    orphan = int(children.read_text())
    assert until(lambda: pathlib.Path(f"/proc/{orphan}/comm").read_text() == "sleep\n")
    program.kill()
    program.wait()
    time.sleep(0.2)
    assert pathlib.Path(f"/proc/{orphan}/comm").read_text() == "sleep\n"
    os.kill(orphan, signal.SIGKILL)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('os.execv("/bin/sh"', 'os.execvp("sh"', "ModuleNotFoundError"),
        ("roots/busybox", "roots/none", "mount: No such file or directory"),
    ],
)
def test_what_goes_wrong_inside_is_a_traceback_and_no_error_for_the_caller(tmp_path, right, wrong, said):
    (tmp_path / "broken.py").write_text(PROGRAM.read_text().replace(right, wrong))
    done = inside("true", tmp_path / "broken.py")
    assert said in done.stderr and done.returncode == 0

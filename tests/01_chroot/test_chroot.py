"""Chapter 1: two real roots, a jail that can be left, and one that cannot; both ways of starting."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from minidocker.process import ContainerError, Isolator, run
from minidocker.rootfs import Chroot, PivotRoot, copy_program
from tests.helpers import HOME, REPO, both_ways, need, python

pytestmark = pytest.mark.chapter(1)
CHAPTER = REPO / "chapters/01_chroot"
BUSYBOX, DEBIAN = HOME / "roots/busybox", HOME / "roots/debian"
PERL = 'mkdir "x"; chroot "x"; chdir ".." for 1..50; chroot "."; exec "cat", $ARGV[0]'


class Escape(Isolator):
    """The classic: three system calls, with the rights of any program that root runs in the jail."""

    def inside(self):
        os.makedirs("x", exist_ok=True)
        os.chroot("x")
        for _ in range(50):
            os.chdir("..")
        os.chroot(".")


@pytest.fixture
def secret(tmp_path):
    """A file of the host; and what an escape makes in the roots is removed."""
    file = tmp_path / "secret"
    file.write_text("only the host knows")
    yield str(file)
    for root in (BUSYBOX, DEBIAN):
        if (root / "x").exists():
            (root / "x").rmdir()


@pytest.mark.parametrize("root", [BUSYBOX, DEBIAN], ids=lambda root: root.name)
@pytest.mark.parametrize("jail", [Chroot, PivotRoot])
@both_ways
def test_a_program_runs_in_each_root(root, jail):
    listed = run(["ls", "/"], jail(root)).stdout.split()
    assert {"bin", "proc", "etc"} <= {*listed}
    assert run(["pwd"], jail(root)).stdout == "/\n"


def test_the_roots_are_what_they_say():
    assert "busybox" in run(["busybox"], PivotRoot(BUSYBOX)).stdout.lower()
    assert run(["dpkg", "--version"], PivotRoot(DEBIAN)).exit_code == 0
    for root in (BUSYBOX, DEBIAN):
        assert run(["sh", "-c", "echo x > /dev/null && head -c 4 /dev/zero | wc -c"], PivotRoot(root)).stdout == "4\n"


@both_ways
def test_the_escape_works_from_a_chroot(secret):
    assert run(["cat", secret], Chroot(BUSYBOX)).exit_code == 1
    assert run(["cat", secret], Chroot(BUSYBOX), Escape()).stdout == "only the host knows"


@both_ways
def test_the_escape_fails_behind_pivot_root(secret):
    result = run(["cat", secret], PivotRoot(BUSYBOX), Escape())
    assert result.exit_code == 1
    assert result.stdout == ""


def test_a_real_program_escapes_from_a_chroot_only(secret):
    need((DEBIAN / "usr/bin/perl").exists(), "needs perl in the Debian root")
    assert run(["perl", "-e", PERL, secret], Chroot(DEBIAN)).stdout == "only the host knows"
    assert run(["perl", "-e", PERL, secret], PivotRoot(DEBIAN)).stdout == ""


@both_ways
def test_inside_are_two_mounts_and_the_host_sees_none():
    before = pathlib.Path("/proc/self/mountinfo").read_text()
    seen = run(["cat", "/proc/self/mountinfo"], PivotRoot(BUSYBOX)).stdout.splitlines()
    assert [line.split()[4] for line in seen] == ["/", "/proc"]
    assert pathlib.Path("/proc/self/mountinfo").read_text() == before


SHARED = """
    import os, pathlib
    from minidocker import syscalls
    from minidocker.process import run
    from minidocker.rootfs import PivotRoot
    syscalls.call("unshare", syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", flags=syscalls.MS_REC | (1 << 20))  # MS_SHARED, as systemd has it
    before = pathlib.Path("/proc/self/mountinfo").read_text()
    assert "shared:" in before
    print(run(["true"], PivotRoot(os.environ["ROOT"])).exit_code)
    assert pathlib.Path("/proc/self/mountinfo").read_text() == before
    assert pathlib.Path("/proc/self/status").exists()
"""


def test_a_host_with_shared_mounts_is_not_harmed():
    assert python(SHARED, env={"ROOT": str(BUSYBOX)}).stdout == "0\n"


def test_a_relative_root_and_a_link_to_a_root(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(BUSYBOX)
    monkeypatch.chdir(tmp_path)
    for root in ("link", tmp_path / "link"):
        assert run(["true"], PivotRoot(root)).exit_code == 0
        assert run(["true"], Chroot(root)).exit_code == 0


@pytest.mark.parametrize("jail", [Chroot, PivotRoot])
def test_a_root_that_is_none(jail, tmp_path):
    with pytest.raises(ContainerError, match="does not exist"):
        run(["true"], jail(tmp_path / "missing"))
    with pytest.raises(ContainerError, match="is not a directory"):
        run(["true"], jail("/etc/passwd"))


@both_ways
def test_a_root_without_proc_is_one_clear_error_and_leaves_no_mount(tmp_path):
    with pytest.raises(ContainerError, match=r"mount\(proc\)") as caught:
        run(["true"], PivotRoot(tmp_path))
    assert caught.value.isolator == "PivotRoot"
    assert caught.value.syscall == "mount"


def test_a_root_by_hand(tmp_path):
    with pytest.raises(ContainerError, match="command not found") as caught:
        run(["/bin/ls"], Chroot(tmp_path))
    assert caught.value.exit_code == 127
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/ls", tmp_path / "bin/ls")
    with pytest.raises(ContainerError, match="dynamic loader"):
        run(["/bin/ls"], Chroot(tmp_path))
    copied = copy_program("/bin/ls", str(tmp_path))
    assert copied[0] == "/bin/ls"
    assert len(copied) > 2
    assert "bin" in run(["/bin/ls", "/"], Chroot(tmp_path)).stdout


def test_a_static_program_needs_only_itself(tmp_path):
    assert copy_program("/bin/busybox", str(tmp_path)) == ["/bin/busybox"]
    assert run(["/bin/busybox", "echo", "alone"], Chroot(tmp_path)).stdout == "alone\n"


@both_ways
def test_the_modules_of_the_root_are_not_imported(tmp_path):
    """The family of CVE-2019-14271: the container brings a module of a name that the engine may look for."""
    root = tmp_path / "root"
    shutil.copytree(BUSYBOX, root, symlinks=True, ignore=shutil.ignore_patterns("dev", "x"))
    for place in (root, root / "usr/lib/python3", *(root / entry.lstrip("/") for entry in sys.path if entry)):
        place.mkdir(parents=True, exist_ok=True)
        (place / "colorsys.py").write_text("open('/hacked', 'w')")
    with pytest.raises(ContainerError, match="import of 'colorsys' inside the container"):
        run(["true"], PivotRoot(root), LateImport())
    assert not (root / "hacked").exists()


class LateImport(Isolator):
    def inside(self):
        sys.modules.pop("colorsys", None)
        import colorsys

        assert colorsys


@pytest.mark.parametrize("jail", ["Chroot", "PivotRoot"])
def test_without_root_it_says_what_is_missing(jail):
    code = f"""
        import os
        from minidocker.process import ContainerError, run
        from minidocker.rootfs import {jail}
        os.setresuid(65534, 65534, 65534)
        try:
            run(["true"], {jail}({str(BUSYBOX)!r}))
        except ContainerError as error:
            print(error)
    """
    assert "not permitted" in python(code).stdout


def test_the_stage():
    stage = [sys.executable, str(CHAPTER / "stage.py")]
    assert "nothing else" in subprocess.run(stage, capture_output=True, text=True, check=True).stdout
    assert subprocess.run([*stage, "sh", "-c", "exit 5"]).returncode == 5
    assert subprocess.run([*stage, "nosuch"], capture_output=True).returncode == 127

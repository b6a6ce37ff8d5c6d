"""Check an exercise of chapter 1: python3 chapters/01_chroot/exercises/check.py NUMBER [FILE]."""

import glob
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.process import run
from minidocker.rootfs import Chroot, PivotRoot

HOME = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
BUSYBOX, DEBIAN = f"{HOME}/roots/busybox", f"{HOME}/roots/debian"
ESCAPE = 'mkdir "x"; chroot "x" or exit 3; chdir ".." for 1..50; chroot "."; exec "cat", $ARGV[0]'


def check_1(module):
    """bash runs in the root, and ls with it."""
    with tempfile.TemporaryDirectory() as root:
        module.build(root)
        result = run(["/bin/bash", "-c", "echo $BASH_VERSION; /bin/ls /"], PivotRoot(root))
        assert result.exit_code == 0, f"bash says: {result.stderr}"
        assert result.stdout.count("\n") > 2, "ls shows nothing"


def check_2(module):
    """The escape by a real program no longer works, and the jail is usable."""
    with tempfile.NamedTemporaryFile("w") as secret:
        secret.write("secret")
        secret.flush()
        assert run(["true"], Chroot(DEBIAN), module.NoChroot()).exit_code == 0
        result = run(["perl", "-e", ESCAPE, secret.name], Chroot(DEBIAN), module.NoChroot())
        if os.path.isdir(f"{DEBIAN}/x"):
            os.rmdir(f"{DEBIAN}/x")
        assert result.stdout == "", "the escape still reads a file of the host: root has CAP_SYS_CHROOT after exec"
        assert result.exit_code == 3, f"chroot(2) should fail, but perl ended with {result.exit_code}"


def check_3(module):
    """Nothing can be written, in no directory, and the root itself is as it was."""
    result = run(["sh", "-c", "touch /file /tmp/file; cat /proc/self/mounts"], PivotRoot(BUSYBOX), module.ReadOnly())
    made = [path for path in (f"{BUSYBOX}/file", f"{BUSYBOX}/tmp/file") if os.path.exists(path)]
    for path in made:
        os.unlink(path)
    assert not made, "a file was made: a bind mount is read-only only after a remount"
    assert result.stderr.count("Read-only file system") == 2, f"touch said: {result.stderr}"


def check_4(module):
    """What runs goes on without its loader; what starts does not."""
    word = os.urandom(4).hex()
    with tempfile.TemporaryDirectory() as root:
        said, starts = module.without_loader(root, word)
        assert os.path.exists(f"{root}/bin/cat"), "there is no /bin/cat in the root"
        left = glob.glob(f"{root}/lib*/**/ld-linux*", recursive=True)
        assert not left, f"the loader is still there: {left[0].removeprefix(root)}"
        assert glob.glob(f"{root}/lib*/**/libc.so*", recursive=True), "delete the loader only: cat needs its libraries"
        assert said.strip() == word, f"cat said {said!r}: a running program's loader is mapped, and lives on"
        assert starts is False, "a new program needs the loader by its name"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)

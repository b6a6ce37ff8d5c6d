"""Check an exercise of chapter 6: python chapters/06_volumes/exercises/check.py NUMBER [FILE]."""

import os
import shutil
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker.namespaces import Namespaces
from minidocker.process import Isolator, run, start
from minidocker.rootfs import PivotRoot
from minidocker.syscalls import CLONE_NEWNS, mount
from minidocker.union import Union
from minidocker.volumes import Named, store

ROOTS = f"{os.environ.get('MINIDOCKER_HOME', '/var/lib/minidocker')}/roots"
BUSYBOX = f"{ROOTS}/busybox"


class Calls(Isolator):
    """Calls the reader's function inside, after mounting something below its source."""

    clone_flags = CLONE_NEWNS

    def __init__(self, function, directory):
        self.function, self.directory = function, directory

    def inside(self):
        mount("tmpfs", f"{self.directory}/source/sub", "tmpfs")
        self.function(f"{self.directory}/source", f"{self.directory}/target")


def container(name, argv, *volumes):
    """A container with named volumes, (name, target) each."""
    union = Union([BUSYBOX])
    mounted = [Named(volume, target, union.root) for volume, target in volumes]
    return start(argv, Namespaces("pid mount uts ipc net", hostname=name), union, *mounted, PivotRoot(union.root))


def check_1(module, directory):
    """Neither the mount nor the one below it can be written; the source still can."""
    for path in ("source/sub", "target"):
        os.makedirs(f"{directory}/{path}")
    script = 'cd "$0"; for i in target target/sub source/sub; do touch $i/file 2>/dev/null && echo $i; done; ls target'
    done = run(["sh", "-c", script, directory], Namespaces("mount"), Calls(module.read_only_bind, directory))
    assert done.stdout.endswith("\nsub\n"), "the target does not show what is in the source: is it bound?"
    assert "target/sub\n" not in done.stdout, "what is mounted below the source can still be written"
    assert "target\n" not in done.stdout, "the target can be written: did you remount it?"
    assert done.stdout == "source/sub\nsub\n", "the source itself has become read-only, too"


def check_2(module, directory):
    """The archive has the content, which is another one each time, and the volume is as it was."""
    store.create("wanted")
    place, content = store.inspect("wanted")["Mountpoint"], os.urandom(4096)
    os.makedirs(f"{place}/deep")
    with open(f"{place}/deep/file", "wb") as file:
        file.write(content)
    module.backup("wanted", f"{directory}/wanted.tar")
    assert os.path.exists(f"{directory}/wanted.tar"), "there is no archive"
    with tarfile.open(f"{directory}/wanted.tar") as archive:
        names = {os.path.normpath(name): name for name in archive.getnames()}
        assert "deep/file" in names, f"deep/file is not in the archive, but {[*names]}"
        assert archive.extractfile(names["deep/file"]).read() == content, "deep/file has another content there"
    assert os.listdir(place) == ["deep"], "something was written to the volume"
    assert store.names() == ["wanted"], "a volume is left over"


def check_3(module, directory):
    """Those that have it, and no others. Nobody can know their names beforehand."""
    sleep, names = ["sh", "-c", "echo ready; sleep 1000"], [f"host-{os.urandom(3).hex()}" for _ in range(3)]
    with (
        container(names[0], sleep, ("wanted", "/data")) as first,
        container(names[1], sleep, ("other", "/data")) as second,
        container(names[2], sleep, ("other", "/a"), ("wanted", "/b")) as third,
    ):
        for process in (first, second, third):
            next(process.lines())
        found, wanted = sorted(module.containers_of("wanted")), sorted([names[0], names[2]])
    assert found == wanted, f"{' and '.join(wanted)} have it, and you found {' '.join(found) or 'nobody'}"
    assert module.containers_of("wanted") == [], "nobody has it any more"


def check_4(module, directory):
    """(what the first wrote into 1 MB, the error; what the other could write meanwhile; what a limit let through)."""
    written, error, other, limited = module.fill()
    assert os.path.isdir(store.parent()), (
        "no volume was made: the four answers are to be measured, and not written down"
    )
    assert 900_000 < written <= 1 << 20, f"{written} bytes are in a volume of 1 MB"
    assert "No space left" in error, f"the error is {error!r}, and should be ENOSPC"
    assert other == "fits\n", "the other container could not write to its volume"
    assert limited == 64 << 20, f"{limited} bytes were written, and the limit is 64 MB"
    assert store.names() == [], f"left over: {' '.join(store.names())}"


def in_a_home_of_its_own(check):
    """The reader's own volumes are not touched."""

    def checked(module):
        directory = tempfile.mkdtemp(prefix="exercise-")
        os.environ["MINIDOCKER_HOME"] = f"{directory}/home"
        try:
            check(module, directory)
        finally:
            store.prune(everything=True)
            shutil.rmtree(directory)

    return checked


if __name__ == "__main__":
    checks = {1: check_1, 2: check_2, 3: check_3, 4: check_4}
    exercise.main({number: in_a_home_of_its_own(check) for number, check in checks.items()}, HERE)

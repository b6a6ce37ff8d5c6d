"""Chapter 4: every driver must do what the model says, and leave nothing behind."""

import contextlib
import ctypes
import errno
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aufs import DRIVERS, Aufs, Copy
from aufs.branches import Writable
from minidocker import files, state
from minidocker.files import copy, usage
from minidocker.namespaces import Namespaces
from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot
from minidocker.trees import NotRemoved, remove, walk
from minidocker.union import Union
from tests.helpers import HOME
from tests.helpers.union_model import Model, Real, outcome
from tools.learner.nobody import NOBODY, PYTHON, as_nobody

pytestmark = [pytest.mark.chapter(4), pytest.mark.usefixtures("own_home")]
drivers = pytest.mark.parametrize("driver", DRIVERS)
ROOTS = f"{HOME}/roots"

NAMES = st.sampled_from(["a", "b"])
PATHS = st.one_of(NAMES, st.builds("/".join, st.lists(NAMES, min_size=2, max_size=3)))
DATA = st.binary(min_size=1, max_size=5)
OPERATIONS = st.one_of(
    st.tuples(st.just("create"), PATHS, DATA),
    st.tuples(st.just("write"), PATHS, st.integers(0, 9), DATA),
    st.tuples(st.just("append"), PATHS, DATA),
    st.tuples(st.just("overwrite"), PATHS, DATA),
    st.tuples(st.just("truncate"), PATHS, st.integers(0, 9)),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o600, 0o755, 0o4755, 0o444])),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("mkdir"), PATHS),  # twice: most of the rest needs directories
    st.tuples(st.just("rmdir"), PATHS),
    st.tuples(st.just("symlink"), PATHS, st.just("nowhere")),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("read"), PATHS),
    st.tuples(st.just("names"), PATHS),
    st.tuples(st.just("status"), PATHS),
)
# What each container does, one after the other: its upper directory is the next one's top lower directory.
LIVES = st.lists(st.lists(OPERATIONS, max_size=20), min_size=2, max_size=4)
OFTEN = int(os.environ.get("MINIDOCKER_EXAMPLES", "30"))


def read(path):
    with open(path) as file:
        return file.read()


def tree(top):
    """All paths below a directory."""
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def snapshot(top):
    """Every path below `top` with what would change if somebody wrote there."""
    found = {}
    for directory, directories, others in os.walk(top):
        for name in [*directories, *others]:
            status = os.lstat(os.path.join(directory, name))
            found[directory, name] = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return found


def until(condition):
    """Wait until it is true; a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def driven(test):
    return settings(
        max_examples=OFTEN,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )(test)


@contextlib.contextmanager
def mounted(lowers, upper=None, driver="overlay", **options):
    """A union, and the directory where the host reaches it: through the root of a process that sees the mount."""
    union = DRIVERS[driver](lowers, upper, **options)
    with start(["sleep", "1000"], union) as process:
        yield f"/proc/{process.pid}/root{union.root}"


def live(model, top, operations):
    """The same operations in the model and in the directory; each answer must be the same, and the end."""
    real = Real(top)
    for operation in operations:
        assert outcome(real, *operation) == outcome(model, *operation), operation
    assert real.tree() == model.tree()


def live_all(lives, drivers):
    """The first life is in a plain directory, the model's own test; each further one in a union over all before."""
    model = Model()
    with tempfile.TemporaryDirectory() as scratch:
        lowers = [os.path.join(scratch, "0")]
        os.mkdir(lowers[0])
        live(model, lowers[0], lives[0])
        for number, (operations, driver) in enumerate(zip(lives[1:], drivers, strict=False), 1):
            upper = os.path.join(scratch, str(number))
            os.mkdir(upper)
            model.unseal() if driver == "copy" else model.seal()
            with mounted(lowers, upper, driver) as top:
                live(model, top, operations)
            with mounted(lowers, upper, driver) as top:  # a container that is started again finds what it left
                assert Real(top).tree() == model.tree()
            lowers = [upper] if driver == "copy" else [upper, *lowers]


@drivers
@driven
@given(lives=LIVES)
def test_every_driver_does_what_the_model_does(driver, lives):
    live_all(lives, itertools.repeat(driver))


@driven
@given(lives=LIVES, seed=st.integers(0, 7))
def test_aufs_and_copy_read_what_overlay_left(lives, seed):
    """Layers of both formats. OverlayFS, which a copy mounts, does not know AUFS's: it comes first."""
    last = ["overlay", "overlay", "aufs"], ["overlay", "aufs", "aufs"], ["overlay", "overlay", "copy"]
    live_all(lives, last[seed % 3])


# Layers


@pytest.mark.parametrize("count", [1, 2, 64, 128])
@drivers
def test_many_layers(driver, count, tmp_path):
    """The top one wins, and the lowest still shows."""
    lowers = [tmp_path / f"a-layer-with-a-rather-long-name-{number}" for number in range(count)]
    for number, lower in enumerate(lowers):
        lower.mkdir()
        (lower / f"of-{number}").write_text(str(number))
        (lower / "of-all").write_text(str(number))
    with mounted(lowers, driver=driver) as top:
        assert read(f"{top}/of-all") == "0"
        assert read(f"{top}/of-{count - 1}") == str(count - 1)
        assert len(os.listdir(top)) == count + 1


@drivers
def test_any_name_of_a_directory_will_do(driver, tmp_path):
    """What separates options or directories in a mount's options may be part of a name."""
    lowers = [tmp_path / name for name in ("a:b", "c,d=e", 'quo"te', "back\\slash", "sp ace\n")]
    for lower in lowers:
        lower.mkdir()
        (lower / "here").mkdir()
        (lower / "here" / str(lowers.index(lower))).touch()
    with mounted(lowers, driver=driver) as top:
        assert sorted(os.listdir(f"{top}/here")) == list("01234")


@drivers
def test_a_root_runs_and_the_lower_directory_stays_as_it_is(driver):
    """Two containers at the same time: neither sees the other's change, and the base has none."""
    root = f"{ROOTS}/busybox"
    before = snapshot(root)
    script = "echo $0 >/etc/mine; rm /bin/wc; mkdir /etc/new; cat /etc/mine; ls /bin/wc; sleep 0.2; cat /etc/mine"
    one, two = (DRIVERS[driver]([root]) for _ in range(2))
    walls = Namespaces("pid mount uts ipc net")
    with start(["sh", "-c", script, "one"], walls, one, PivotRoot(one.root)) as first:
        second = run(["sh", "-c", script, "two"], walls, two, PivotRoot(two.root))
        assert (first.wait().stdout, second.stdout) == ("one\none\n", "two\ntwo\n")
    assert "No such file" in second.stderr
    assert snapshot(root) == before


@drivers
def test_names_that_are_no_text(driver, tmp_path):
    """A name is bytes: not UTF-8, and with an end of line in it. Only / and NUL are taken."""
    (tmp_path / "lower").mkdir()
    name = b"\xff\xfe\n"
    (tmp_path / "lower" / os.fsdecode(name)).write_text("text")
    trace = {"trace": str(tmp_path / "trace")} if driver == "aufs" else {}
    with mounted([tmp_path / "lower"], driver=driver, **trace) as top:
        os.rename(os.path.join(os.fsencode(top), name), os.path.join(os.fsencode(top), name + b"!"))
        assert os.listdir(os.fsencode(top)) == [name + b"!"]


# What a copy-up keeps, and what the format looks like


@pytest.fixture
def lower(tmp_path):
    """A directory with one of each kind."""
    (tmp_path / "lower" / "sub").mkdir(parents=True)
    file = tmp_path / "lower" / "sub" / "file"
    file.write_bytes(b"text")
    os.truncate(file, 16 << 20)  # a hole that is much larger than the 1 MiB which the kernel copies at once
    with open(file, "r+b") as opened:
        opened.seek((16 << 20) - 1)
        opened.write(b"!")
    os.setxattr(file, "user.note", b"kept")
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.chown(file, 12, 34)
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    file.chmod(0o6755)
    os.utime(file, ns=(1, 1_000_000_007))
    os.mkfifo(tmp_path / "lower" / "sub" / "fifo")
    os.mknod(tmp_path / "lower" / "sub" / "null", 0o20666, os.makedev(1, 3))
    (tmp_path / "lower" / "sub" / "link").symlink_to("nowhere")
    os.utime(tmp_path / "lower" / "sub", ns=(5, 6_000_000_000))
    return tmp_path / "lower"


def facts(path):
    status = os.lstat(path)
    names = os.listxattr(path, follow_symlinks=False)
    kept = {name: os.getxattr(path, name, follow_symlinks=False) for name in names if "overlay" not in name}
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size  # of a directory a tmpfs counts the names
    return status.st_mode, status.st_uid, status.st_gid, size, status.st_rdev, status.st_mtime_ns, kept


@drivers
@pytest.mark.parametrize("name", ["file", "fifo", "null", "link"])
def test_a_copy_up_changes_nothing_that_was_not_changed(driver, name, lower, tmp_path):
    """Owner, mode, times, attributes, holes, inode number; the directory keeps its time, as nothing in it changed."""
    upper = tmp_path / "upper"
    upper.mkdir()
    with mounted([lower], upper, driver) as top:
        path = f"{top}/sub/{name}"
        before, number, directory = facts(path), os.lstat(path).st_ino, facts(f"{top}/sub")
        os.chown(path, 56, -1, follow_symlinks=False)
        assert os.path.lexists(upper / "sub" / name)
        os.chown(path, before[1], -1, follow_symlinks=False)
        if name == "file":
            os.setxattr(path, "security.capability", before[6]["security.capability"])
            os.chmod(path, 0o6755)
            assert os.stat(upper / "sub" / name).st_blocks * 512 < 8 << 20, "the hole is gone"
        assert facts(path) == before
        assert os.lstat(path).st_ino == number
        assert facts(f"{top}/sub") == directory


@pytest.mark.parametrize("driver", ["aufs", "overlay"])
def test_the_format_on_disk(driver, lower, tmp_path):
    """A whiteout for what was deleted, an opaque directory for one that was made anew."""
    upper = tmp_path / "upper"
    upper.mkdir()
    with mounted([lower], upper, driver) as top:
        os.unlink(f"{top}/sub/fifo")
        shutil.rmtree(f"{top}/sub")
        os.mkdir(f"{top}/sub")
        assert os.listdir(f"{top}/sub") == []
    if driver == "aufs":
        assert (tree(upper), (upper / "sub/.wh..wh..opq").stat().st_size) == (["sub", "sub/.wh..wh..opq"], 0)
    else:
        assert os.getxattr(upper / "sub", "trusted.overlay.opaque") == b"y"
    with mounted([lower], upper, driver) as top:
        os.rmdir(f"{top}/sub")
    if driver == "aufs":
        assert tree(upper) == [".wh.sub"]
    else:
        status = os.lstat(upper / "sub")
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)


@drivers
def test_who_reads_a_file_sees_what_another_writes(driver, lower):
    """A copy-up of a file that is open for reading takes its reader along; who reads by another name stays."""
    (lower / "note").write_text("old")
    os.link(lower / "note", lower / "other")
    with mounted([lower], driver=driver) as top, open(f"{top}/note") as reader, open(f"{top}/other") as other:
        with open(f"{top}/note", "a") as writer:
            writer.write(" and new")
        assert os.fstat(reader.fileno()).st_size == 11
        assert reader.read() == "old and new"
        assert other.read() == ("old and new" if driver == "copy" else "old")


@drivers
def test_a_file_that_was_deleted_lives_while_it_is_open(driver, lower):
    with mounted([lower], driver=driver) as top:
        with open(f"{top}/sub/file", "r+b") as file:
            os.unlink(f"{top}/sub/file")
            assert "file" not in os.listdir(f"{top}/sub")
            file.write(b"TEXT")
            file.seek(0)
            assert file.read(5) == b"TEXT\0"
        for name in ("link", "fifo", "null"):
            os.unlink(f"{top}/sub/{name}")
        os.rmdir(f"{top}/sub")


@pytest.mark.parametrize("driver", ["aufs", "overlay"])
def test_the_format_is_out_of_reach(driver, lower, tmp_path):
    """Nobody inside may write or read marks; no exchange that the driver cannot do."""
    upper = tmp_path / "upper"
    upper.mkdir()
    with mounted([lower], upper, driver) as top:
        with pytest.raises(PermissionError):
            os.mknod(f"{top}/white", 0o20000, 0)
        os.unlink(f"{top}/sub/fifo")
        if driver == "aufs":
            for call in (os.mkdir, lambda path: os.symlink("x", path), lambda path: open(path, "w")):
                with pytest.raises(PermissionError):
                    call(f"{top}/.wh.sub")
            with pytest.raises(FileNotFoundError):
                os.lstat(f"{top}/sub/.wh.fifo")
            with pytest.raises(PermissionError):
                os.setxattr(f"{top}/sub", "trusted.overlay.opaque", b"y")
            libc = ctypes.CDLL(None, use_errno=True)
            paths = [f"{top}/sub/{name}".encode() for name in ("file", "link")]
            assert libc.renameat2(-100, paths[0], -100, paths[1], 2) == -1
            assert ctypes.get_errno() == errno.EINVAL
        assert sorted(os.listdir(f"{top}/sub")) == ["file", "link", "null"]


# A kept upper directory


@drivers
def test_a_kept_directory_serves_one_container_at_a_time(driver, lower, tmp_path):
    upper = tmp_path / "upper"
    upper.mkdir()
    with mounted([lower], upper, driver), pytest.raises(ContainerError, match="in use by another container"):
        run(["true"], DRIVERS[driver]([lower], upper))
    assert run(["true"], DRIVERS[driver]([lower], upper)).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["home", "lower", "upper"]


def test_a_copy_is_made_once(lower, tmp_path):
    """What was deleted stays deleted, even if that was everything; half a copy is no copy."""
    upper = tmp_path / "upper"
    upper.mkdir()
    with mounted([lower], upper, "copy") as top:
        shutil.rmtree(f"{top}/sub")
    with mounted([lower], upper, "copy") as top:
        assert os.listdir(top) == []
    half = tmp_path / "half"
    (half / "sub").mkdir(parents=True)
    with pytest.raises(ContainerError, match="no whole copy: empty it"):
        run(["true"], Copy([lower], half))


# Without root


OUT_OF_REACH = """
import json, os, sys
from minidocker.namespaces import Namespaces
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.trees import NotRemoved, remove, walk
from minidocker.union import Union
root, upper = sys.argv[1:]
union = Union([root], upper)
script = "rm /bin/wc; echo mine >/etc/mine; rm -r /var; mkdir /var; ls /var; id -u; cat /etc/mine"
result = run(["sh", "-c", script], Namespaces("user pid mount uts ipc net"), union, PivotRoot(union.root))
print(json.dumps([result.stdout, result.stderr, os.listdir(os.environ["MINIDOCKER_HOME"] + "/containers")]))
"""


@pytest.mark.parametrize("driver", ["aufs", "copy"])
def test_the_other_drivers_say_that_they_need_root(driver, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(ContainerError, match="this driver needs root: use OverlayFS"):
        DRIVERS[driver](["/etc"]).__enter__()


def test_aufs_in_a_user_namespace_says_what_to_use():
    with pytest.raises(ContainerError, match="another user namespace: use OverlayFS"):
        run(["true"], Namespaces("user mount"), Aufs(["/etc"]))


def test_overlay_without_being_root(tmp_path):
    """In a user namespace, as nobody: the marks are attributes that a user may write."""
    with as_nobody() as options, tempfile.TemporaryDirectory() as place:
        os.chown(place, NOBODY, NOBODY)
        root, upper = f"{place}/root", f"{place}/upper"
        subprocess.run(["cp", "-r", f"{ROOTS}/busybox", root], check=True)
        os.mkdir(upper)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", place], check=True)
        options["env"]["MINIDOCKER_HOME"] = f"{place}/home"
        done = subprocess.run([PYTHON, "-c", OUT_OF_REACH, root, upper], capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ["0\nmine\n", "", []]
        status = os.lstat(f"{upper}/bin/wc")
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
        assert os.getxattr(f"{upper}/var", "user.overlay.opaque") == b"y"
        assert os.path.exists(f"{root}/bin/wc")


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ([["/nowhere"]], {}, "/nowhere is not a directory"),
        ([[]], {}, "no lower directory"),
        (["/etc"], {}, "are a list"),
        ([["/etc"], "/etc/hostname"], {}, "/etc/hostname is not a directory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, options, text, tmp_path):
    with pytest.raises(ContainerError, match=text) as refused:
        run(["true"], Union(*arguments, **options))
    assert "\n" not in str(refused.value)
    assert not os.path.exists(tmp_path / "home/containers") or not os.listdir(tmp_path / "home/containers")


def test_an_upper_directory_that_cannot_be_one(tmp_path):
    """OverlayFS cannot write to an overlay: the kernel says EINVAL, and we say why."""
    for name in ("lower", "up", "work", "on"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/up,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", tmp_path / "on"], check=True)
    try:
        (tmp_path / "on" / "upper").mkdir()
        with pytest.raises(ContainerError, match="not on overlay"):
            run(["true"], Union([tmp_path / "lower"], tmp_path / "on" / "upper"))
        assert os.listdir(tmp_path / "on") == ["upper"]
    finally:
        subprocess.run(["umount", tmp_path / "on"], check=True)
    assert os.listdir(tmp_path / "home/containers") == []


def test_a_server_that_dies_takes_the_files_with_it(lower):
    """The container's calls fail, and do not hang."""
    union = Aufs([lower])
    with start(["sleep", "1000"], union) as process:
        top = f"/proc/{process.pid}/root{union.root}"
        assert os.listdir(top) == ["sub"]
        os.kill(union.server, signal.SIGKILL)
        with pytest.raises(OSError) as refused:
            os.listdir(f"{top}/sub")
        assert refused.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_server_that_cannot_start_says_why(lower, monkeypatch, tmp_path):
    for boot, why in (
        ("raise ValueError('no file system today')", "ValueError: no file system today"),
        ("", "nothing"),
    ):
        monkeypatch.setattr("aufs.BOOT", boot)
        with pytest.raises(ContainerError, match=f"did not start: .*{why}; set-up") as refused:
            run(["true"], Aufs([lower]))
        assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path / "home/containers") == []


def test_what_the_container_leaves_running_does_not_keep_the_server(lower):
    """A process that has left the process group, without a PID namespace, holds the mount namespace."""
    union = Aufs([lower])
    result = run(["sh", "-c", "echo $(setsid sh -c 'echo $$; exec sleep 100 >/dev/null 2>&1' &)"], union)
    os.kill(int(result.stdout), signal.SIGKILL)
    assert union.server == -1


OWNER = """
import sys
from minidocker.process import start
from minidocker.union import Union
from aufs import DRIVERS
lower, driver, trace = sys.argv[1:]
union = DRIVERS[driver]([lower])
with start(["sleep", "1000"], union, name="doomed") as process:
    print(process.pid, getattr(union, "server", 0), flush=True)
    process.wait()
"""


@drivers
def test_a_killed_owner_leaves_a_directory_that_prune_removes(driver, lower, tmp_path):
    command = [sys.executable, "-c", OWNER, lower, driver, ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert state.prune() == []  # its owner lives
        owner.kill()
    path = f"{tmp_path}/home/containers/doomed"
    for pid in filter(None, pids):
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
    assert os.path.isdir(path)
    assert state.prune() == [path]
    assert os.listdir(os.path.dirname(path)) == []


def test_a_full_disk_leaves_the_file_as_it_was(lower, tmp_path):
    """Copy-up onto a small tmpfs: ENOSPC, the old content, and no half file."""
    upper = tmp_path / "upper"
    upper.mkdir()
    (lower / "big").write_bytes(b"x" * (1 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", upper], check=True)
    try:
        with mounted([lower], upper, "aufs") as top:
            with pytest.raises(OSError) as refused:
                open(f"{top}/big", "r+b")
            assert refused.value.errno == errno.ENOSPC
            assert os.stat(f"{top}/big").st_size == 1 << 20
        assert os.listdir(upper) == []
    finally:
        subprocess.run(["umount", upper], check=True)


@pytest.mark.parametrize("step", range(1, 9))
def test_a_copy_up_that_is_killed_has_not_happened(step, lower, tmp_path):
    """The process ends at each system call that makes or renames something; another one finds the union as it was."""
    upper = tmp_path / "upper"
    upper.mkdir()
    pid = os.fork()
    if pid == 0:
        left = itertools.count(1)
        for name in ("mkdir", "open", "rename", "chown", "utime", "setxattr", "sendfile", "chmod"):
            call = getattr(os, name)

            def killed(*arguments, _call=call, **options):
                if next(left) == step:
                    os._exit(1)
                return _call(*arguments, **options)

            setattr(os, name, killed)
        Writable(str(upper), [str(lower)]).copy_up("/sub/file")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    union = Writable(str(upper), [str(lower)])
    assert sorted(union.names("/")) == ["sub"]
    assert sorted(union.names("/sub")) == ["fifo", "file", "link", "null"]
    assert facts(union.copy_up("/sub/file")) == facts(lower / "sub" / "file")
    assert tree(upper) == ["sub", "sub/file"]


# The state directory


def test_a_name_is_taken_while_its_owner_lives(tmp_path):
    path = state.directory("web")
    lock = state.claim(path)
    with pytest.raises(ContainerError, match="web: a container of this name is running"):
        state.claim(path)
    assert state.prune() == []
    state.release(path, lock)
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(ContainerError, match="cannot be called"):
            state.directory(name)


def test_claims_and_prunes_at_the_same_time(tmp_path):
    """Nobody gets a directory that another is about to remove, and in the end there is none."""
    problems = []

    def owner(name):
        try:
            for _ in range(50):
                path = state.directory(name)
                lock = state.claim(path)
                assert os.path.samestat(os.fstat(lock), os.stat(path))
                state.release(path, lock)
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=owner, args=[f"c{number}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        state.prune()
    assert problems == []
    assert os.listdir(tmp_path / "home/containers") == []


def test_a_tree_of_any_depth_is_removed_and_links_are_not_followed(tmp_path):
    top, outside = tmp_path / "top", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    top.mkdir()
    (top / "link").symlink_to(outside)
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):  # far beyond PATH_MAX
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    each = os.stat(outside).st_blocks * 512  # 4096 on ext4; a tmpfs counts none for a directory
    assert usage([str(top)]) >= 3000 * each
    assert remove(str(top)) >= 3000 * each
    assert os.listdir(tmp_path) == ["outside"] or sorted(os.listdir(tmp_path)) == ["home", "outside"]
    assert (outside / "precious").exists()


# Trees of files


@pytest.fixture
def stubborn():
    """Make a file or directory immutable, and take that back at the end."""
    made = []

    def make(path):
        subprocess.run(["chattr", "+i", path], check=True)
        made.append(path)
        return str(path)

    yield make
    subprocess.run(["chattr", "-i", *filter(os.path.exists, made)])


def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path, stubborn):
    for path in ("top/a/file", "top/b/file", "top/c/deep/file"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"x" * 5000)
    kept = [stubborn(tmp_path / "top/a/file"), stubborn(tmp_path / "top/b")]
    with pytest.raises(NotRemoved, match="not removed: .*/top/a/file: Operation not permitted; .*lsattr") as left:
        remove(str(tmp_path / "top"))
    assert {os.fsdecode(failed.filename) for failed in left.value.failures} == {*kept, f"{kept[1]}/file"}
    assert tree(tmp_path / "top") == ["a", "a/file", "b", "b/file"]


def test_prune_goes_on_past_a_stubborn_directory(tmp_path, stubborn):
    for name in ("a", "b", "c"):
        os.makedirs(state.directory(name))
    file = f"{state.directory('b')}/file"
    open(file, "w").close()
    stubborn(file)
    for removed in (["a", "c"], []):
        with pytest.raises(NotRemoved, match="/b/file: Operation not permitted") as left:
            state.prune()
        assert left.value.removed == [state.directory(name) for name in removed]
    subprocess.run(["chattr", "-i", file], check=True)
    assert state.prune() == [state.directory("b")]


def test_what_cannot_be_removed_does_not_change_the_exit_code(lower, stubborn, capsys):
    """It is said, and left for prune."""
    union = Union([lower])
    with start(["sh", "-c", "read x; exit 7"], union, stdin=(pipe := os.pipe())[0]) as process:
        file = f"{union.upper}/kept"
        open(file, "w").close()
        stubborn(file)
        os.write(pipe[1], b"go\n")
        assert process.wait().exit_code == 7
    assert f"minidocker: not removed: {file}: Operation not permitted" in capsys.readouterr().err
    subprocess.run(["chattr", "-i", file], check=True)
    assert state.prune() == [union.own]
    for end in pipe:
        os.close(end)


def test_nothing_is_removed_through_a_mount(tmp_path):
    """Neither of another file system, nor of the same one: what is mounted in a tree belongs to somebody else."""
    for name in ("top/other", "top/same", "precious"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "precious/file").touch()
    (tmp_path / "top/file").touch()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "top/other"], check=True)
    subprocess.run(["mount", "--bind", tmp_path / "precious", tmp_path / "top/same"], check=True)
    try:
        (tmp_path / "top/other/file").touch()
        with pytest.raises(NotRemoved, match="findmnt"):
            remove(str(tmp_path / "top"))
        assert tree(tmp_path / "top") == ["other", "other/file", "same", "same/file"]
    finally:
        subprocess.run(["umount", tmp_path / "top/other", tmp_path / "top/same"], check=True)
    remove(str(tmp_path / "top"))
    assert os.listdir(tmp_path / "precious") == ["file"]


def test_a_full_disk_can_be_emptied_and_keeps_what_was_to_be_replaced(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    try:
        os.makedirs(disk / "a/b/c")
        state.replace(str(disk / "index"), b"old")
        with pytest.raises(OSError), open(disk / "a/b/c/fill", "wb", 0) as file:
            while file.write(b"x" * 65536):
                pass
        with pytest.raises(OSError) as refused:
            state.replace(str(disk / "index"), b"x" * 65536)
        assert refused.value.errno == errno.ENOSPC
        assert (disk / "index").read_bytes() == b"old" and sorted(os.listdir(disk)) == ["a", "index"]
        assert remove(str(disk / "a")) > 900_000
        state.replace(str(disk / "index"), b"new")
        assert (disk / "index").read_bytes() == b"new" and os.listdir(disk) == ["index"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_removing_frees_is_what_the_disk_gets_back(tmp_path):
    """A hole takes nothing, and a file that has a name elsewhere is not freed."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "file").write_bytes(b"x" * 100_000)
    os.link(top / "file", top / "again")
    (top / "shared").write_bytes(b"x" * 100_000)
    os.link(top / "shared", tmp_path / "elsewhere")
    with open(top / "hole", "wb") as file:
        file.truncate(1 << 30)
    du = subprocess.run(["du", "-x", "--block-size=1", "-s", top], capture_output=True, text=True, check=True)
    assert usage([str(top)]) == int(du.stdout.split()[0])
    assert remove(str(top)) == usage([]) + int(du.stdout.split()[0]) - os.stat(tmp_path / "elsewhere").st_blocks * 512
    assert remove(str(top)) == 0  # it is not there any more


def test_a_copy_is_faithful(lower, tmp_path):
    """Owner, mode with setuid, attributes with capabilities, times, holes, hard links, kinds: also of the top."""
    os.link(lower / "sub/file", lower / "again")
    os.chmod(lower / "sub/file", 0o4755)
    os.setxattr(lower / "sub/file", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.chown(lower / "sub", 12, 34)
    os.chmod(lower / "sub", 0o2750)
    os.symlink("nowhere", lower / "sub/dangling")
    os.setxattr(lower / "sub/dangling", "trusted.x", b"of a link", follow_symlinks=False)
    os.mknod(lower / "sub/socket", stat.S_IFSOCK | 0o664)
    os.utime(lower / "sub", ns=(1, 2))
    os.utime(lower, ns=(3, 4))
    (tmp_path / "copy").mkdir()
    source, target = (os.open(path, os.O_RDONLY) for path in (lower, tmp_path / "copy"))
    umask = os.umask(0o077)
    copy(source, target)
    assert os.umask(umask) == 0o077
    for path in tree(lower):
        assert facts(lower / path) == facts(tmp_path / "copy" / path), path
    copied = [(path, status) for path, _, _, status in walk(target)]
    assert [path for path, _ in copied] == [path for path, *_ in walk(source)]
    assert len({status.st_ino for path, status in copied if path in (b"again", b"sub/file")}) == 1
    for descriptor in (source, target):
        os.close(descriptor)


def test_a_copy_of_any_depth_needs_few_descriptors(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    here = None
    for path in (source, target):
        path.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.link("file", "again", src_dir_fd=here, dst_dir_fd=here)
    pair = [os.open(path, os.O_RDONLY) for path in (source, target)]
    copy(*pair)
    assert sum(1 for _ in walk(pair[0])) == sum(1 for _ in walk(pair[1])) == 2503
    for descriptor in (here, *pair):
        os.close(descriptor)
    remove(str(source))
    remove(str(target))


def test_a_copy_is_not_led_astray(tmp_path):
    """Whoever shares the target exchanges our copy for the host's file, between its first and second name."""
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source / "a", target):
        path.mkdir(parents=True)
    (tmp_path / "secret").write_text("of the host")
    (source / "a/file").touch()
    os.link(source / "a/file", source / "b")
    pair = [os.open(path, os.O_RDONLY) for path in (source, target)]
    made = files.attributes

    def exchange(*arguments):
        made(*arguments)
        if os.path.exists(target / "a/file") and not os.path.islink(target / "a"):
            os.rename(target / "a", tmp_path / "moved")
            (tmp_path / "host").mkdir()
            os.link(tmp_path / "secret", tmp_path / "host/file")
            os.symlink(tmp_path / "host", target / "a")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "attributes", exchange)
        with pytest.raises(OSError):
            copy(*pair)
    assert os.stat(tmp_path / "secret").st_nlink == 2
    for descriptor in pair:
        os.close(descriptor)


def test_a_lock_is_of_the_file_that_has_the_name_now(tmp_path):
    path = str(tmp_path / "lock")
    assert state.hold(path) is None  # there is none
    os.mkdir(path)
    shared = state.hold(path, exclusive=False)
    again = state.hold(path, exclusive=False)
    assert state.hold(path) is None
    os.close(shared)
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(state.hold(path, wait=True)))
    thread.start()
    os.rename(path, f"{path}.old")
    os.mkdir(path)
    os.close(again)  # now the waiting one gets the old directory, and must look at what has the name
    thread.join()
    assert os.path.samestat(os.fstat(waiting[0]), os.stat(path))
    os.close(waiting[0])

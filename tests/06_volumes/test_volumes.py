"""Chapter 6: volumes that are shared and outlive their containers, whatever a hostile image or volume does."""

import contextlib
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from aufs import DRIVERS
from minidocker import trees
from minidocker.namespaces import Namespaces
from minidocker.process import ContainerError, run, start
from minidocker.rootfs import PivotRoot
from minidocker.state import hold
from minidocker.union import Union
from minidocker.volumes import Bind, Named, Tmpfs, landing, name_of, ordered, store
from minidocker.volumes.spelling import from_mount, from_tmpfs, from_v
from tests.helpers import HOME, REPO, both_ways, need, until
from tests.helpers.mounting import Memory, Naive, NothingOn

pytestmark = pytest.mark.chapter(6)
BUSYBOX = str(HOME / "roots" / "busybox")


@pytest.fixture(autouse=True)
def home(own_home):
    """When a test ends, its volumes have no keepers."""
    yield own_home
    for name in store.names():
        assert until(lambda name=name: not keeper_of(name)), "the keeper has not left with the last user"


def keeper_of(name):
    """Whether a process keeps the mounts of this volume."""
    path = f"{store.directory(name)}/keeper"
    lock = hold(path) if os.path.exists(path) else None
    if lock is not None:
        os.close(lock)
    return os.path.exists(path) and lock is None


def listed(*makers, lowers=(BUSYBOX,)):
    """The list of this chapter: namespaces, a union, volumes made for its root, the root."""
    union = Union([*lowers])
    return [Namespaces("pid mount uts ipc net"), union, *(make(union.root) for make in makers), PivotRoot(union.root)]


def sh(script, *makers, lowers=(BUSYBOX,), **options):
    return run(["sh", "-c", script], *listed(*makers, lowers=lowers), **options)


def spelled(text):
    """-v text, as a maker."""
    return lambda root: from_v(text, root)


def program(code, *arguments):
    """The command line of Python code that finds this module, and the environment for it."""
    here = os.environ["MINIDOCKER_HOME"]
    imports = f"import importlib, subprocess\nglobals().update(vars(importlib.import_module({__name__!r})))\n"
    imports += f"os.environ['MINIDOCKER_HOME'] = {here!r}\n"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MINIDOCKER_HOME": str(HOME)}
    return {"args": [*arguments, sys.executable, "-c", imports + textwrap.dedent(code)], "env": env}


def elsewhere(code, propagation="private"):
    """What the code prints in a mount namespace that stands for the host, and has no peers on the real one."""
    first = ["sh", "-c", f'mount --make-r{propagation} / && exec "$@"', "sh"]
    command = program(code, "unshare", "--mount", "--propagation", "private", *first)
    done = subprocess.run(**command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(call, *words):
    """It is refused, in one lower-case line that has these words."""
    with pytest.raises(ContainerError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


# What a volume is


@both_ways
def test_a_named_volume_outlives_its_container_and_is_shared():
    assert sh("echo kept > /data/file", spelled("pages:/data")).exit_code == 0
    with start(
        ["sh", "-c", "cat /data/file; echo ready; read x; cat /data/file"],
        *listed(spelled("pages:/data")),
        stdin=(p := os.pipe())[0],
    ) as one:
        lines = one.lines()
        assert [next(lines), next(lines)] == ["kept", "ready"]
        assert sh("echo changed > /data/file", spelled("pages:/data")).exit_code == 0
        os.write(p[1], b"\n")
        assert next(lines) == "changed"
    for end in p:
        os.close(end)
    assert pathlib.Path(store.inspect("pages")["Mountpoint"], "file").read_text() == "changed\n"


@both_ways
def test_a_bind_mount_is_the_host_directory_and_a_file_goes_onto_a_file(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index").write_text("hello\n")
    (tmp_path / "conf").write_text("conf\n")
    makers = [
        lambda root: Bind(tmp_path / "site", "/srv", root),
        lambda root: Bind(tmp_path / "conf", "/etc/new/conf", root),
    ]
    done = sh("cat /srv/index /etc/new/conf; echo more > /srv/index; chown 5:6 /srv/index", *makers)
    assert done.stdout == "hello\nconf\n"
    assert (tmp_path / "site/index").read_text() == "more\n"
    assert (tmp_path / "site/index").stat().st_uid == 5
    assert not pathlib.Path(BUSYBOX, "srv").exists(), "the target was made in the shared root"


@both_ways
def test_a_tmpfs_has_its_size_and_mode_and_is_gone_afterwards():
    done = sh(
        "stat -c %a /t; dd if=/dev/zero of=/t/x bs=64k count=64 2>&1; stat -c %s /t/x",
        lambda root: Tmpfs("/t", root, size="1m", mode=0o700),
    )
    assert done.stdout.startswith("700\n")
    assert "No space left" in done.stdout
    assert done.stdout.endswith(f"{1 << 20}\n")
    assert sh("ls /t; mount | grep ' /t '", lambda root: Tmpfs("/t", root)).stdout.count("nosuid,nodev,noexec") == 1
    assert "Read-only" in sh("echo > /t/x", lambda root: Tmpfs("/t", root, readonly=True)).stderr


@both_ways
def test_an_anonymous_volume_goes_with_its_container():
    with start(["sh", "-c", "echo x > /cache/x; echo ready; read x"], *listed(spelled("/cache"))) as one:
        assert next(one.lines()) == "ready"
        (name,) = store.names()
        assert store.ANONYMOUS in store.read(name, "label")
    assert store.names() == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_volumes_below_each_kind_of_union(driver, image):
    need(driver != "aufs" or os.access("/dev/fuse", os.W_OK), "needs /dev/fuse: modprobe fuse")
    (image / "srv").mkdir()
    (image / "srv/page").write_text("from the image\n")
    union = DRIVERS[driver]([str(image), BUSYBOX])
    mounted = [from_v("pages:/srv", union.root), from_v("logs:/new/place", union.root), Tmpfs("/tmp", union.root)]
    walls = [Namespaces("pid mount uts ipc net"), union, *mounted, PivotRoot(union.root)]
    done = run(
        ["sh", "-c", "cat /srv/page; echo x > /new/place/x; mount | grep -c -e /srv -e /place -e ' /tmp '"], *walls
    )
    assert done.stdout == "from the image\n3\n"
    assert os.listdir(store.inspect("logs")["Mountpoint"]) == ["x"]


def test_volumes_do_not_appear_on_the_host(tmp_path):
    before = pathlib.Path("/proc/self/mountinfo").read_text()
    with start(["sh", "-c", "echo ready; read x"], *listed(spelled("pages:/data"), spelled(f"{tmp_path}:/b"))) as one:
        assert next(one.lines()) == "ready"
        assert pathlib.Path("/proc/self/mountinfo").read_text() == before


def test_mounts_that_the_host_makes_later_do_not_appear_in_the_container(tmp_path):
    """Docker's rprivate: in a mount namespace that stands for the host, as shared as systemd makes it."""
    (tmp_path / "src/sub").mkdir(parents=True)
    code = f"""
        walls = listed(spelled("{tmp_path}/src:/b"))
        with start(["sh", "-c", "echo ready; read x; ls /b/sub"], *walls, stdin=(p := os.pipe())[0]) as one:
            assert next(one.lines()) == "ready"
            subprocess.run(["mount", "-t", "tmpfs", "none", "{tmp_path}/src/sub"], check=True)
            open("{tmp_path}/src/sub/seen", "w").close()
            os.write(p[1], b"\\n")
            print("inside:", one.wait().stdout.split())
    """
    assert elsewhere(code, propagation="shared") == "inside: ['ready']\n"


# Read-only


@both_ways
def test_read_only_is_read_only_below_as_well(tmp_path):
    (tmp_path / "src/sub").mkdir(parents=True)
    for readonly, words in ((True, 2), (False, 0)):
        isolators = listed(lambda root: Bind(tmp_path / "src", "/b", root, readonly=readonly))  # noqa: B023
        isolators.insert(1, Memory(tmp_path / "src/sub"))
        done = run(["sh", "-c", "mount | grep -c '/b/sub '; echo > /b/x; echo > /b/sub/x"], *isolators)
        assert done.stdout == "1\n"
        assert done.stderr.count("Read-only file system") == words


@both_ways
def test_one_call_of_mount_is_not_read_only(tmp_path):
    """The mistake that this chapter avoids: the flag beside MS_BIND is ignored, silently."""
    (tmp_path / "src").mkdir()
    assert sh("echo > /b/x", lambda root: Naive(tmp_path / "src", "/b", root, readonly=True)).exit_code == 0
    assert (tmp_path / "src/x").exists()


@both_ways
def test_a_read_only_volume_can_be_written_by_another_container():
    with start(
        ["sh", "-c", "echo > /d/x; echo ready; read x; cat /d/y"],
        *listed(spelled("v1:/d:ro")),
        stdin=(p := os.pipe())[0],
    ) as reader:
        assert next(reader.lines()) == "ready"
        assert sh("echo written > /d/y", spelled("v1:/d")).exit_code == 0
        os.write(p[1], b"\n")
        result = reader.wait()
    assert result.stdout == "ready\nwritten\n"
    assert "Read-only" in result.stderr
    for end in p:
        os.close(end)


# Where it lands


@pytest.fixture
def image(tmp_path):
    """A lower directory above busybox, for hostile things."""
    (tmp_path / "image").mkdir()
    return tmp_path / "image"


@both_ways
@pytest.mark.parametrize(
    "link", ["{outside}", "../../../../../../../..{outside}", "/proc/1/root{outside}", "/proc/self/cwd{outside}"]
)
def test_a_link_in_the_image_stays_in_the_root(tmp_path, image, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (image / "data").symlink_to(link.format(outside=outside))
    inside = image / str(outside)[1:]
    inside.mkdir(parents=True)
    isolators = listed(spelled("v1:/data"), lowers=(str(image), BUSYBOX))
    isolators.insert(-1, NothingOn(outside))
    if link.startswith("/proc"):
        refused(lambda: run(["true"], *isolators), "leads nowhere")
    else:
        assert run(["sh", "-c", f"echo x > {outside}/flag"], *isolators).exit_code == 0
        assert os.listdir(store.inspect("v1")["Mountpoint"]) == ["flag"]
    assert not any(outside.iterdir())


@both_ways
def test_the_same_link_leads_a_naive_mount_outside(tmp_path, image):
    (tmp_path / "outside").mkdir()
    (image / "data").symlink_to(tmp_path / "outside")
    isolators = listed(lambda root: Naive(tmp_path, "/data", root), lowers=(str(image), BUSYBOX))
    isolators.insert(-1, NothingOn(tmp_path / "outside"))
    refused(lambda: run(["true"], *isolators), "landed outside")


@both_ways
def test_targets_that_are_refused(image):
    (image / "nowhere").symlink_to("/not/there")
    (image / "p").symlink_to("/proc")
    (image / "r").symlink_to("/")
    (image / "loop").symlink_to("loop")
    for target, words in {
        "/proc": "/proc",
        "/proc/sys": "/proc",
        "/": "root",
        "/..": "root",
        "//proc/../proc": "/proc",
        "/p": "/proc",
        "/p/sys/kernel": "/proc",
        "/r": "root",
        "/nowhere/x": "leads nowhere",
        "/nowhere": "leads nowhere",
        "/loop": "/loop",
        "/etc/passwd": "directory",
        "/etc/passwd/x": "passwd",
        "relative": "begin with /",
    }.items():
        refused(lambda target=target: sh("true", lambda root: Tmpfs(target, root), lowers=(str(image), BUSYBOX)), words)
    refused(lambda: sh("true", spelled("/etc/passwd:/bin")), "a file cannot be mounted on a directory")
    assert store.names() == []


@both_ways
def test_dots_in_a_target_are_taken_as_they_are_written(tmp_path):
    assert sh("mount | grep -c ' on /etc/x '", lambda root: Tmpfs("/data/../etc/./x/", root)).stdout == "1\n"


SWAP = """
import sys
from minidocker.syscalls import call
one, other = sys.argv[1:]
print("ready", flush=True)
while True:
    call("renameat2", -100, one, -100, other, 2)  # RENAME_EXCHANGE: at no moment is one of them missing
"""


@contextlib.contextmanager
def swapping(one, other):
    """A process of the other side that exchanges the two as fast as it can."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", SWAP, one, other], env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None
        finally:
            process.kill()


@pytest.fixture
def arena(tmp_path):
    """A root with a directory `link` and a link `other` to a directory of the host, of which the root has one, too."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "inner").mkdir(parents=True)
    (root / str(outside)[1:] / "inner").mkdir(parents=True)
    (root / "link/inner").mkdir(parents=True)
    (root / "other").symlink_to(outside)
    for directory in ("proc", "bin"):
        (root / directory).mkdir()
    shutil.copy(f"{BUSYBOX}/bin/busybox", root / "bin/sh")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/flag").touch()
    return tmp_path


@both_ways
def test_a_link_that_is_swapped_meanwhile_leads_nowhere_else(arena):
    """CVE-2021-30465, with a process that shares the root and exchanges the directory for the link."""
    root, outside, ended = arena / "root", arena / "outside", {0: 0, 1: 0}
    script = f"if [ -e {outside}/inner/flag ]; then exit 1; fi; exit 0"
    with swapping(root / "link", root / "other"):
        for number in range(2000):
            bind = Bind(arena / "src", "/link/inner", root)
            done = run(
                ["/bin/sh", "-c", script], Namespaces("mount"), bind, NothingOn(outside), PivotRoot(root, proc=False)
            )
            ended[done.exit_code] += 1
            if number >= 100 and min(ended.values()) >= 10:
                break
    assert min(ended.values()) >= 10, f"the links were not exchanged meanwhile: {ended}"


@both_ways
def test_the_same_swap_beats_a_naive_mount(arena):
    """Otherwise the test above would prove nothing."""
    root, outside = arena / "root", arena / "outside"
    with swapping(root / "link", root / "other"):
        for _ in range(2000):
            try:
                run(
                    ["/bin/sh", "-c", ":"],
                    Naive(arena / "src", "/link/inner", root),
                    NothingOn(outside),
                    PivotRoot(root, proc=False),
                )
            except ContainerError as caught:
                if "landed outside" in str(caught):
                    return
    pytest.fail("it never landed outside")


def test_lookups_in_a_tree_that_is_moved_all_the_time(arena):
    """Also through `..`, where the kernel gives up a lookup that it cannot trust, and we try again."""
    root = os.open(arena / "root", os.O_PATH)
    (arena / "root/dots").symlink_to("link/../../../../link/../link/inner")
    names = set()
    with swapping(arena / "root/link", arena / "root/other"):
        for target in ["/link/inner", "/dots"] * 3000:
            with contextlib.suppress(FileNotFoundError):
                place, _ = landing(root, target, directory=True)
                names.add(name_of(place))
                os.close(place)
    os.close(root)
    assert len(names) >= 2
    assert all(name.startswith(f"{arena}/root/") for name in names), names


def test_a_missing_target_is_made_in_the_root_while_links_are_swapped(arena):
    root = os.open(arena / "root", os.O_PATH)
    with swapping(arena / "root/link", arena / "root/other"):
        for number in range(1000):
            os.close(landing(root, f"/link/new-{number}/deep", directory=True)[0])
    os.close(root)
    made = [*arena.glob("root/*/new-*/deep"), *arena.glob(f"root{arena}/outside/new-*/deep")]
    assert len({path.parent.name for path in made}) == 1000
    assert os.listdir(arena / "outside") == ["inner"]


# The first use


@both_ways
def test_an_empty_volume_takes_content_owners_and_modes_of_the_image_once(image):
    top = image / "var/www"
    (top / "deep/er").mkdir(parents=True)
    (top / "index.html").write_text("from the image\n")
    (top / "deep/er/suid").write_bytes(os.urandom(100_000))
    os.symlink("/etc/shadow", top / "link")
    os.mkfifo(top / "pipe", 0o622)
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(top / "deep/er/suid", 33, 34)
    os.chmod(top / "deep/er/suid", 0o4755)
    os.setxattr(top / "index.html", "user.note", b"kept")
    os.chown(top, 33, 33)
    os.chmod(top, 0o2770)
    os.utime(top / "index.html", (1000, 1000))
    lowers = (str(image), BUSYBOX)
    assert sh("cat /srv/index.html; echo mine > /srv/index.html", spelled("first:/srv"), lowers=lowers).stderr != ""
    assert sh("echo mine > /var/www/mine", spelled("pages:/var/www"), lowers=lowers).exit_code == 0
    data = pathlib.Path(store.inspect("pages")["Mountpoint"])
    assert (data / "index.html").read_text() == "from the image\n"
    assert (data / "deep/er/suid").read_bytes() == (top / "deep/er/suid").read_bytes()
    for name in (".", "deep", "deep/er/suid", "index.html", "pipe", "null", "link"):
        ours, theirs = os.lstat(data / name), os.lstat(top / name)
        assert (ours.st_mode, ours.st_uid, ours.st_gid, ours.st_rdev) == (
            theirs.st_mode,
            theirs.st_uid,
            theirs.st_gid,
            theirs.st_rdev,
        )
    assert os.readlink(data / "link") == "/etc/shadow"
    assert os.getxattr(data / "index.html", "user.note") == b"kept"
    assert (data / "index.html").stat().st_mtime == 1000
    # and never again
    (data / "index.html").unlink()
    assert sh("ls /var/www", spelled("pages:/var/www"), lowers=lowers).stdout == "deep\nlink\nmine\nnull\npipe\n"
    assert sh("ls /var/www", spelled("empty:/var/www:nocopy"), lowers=lowers).stdout == ""
    assert sh("ls /var/www", spelled("ro-too:/var/www:ro"), lowers=lowers).stdout.startswith("deep\n")


def test_an_image_may_nest_deeper_than_any_path(image):
    """A chain of directories whose path is longer than PATH_MAX: it is walked by descriptors, and copied."""
    (image / "data/file").mkdir(parents=True)
    at = os.open(image / "data", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    assert sh("ls /data", spelled("deep:/data"), lowers=(str(image), BUSYBOX)).stdout == "deep\nfile\n"
    top = os.open(store.inspect("deep")["Mountpoint"], os.O_RDONLY)
    assert sum(1 for _ in trees.walk(top)) == 1502
    os.close(top)
    store.remove("deep")
    trees.remove(image / "data/deep")


def test_many_first_users_at_once_see_all_or_wait(image):
    for number in range(200):
        (image / f"data/{number}").mkdir(parents=True)
        (image / f"data/{number}/file").write_text("x" * number)
    seen = []
    go = lambda: seen.append(sh("ls /data | wc -l", spelled("shared:/data"), lowers=(str(image), BUSYBOX)).stdout)  # noqa: E731
    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["200\n"] * 8


def test_a_copy_that_was_killed_is_made_again(image, home):
    for number in range(2000):
        (image / f"data/{number}").mkdir(parents=True)
    store.create("big")
    data = pathlib.Path(store.inspect("big")["Mountpoint"])
    code = f'sh("true", spelled("big:/data"), lowers=("{image}", BUSYBOX))'
    with subprocess.Popen(**program(code)) as process:
        assert until(lambda: len(os.listdir(data)) > 10)
        process.kill()
    assert until(lambda: store.users("big") == [])
    need(len(os.listdir(data)) < 2000, "this machine copies faster than it kills")
    (data / "half").touch()
    assert sh("ls /data | wc -l", spelled("big:/data"), lowers=(str(image), BUSYBOX)).stdout == "2000\n"
    assert not (home / "volumes/big/filling").exists()


def test_a_copy_does_not_follow_links_that_are_swapped_in_the_image(arena):
    """A process that shares the root wants the content of a directory of the host in the volume."""
    secret = arena / "outside/inner/secret"
    secret.touch()
    (arena / "root/link/inner/harmless").touch()
    (arena / "root/data").mkdir()
    os.rename(arena / "root/link", arena / "root/data/link")
    os.rename(arena / "root/other", arena / "root/data/other")
    kinds = set()
    with swapping(arena / "root/data/link", arena / "root/data/other"):
        for number in range(100):
            volume = Named(f"v{number}", "/data", arena / "root")
            with contextlib.suppress(ContainerError):  # it saw that something was exchanged: that is fine, too
                run(["/bin/sh", "-c", ":"], volume, PivotRoot(arena / "root", proc=False))
            data = pathlib.Path(store.inspect(f"v{number}")["Mountpoint"])
            assert not [
                path for path in data.rglob("secret") if not any(parent.is_symlink() for parent in path.parents)
            ]
            if os.path.lexists(data / "link"):
                kinds.add((data / "link").is_symlink())
            store.remove(f"v{number}")
    assert kinds == {True, False}


# The store


def test_create_list_inspect_remove():
    assert store.create("pages") == "pages"
    assert store.create("pages") == "pages"
    info = store.inspect("pages")
    assert info["Labels"] == {}
    assert info["Options"] == {}
    assert [info["Driver"], info["Scope"], info["Name"]] == ["local", "local", "pages"]
    assert os.path.isdir(info["Mountpoint"])
    assert time.strptime(info["CreatedAt"], "%Y-%m-%dT%H:%M:%SZ")
    assert len(name := store.create()) == 64
    assert store.names() == sorted(["pages", name])
    assert store.prune() == [name]
    store.remove("pages")
    assert store.names() == []
    refused(lambda: store.remove("pages"), "no such volume")
    refused(lambda: store.inspect("pages"), "no such volume")


@pytest.mark.parametrize("name", ["", "x", "../x", "a/b", ".hidden", "-dash", "_under", "a b", "a\n", "ä1", "a" + "\0"])
def test_names_that_are_none(name):
    refused(lambda: store.directory(name), "name")


def test_a_volume_in_use_is_not_removed():
    with start(["sh", "-c", "echo ready; read x"], *listed(spelled("pages:/data"))) as one:
        assert next(one.lines()) == "ready"
        refused(lambda: store.remove("pages"), "in use", str(os.getpid()))
        assert store.prune(everything=True) == []
    assert store.prune(everything=True) == ["pages"]


def test_a_killed_host_side_holds_no_volume(home):
    code = 'sh("echo ready; sleep 1000", spelled("pages:/data"), spelled("/cache"), stdout=1)'
    with subprocess.Popen(**program(code), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert store.users("pages") == [process.pid]
        process.kill()
    (anonymous,) = {*store.names()} - {"pages"}
    assert until(lambda: store.prune() == [anonymous])
    store.remove("pages")


def test_users_and_removers_at_once_agree():
    """Who gets the volume can write to it and read it again, also if somebody removes it all the time."""
    stop, wrong = threading.Event(), []

    def remove():
        while not stop.is_set():
            with contextlib.suppress(ContainerError):
                store.remove("fought")

    def use():
        for _ in range(300):
            lock = store.use("fought")
            try:
                path = pathlib.Path(store.inspect("fought")["Mountpoint"], str(threading.get_ident()))
                path.write_text("x")
                assert path.read_text() == "x"
            except Exception as problem:
                wrong.append(problem)
            os.close(lock)

    threads = [threading.Thread(target=use) for _ in range(3)]
    remover = threading.Thread(target=remove)
    for thread in [*threads, remover]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    remover.join()
    assert wrong == []
    with contextlib.suppress(ContainerError):
        store.remove("fought")
    assert os.listdir(store.parent()) == []


def test_a_volume_that_is_removed_while_it_is_found(monkeypatch):
    """It is there when ours is to get its name, and gone when we look: then it is made."""
    store.create("pages")
    remove = trees.remove

    def remove_both(path):
        shutil.rmtree(store.directory("pages"), ignore_errors=True)
        return remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(trees, "remove", remove_both)
        assert [store.create("pages")] == store.names() == ["pages"]


def test_prune_removes_what_was_being_made_or_removed(home):
    for name in (".new-dead", ".gone-dead"):
        (home / "volumes" / name / "_data").mkdir(parents=True)
    (home / "volumes/.new-alive").mkdir()
    lock = hold(str(home / "volumes/.new-alive"), exclusive=False)
    assert store.prune() == []
    assert os.listdir(home / "volumes") == [".new-alive"]
    os.close(lock)
    store.prune()
    assert os.listdir(home / "volumes") == []


def test_a_directory_that_is_a_mount_point_survives_removal(tmp_path):
    """If somebody mounted something in a volume by hand, its content must not be deleted through it."""
    code = f"""
        store.create("pages")
        place = store.inspect("pages")["Mountpoint"] + "/sub"
        os.makedirs(place)
        os.makedirs("{tmp_path}/precious/file")
        subprocess.run(["mount", "--bind", "{tmp_path}/precious", place], check=True)
        try:
            store.remove("pages")
        except ContainerError as error:
            print(error)
    """
    assert "/_data/sub: something is mounted on it" in elsewhere(code)
    assert (tmp_path / "precious/file").is_dir()
    store.prune()


# The driver's options


@both_ways
def test_a_volume_with_options_is_one_file_system_for_all_its_users():
    store.create("mem", {"type": "tmpfs", "device": "tmpfs", "o": "size=2m,uid=7"})
    with start(
        ["sh", "-c", "stat -c %u /m; echo shared > /m/x; read x; cat /m/x"],
        *listed(spelled("mem:/m")),
        stdin=(p := os.pipe())[0],
    ) as one:
        assert next(one.lines()) == "7"
        assert until(lambda: sh("cat /m/x; echo changed > /m/x", spelled("mem:/m")).stdout == "shared\n")
        assert os.listdir(store.inspect("mem")["Mountpoint"]) == [], "mounted on the host"
        refused(lambda: store.remove("mem"), "in use")
        assert keeper_of("mem")
        os.write(p[1], b"\n")
        assert one.wait().stdout == "7\nchanged\n"
    for end in p:
        os.close(end)
    assert until(lambda: not keeper_of("mem"))
    assert sh("ls /m", spelled("mem:/m")).stdout == "", "it ended with its last user"
    store.remove("mem")  # which waits for the keeper to go


def test_the_keeper_goes_when_its_last_user_is_killed():
    store.create("mem", {"type": "tmpfs", "device": "tmpfs"})
    code = 'sh("echo ready; sleep 1000", spelled("mem:/data"), stdout=1)'
    with subprocess.Popen(**program(code), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert keeper_of("mem")
        process.kill()
    assert until(lambda: not keeper_of("mem"))
    assert until(lambda: store.prune(everything=True) == ["mem"])  # when it has let go of its directory


def test_many_first_users_share_one_keeper():
    store.create("mem", {"type": "tmpfs", "device": "tmpfs"})
    lock, seen = store.use("mem"), []
    go = lambda: seen.append(sh("echo x >> /m/x; stat -c %d /m", spelled("mem:/m")).stdout)  # noqa: E731
    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*seen}) == 1
    assert sh("wc -l < /m/x", spelled("mem:/m")).stdout == "6\n"
    os.close(lock)


def test_again_and_again_nothing_is_left():
    """Each container is the last user, and the next one comes while the keeper is about to leave."""
    store.create("mem", {"type": "tmpfs", "device": "tmpfs"})
    for _ in range(30):
        assert sh("mount | grep -c ' /m '", spelled("mem:/m")).stdout == "1\n"


def test_a_bind_of_a_directory_as_a_volume(tmp_path):
    (tmp_path / "shared").mkdir()
    store.create("bound", {"type": "none", "device": str(tmp_path / "shared"), "o": "bind"})
    sh("echo x > /b/x", spelled("bound:/b"))
    assert (tmp_path / "shared/x").read_text() == "x\n"


def test_options_that_are_refused():
    refused(lambda: store.create("v1", {"size": "1m", "type": "tmpfs", "device": "x"}), "size", "type o device")
    refused(lambda: store.create("v1", {"type": "tmpfs"}), "device")
    refused(lambda: store.create("v1", {"o": "ro", "device": "x"}), "type")
    refused(lambda: store.create("v1", {"type": "a\nb", "device": "x"}), "one line")
    assert store.names() == []
    store.create("v1", {"type": "tmpfs", "device": "tmpfs"})
    refused(lambda: store.create("v1", {"type": "tmpfs", "device": "tmpfs", "o": "ro"}), "other options")
    store.create("v2", {"type": "ext4", "device": "/dev/not-there"})
    store.create("v3", {"type": "no-such-fs", "device": "x"})
    refused(lambda: sh("true", spelled("v2:/d")), "v2", "/dev/not-there")
    refused(lambda: sh("true", spelled("v3:/d")), "no-such-fs")
    refused(lambda: sh("true", spelled("v2:/d")), "v2", "/dev/not-there")
    assert store.prune(everything=True) == ["v1", "v2", "v3"]


def test_a_mount_that_hangs_is_given_up(tmp_path):
    """mount(8) runs /sbin/mount.TYPE; here one that never answers, in a mount namespace of its own."""
    helper = shutil.which("mount.fuse3") or "/usr/sbin/mount.fuse3"
    need(os.path.exists(helper), "needs mount.fuse3: apt-get install fuse3")
    (tmp_path / "hang").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "hang").chmod(0o755)
    code = f"""
        from minidocker.volumes import store
        subprocess.run(["mount", "--bind", "{tmp_path}/hang", "{os.path.realpath(helper)}"], check=True)
        store.ANSWER = 1
        store.create("slow", dict(type="fuse3.x", device="x"))
        refused(lambda: sh("true", spelled("slow:/d")), "no answer for 1 s")
    """
    elsewhere(code)


WAITING = """
    import signal, threading
    subprocess.run(["mount", "--bind", "{hang}", "{helper}"], check=True)
    store.create("slow", dict(type="fuse3.x", device="x"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=lambda: print(*waiting(), flush=True)).start()
    sh("true", spelled("slow:/d"))
"""


def waiting():
    """(what each blocks, what each ignores) of the processes of the helper, when it waits."""
    assert until(lambda: pids_of("keeper-waits")), "the helper of mount(8) does not run"
    for pid in [*pids_of("keeper-waits"), *pids_of("mount -t fuse3.x")]:
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        yield int(status["SigBlk"], 16) & 1 << 14, int(status["SigIgn"], 16) & 1


def pids_of(text):
    """The processes with this in their command line."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_a_mount_that_waits_ends_with_who_waits_for_it(tmp_path, number):
    """The keeper and its helpers inherit no blocked and no ignored signal, and die with the last user."""
    helper = shutil.which("mount.fuse3") or "/usr/sbin/mount.fuse3"
    need(os.path.exists(helper), "needs mount.fuse3: apt-get install fuse3")
    (tmp_path / "hang").write_text("#!/bin/sh\nsh -c 'sleep 1000; : keeper-waits'\n")
    (tmp_path / "hang").chmod(0o755)
    code = WAITING.format(hang=tmp_path / "hang", helper=os.path.realpath(helper))
    with subprocess.Popen(**program(code, "unshare", "--mount"), stdout=subprocess.PIPE) as process:
        try:
            shown = process.stdout.readline().decode()
            assert shown.count("(0, 0)") >= 2 and not shown.replace("(0, 0)", "").strip(), shown
            assert keeper_of("slow")
            process.send_signal(number)
        except BaseException:
            process.kill()
            raise
    assert until(lambda: not keeper_of("slow") and not pids_of("keeper-waits"))
    store.remove("slow")


def test_one_that_comes_while_another_waits_waits_too(tmp_path):
    """The first is killed. The second does not take what has not been mounted for a mount."""
    helper = shutil.which("mount.fuse3") or "/usr/sbin/mount.fuse3"
    need(os.path.exists(helper), "needs mount.fuse3: apt-get install fuse3")
    (tmp_path / "slow").write_text(
        f"#!/bin/sh\nwhile ! [ -e {tmp_path}/go ]; do sleep 0.1; done\nexec mount -i -t tmpfs x $2\n"
    )
    (tmp_path / "slow").chmod(0o755)
    code = f"""
        import signal, threading
        subprocess.run(["mount", "--bind", "{tmp_path}/slow", "{os.path.realpath(helper)}"], check=True)
        store.create("slow", dict(type="fuse3.x", device="x"))
        first = os.fork()
        if not first:
            sh("true", spelled("slow:/d"))
            os._exit(0)
        assert until(lambda: keeper_of("slow"))
        threading.Timer(0.5, os.kill, [first, signal.SIGKILL]).start()
        threading.Timer(1, open, ["{tmp_path}/go", "w"]).start()
        print(sh("stat -f -c %T /d", spelled("slow:/d")).stdout)
        os.waitpid(first, 0)
    """
    assert elsewhere(code) == "tmpfs\n\n"


# What resists


@contextlib.contextmanager
def immutable(path):
    """A file that nobody can remove meanwhile."""
    done = subprocess.run(["chattr", "+i", path], capture_output=True, text=True)
    need(done.returncode == 0, f"needs a file system with chattr +i: {done.stderr}")
    try:
        yield
    finally:
        for found in pathlib.Path(store.parent()).rglob(pathlib.Path(path).name):
            subprocess.run(["chattr", "-i", found], check=True)


def test_what_cannot_be_removed_is_no_failure_of_the_container(home, capsys):
    """An immutable file in a volume without a name: exit code and output are the program's, the rest goes."""
    with start(["sh", "-c", "echo x > /d/f; echo ready; read x; exit 7"], *listed(spelled("/d")), stdin=0) as one:
        assert next(one.lines()) == "ready"
        (name,) = store.names()
        path = f"{store.inspect(name)['Mountpoint']}/f"
        stuck = immutable(path)
        stuck.__enter__()
        one.kill()
    try:
        assert "Operation not permitted" in capsys.readouterr().err
        assert store.names() == []
        others = [store.create() for _ in range(3)]
        with pytest.raises(trees.NotRemoved) as left:
            store.prune()
        assert sorted(left.value.removed) == sorted(others)
        assert len(left.value.failures) == 1 and "not removed: not" not in str(left.value)
    finally:
        stuck.__exit__(None, None, None)
    assert store.prune() == [] and os.listdir(home / "volumes") == []


# Spellings


def told(volume):
    """What it is, for comparison."""
    fields = {key: value for key, value in vars(volume).items() if value and not key.startswith("_")}
    return type(volume).__name__, {
        key: fields[key] for key in sorted(fields) if key not in ("root", "directory", "flags")
    }


def test_spellings_of_v(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, kind, fields in [
        ("/data", "Named", {"target": "/data"}),
        ("pages:/srv", "Named", {"name": "pages", "target": "/srv"}),
        ("pages:/srv/:ro", "Named", {"name": "pages", "target": "/srv", "readonly": True}),
        ("pages:/srv:nocopy,ro", "Named", {"name": "pages", "nocopy": True, "target": "/srv", "readonly": True}),
        ("/a:/b:rw", "Bind", {"create": True, "source": "/a", "target": "/b"}),
        ("/a:/b:Z,ro", "Bind", {"create": True, "readonly": True, "source": "/a", "target": "/b"}),
        ("pages:/srv:z,private,cached", "Named", {"name": "pages", "target": "/srv"}),
        ("./a:/b", "Bind", {"create": True, "source": f"{tmp_path}/a", "target": "/b"}),
    ]:
        assert told(from_v(text, "/root")) == (kind, dict(sorted(fields.items())))
    for text, words in {
        "": "begin with /",
        "a:": "begin with /",
        ":/b": "part",
        "a:/b:ro:rw": "part",
        "a:b": "begin with /",
        "relative/path:/b": "absolute path",
        "pages:/b:rx": "'rx'",
        "pages:/b:z,Z": "exclude",
        "pages:/b:rshared": "'rshared'",
        "pages:/b:ro,": "''",
        "../x:b": "begin with /",
        "pages:/b:ro,rw": "exclude",
        "/a:/b:nocopy": "nocopy",
        "pages:/proc": "/proc",
        "pages:/": "root",
    }.items():
        refused(lambda text=text: from_v(text, "/root"), words)
    assert not (tmp_path / "a").exists()


def test_v_makes_a_missing_directory_and_mount_does_not(tmp_path):
    assert sh("echo x > /b/x", spelled(f"{tmp_path}/new/dir:/b")).exit_code == 0
    assert (tmp_path / "new/dir/x").exists()
    refused(
        lambda: sh("true", lambda root: from_mount(f"type=bind,src={tmp_path}/other,dst=/b", root)), "make it first"
    )
    made = from_mount(f"type=bind,src={tmp_path}/other,dst=/b,bind-create-src", "/root")
    assert made.create
    (tmp_path / "dangling").symlink_to("/not/there")
    refused(lambda: sh("true", spelled(f"{tmp_path}/dangling:/b")), "dangling")
    refused(lambda: sh("true", spelled("/etc/passwd/x:/b")), "/etc/passwd/x")


def test_spellings_of_mount(tmp_path):
    for text, kind, fields in [
        ("target=/t", "Named", {"target": "/t"}),
        ("type=volume,source=pages,dst=/t,readonly", "Named", {"name": "pages", "readonly": True, "target": "/t"}),
        ("TYPE=volume,src=pages,destination=/t,ro=false", "Named", {"name": "pages", "target": "/t"}),
        (
            "src=vv,dst=/t,volume-nocopy=true,volume-driver=local",
            "Named",
            {"name": "vv", "nocopy": True, "target": "/t"},
        ),
        (
            'src=vv,dst=/t,volume-opt=type=tmpfs,"volume-opt=o=size=1m,uid=5",volume-opt=device=tmpfs',
            "Named",
            {
                "name": "vv",
                "options": {"type": "tmpfs", "o": "size=1m,uid=5", "device": "tmpfs"},
                "target": "/t",
            },
        ),
        (
            f"type=bind,source={tmp_path},target=/t,readonly=1",
            "Bind",
            {"readonly": True, "source": str(tmp_path), "target": "/t"},
        ),
        (
            f"type=bind,source={tmp_path},target=/t,bind-propagation=rprivate,consistency=cached",
            "Bind",
            {"source": str(tmp_path), "target": "/t"},
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700",
            "Tmpfs",
            {"options": f"mode=700,size={1 << 20}", "target": "/t"},
        ),
    ]:
        assert told(from_mount(text, "/root")) == (kind, fields)
    for text, words in {
        "": "target=PATH",
        "type=npipe,target=/t": "npipe",
        "type=bind,target=/t": "source=PATH",
        "type=bind,source=rel,target=/t": "begins with /",
        "type=bind,source=/,target=t": "begin with /",
        "type=volume,source=/a,target=/t": "absolute path",
        "source=pages": "target=PATH",
        "target": "value",
        f"type=bind,source={tmp_path},target=/t,bind-propagation=rshared": "rprivate",
        "type=bind,source=/,target=/t,volume-opt=type=x": "volume-opt",
        "target=/t,colour=red": "colour",
        "target=/t,readonly=maybe": "maybe",
        "type=bind,source=/,target=/t,tmpfs-size=1": "tmpfs-size",
        "type=tmpfs,source=x,target=/t": "no source",
        "type=tmpfs,target=/t,tmpfs-mode=999": "999",
        "type=tmpfs,target=/t,tmpfs-size=lots": "lots",
        "src=vv,target=/t,volume-driver=nfs": "nfs",
        'src=vv,"target=/t': "quote",
    }.items():
        refused(lambda text=text: from_mount(text, "/root"), words)


def test_spellings_of_tmpfs():
    assert told(from_tmpfs("/t", "/root")) == ("Tmpfs", {"options": "mode=1777", "target": "/t"})
    made = from_tmpfs("/t:rw,exec,size=64m,mode=0755,uid=5", "/root")
    assert told(made)[1]["options"] == f"mode=755,size={64 << 20},uid=5"
    assert sh("echo 'echo ran' > /t/x; chmod +x /t/x; /t/x", lambda root: from_tmpfs("/t:exec", root)).stdout == "ran\n"
    assert sh("cp /bin/busybox /t/x; /t/x true", lambda root: from_tmpfs("/t", root)).exit_code == 126
    assert from_tmpfs("/t:ro", "/root").readonly
    for text, words in {
        "t": "begin with /",
        "/t:colour": "colour",
        "/t:size=x": "'x'",
        "/t:mode=8": "'8'",
        "/t:": "",
    }.items():
        if text != "/t:":
            refused(lambda text=text: from_tmpfs(text, "/root"), words)


def test_several_volumes_are_mounted_parents_first():
    first, second = Tmpfs("/a/b", "/r"), Tmpfs("/a", "/r")
    assert ordered([first, second]) == [second, first]
    refused(lambda: ordered([first, Tmpfs("/a/b/", "/r")]), "/a/b")
    assert (
        sh("echo x > /a/b/c; ls /a; ls /a/b", lambda root: Tmpfs("/a", root), spelled("inner:/a/b")).stdout == "b\nc\n"
    )


# Attacks from inside


@both_ways
def test_devices_on_a_volume_work_as_with_docker():
    """A volume alone is not nodev: what opens in a container of an image is for chapter 9's `NoDevices` to say."""
    assert (
        sh("mknod /d/null c 1 3; echo x > /d/null; stat -c %F /d/null", spelled("dev:/d")).stdout
        == "character special file\n"
    )


@both_ways
def test_a_container_cannot_remount_nor_leave_a_read_only_volume(tmp_path):
    """In a user namespace of its own, where its root has no rights over mounts that came from outside."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src").chmod(0o777)
    union = Union([BUSYBOX])
    isolators = [
        Namespaces("pid mount uts ipc net"),
        union,
        Bind(tmp_path / "src", "/b", union.root, readonly=True),
        PivotRoot(union.root),
    ]
    script = "mount -o remount,bind,rw /b; umount /b; echo x > /b/x; ls /b/.. | grep -c outside"
    done = run(["sh", "-c", f"unshare -U -m -r sh -c '{script}'"], *isolators)
    assert not (tmp_path / "src/x").exists(), done


@both_ways
def test_a_full_volume_is_an_error_inside_and_no_more(tmp_path):
    store.create("small", {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    lock = store.use("small")
    done = sh("dd if=/dev/zero of=/s/x bs=64k 2>&1; echo more > /s/y; echo $?", spelled("small:/s"))
    assert "No space left on device" in done.stdout
    assert sh("rm /s/x; echo fits > /s/y; cat /s/y", spelled("small:/s")).stdout == "fits\n"
    os.close(lock)


def test_an_anonymous_volume_that_somebody_found_stays_for_prune():
    with start(["sh", "-c", "echo ready; read x"], *listed(spelled("/cache"))) as one:
        assert next(one.lines()) == "ready"
        lock = store.use(*store.names())
    (name,) = store.names()
    assert store.prune() == []
    os.close(lock)
    assert store.prune() == [name]


def test_a_start_with_a_volume_imports_nothing_slow():
    code = "import sys; sys.path.insert(0, sys.argv[1]); from minidocker.volumes import spelling; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(REPO)], capture_output=True, text=True, check=True
    )
    assert not {"json", "re", "subprocess", "shutil", "typing", "csv", "tempfile"} & {*done.stdout.split()}


# Faults

BUSY = """
    import threading
    if {threads}:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with contextlib.suppress(ContainerError):
        store.create("mem", dict(type="tmpfs", device="tmpfs"))
    print("ready", flush=True)
    while True:
        sh("echo x > /m/x", spelled("mem:/m"), spelled("pages:/data"), spelled("/cache"), lowers=("{image}", BUSYBOX))
"""


@pytest.mark.parametrize("threads", [0, 1])
def test_a_host_side_that_is_killed_at_any_moment_leaves_what_prune_finds(home, image, threads):
    for number in range(20):
        (image / f"data/{number}").mkdir(parents=True)
    for moment in range(15):
        with subprocess.Popen(**program(BUSY.format(threads=threads, image=image)), stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.013 * moment)
            process.kill()
        assert until(lambda: not keeper_of("mem")), "its keeper lives"
        store.prune()
        assert {*os.listdir(home / "volumes")} <= {"mem", "pages"}
    assert sh("ls /data | wc -l", spelled("pages:/data"), lowers=(str(image), BUSYBOX)).stdout == "20\n"
    store.remove("mem")
    store.remove("pages")

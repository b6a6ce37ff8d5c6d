"""Root in a container may make the node of any device of the machine. Only the container's own devices open."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import HOME, REPO
from tests.helpers.images import add_image, minidocker, new_store

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="mknod(2) of a device is root's"),
]

REFUSED = ("Permission denied", "Operation not permitted")


def disk():
    """A disk of this machine. It is opened to read, and not read."""
    for name in sorted(os.listdir("/sys/block"), key=lambda name: name.startswith("loop")):
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue  # a drive without a disk
        return f"/dev/{name}"
    return pytest.skip("no disk can be opened")


@pytest.fixture(params=["block", "character"])
def device(request):
    """(path on the host, the words of mknod). To open /dev/fuse changes nothing, either."""
    path = disk() if request.param == "block" else "/dev/fuse"
    number = os.stat(path).st_rdev
    return path, f"{request.param[0]} {os.major(number)} {os.minor(number)}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    store = new_store(home)
    root = tmp_path_factory.mktemp("image") / "root"
    subprocess.run(["cp", "-a", HOME / "roots/busybox", root], check=True)
    for name, path in {"block": disk(), "character": "/dev/fuse"}.items():
        kind = stat.S_IFBLK if name == "block" else stat.S_IFCHR
        os.mknod(root / name, kind | 0o666, os.stat(path).st_rdev)
    add_image(store, "nodes", root)
    return home


PLACES = ("/", "/tmp/", "/dev/", "/dev/shm/", "/tmpfs/", "/volume/", "/bind/", "/bind/below/", "/proc/self/root/root/")
SCRIPT = """
device=$1; shift
for place; do
    test -e ${place}node || mknod ${place}node $device || exit 1
    sh -c ': <$1' sh ${place}node && echo $place  # in a shell of its own, which this ends
done
true
"""


def opened(home, words, *options, places=PLACES, mounts=("-v", "volume:/volume", "--tmpfs", "/tmpfs:dev")):
    """The places in which a node of that device opens, and the errors of the others."""
    argv = ("run", "--rm", *options, *mounts, "busybox", "sh", "-c", SCRIPT, "sh", words, *places)
    shown = minidocker(home, *argv)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.split(), [line for line in shown.stderr.splitlines() if line.startswith("sh: ")]


@pytest.fixture
def bind(tmp_path):
    """A directory of the host, and below it a file system of its own."""
    (tmp_path / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "below"], check=True)
    yield ("-v", f"{tmp_path}:/bind")
    subprocess.run(["umount", tmp_path / "below"], check=True)


@pytest.mark.parametrize("options", [(), ("--init",), ("--network", "host"), ("--cap-add", "ALL")])
def test_no_node_that_root_makes_opens(home, bind, device, options):
    found, errors = opened(home, device[1], *options, *bind)
    assert found == []
    assert len(errors) == len(PLACES)
    assert all(error.endswith(REFUSED) for error in errors), errors
    minidocker(home, "volume", "rm", "volume")


def test_with_privileged_each_opens(home, bind, device):
    """Or the tests here would prove nothing. /dev/shm has no devices in Docker, either."""
    found, errors = opened(home, device[1], "--privileged", *bind)
    assert found == [place for place in PLACES if place != "/dev/shm/"], errors
    minidocker(home, "volume", "rm", "volume")


@pytest.mark.parametrize("kind", ["block", "character"])
def test_no_node_of_an_image_opens(home, kind):
    open_it = ("nodes", "sh", "-c", f": </{kind}")
    refused = minidocker(home, "run", *open_it)
    assert (refused.returncode != 0, refused.stderr.rstrip().endswith(REFUSED)) == (True, True)
    assert minidocker(home, "run", "--privileged", *open_it).returncode == 0


@pytest.mark.parametrize("target", ["/dev/it", "/it", "/dev/null", "/dev/console", "/dev/pts/9"])
def test_a_device_of_the_host_does_not_open_as_a_volume(home, device, target):
    if target == "/dev/pts/9":  # where nothing can be made, nothing can be mounted
        assert minidocker(home, "run", "-v", f"{device[0]}:{target}", "busybox", "true").returncode == 125
        return
    open_it = ("-v", f"{device[0]}:{target}", "busybox", "sh", "-c", f": <{target}")
    refused = minidocker(home, "run", *open_it)
    assert (refused.returncode != 0, refused.stderr.rstrip().endswith(REFUSED)) == (True, True)
    assert minidocker(home, "run", "--privileged", *open_it).returncode == 0


@pytest.mark.parametrize("place", ["/dev/", "/dev/pts/"])
def test_what_covers_the_containers_own_devices_has_no_more_rights(home, device, place):
    for mounts in (["--tmpfs", f"{place}:dev"], ["-v", f"volume:{place}"]):
        assert opened(home, device[1], places=[place], mounts=mounts)[0] == []
        assert opened(home, device[1], "--privileged", places=[place], mounts=mounts)[0] == [place]
        minidocker(home, "volume", "rm", "volume")


def test_no_node_is_made_among_the_terminals(home, device):
    shown = minidocker(home, "run", "--privileged", "busybox", "mknod", "/dev/pts/node", *device[1].split())
    assert shown.returncode != 0


CHANGES = ("mount -o remount,bind,dev /", "mount -o remount,dev /", "umount /dev/null")


@pytest.mark.parametrize("alone", ["", "unshare -Urm"])
def test_the_wall_cannot_be_taken_down(home, device, alone):
    """Not even in a user namespace of one's own, where one has all rights: the kernel locks what it inherits."""
    changes = "; ".join(f"{change} 2>/dev/null && echo {change.split()[0]}" for change in CHANGES)
    script = f"mknod -m 666 /node {device[1]}; {alone} sh -c '{changes}; :</node'"
    shown = minidocker(home, "run", "busybox", "sh", "-c", script)
    assert (shown.stdout, shown.returncode != 0) == ("", True)
    assert shown.stderr.rstrip().endswith(REFUSED), shown.stderr


def test_a_step_of_a_build_may_make_a_node_and_not_open_it(home, device, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN mknod /node {device[1]}\nRUN ! sh -c ': </node'\n")
    built = minidocker(home, "build", "-t", "built", tmp_path)
    assert built.returncode == 0, built.stderr
    assert minidocker(home, "run", "--privileged", "built", "sh", "-c", ":</node").returncode == 0


# What is the container's own

OWN = """
set -e
echo x >/dev/null; head -c 2 /dev/zero /dev/random /dev/urandom /dev/full | wc -c; : <>/dev/ptmx
! echo x 2>/dev/null >/dev/full; cat /proc/keys; echo done
"""


@pytest.mark.parametrize("options", [(), ("--init",), ("-u", "nobody"), ("--cap-drop", "ALL"), ("--privileged",)])
def test_the_containers_own_devices_work(home, options):
    shown = minidocker(home, "run", *options, "busybox", "sh", "-c", OWN.replace("cat /proc/keys", "cat /dev/null"))
    assert (shown.returncode, shown.stdout.split()[-1]) == (0, "done"), shown.stderr
    if "--privileged" not in options:
        assert minidocker(home, "run", *options, "busybox", "cat", "/proc/keys", "/proc/timer_list").returncode == 0


@pytest.mark.parametrize("option", ["-t", "--init"])
def test_a_terminal_and_the_console_work(home, option):
    script = "echo one >/dev/tty; echo two >/dev/console; echo three >$(tty); : <>/dev/ptmx && echo four"
    run = f"{sys.executable} -m minidocker run --network=none -t {option} busybox sh -c '{script}'"
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    words = ["script", "-qec", run, "/dev/null"]
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert shown.stdout.split() == ["one", "two", "three", "four"]


@pytest.mark.parametrize("target", ["/etc/motd", "/with space", "/dev/other"])
def test_one_of_the_own_devices_may_be_a_volume(home, target):
    """-v /dev/null:/etc/... is how one hides a file."""
    shown = minidocker(home, "run", "-v", f"/dev/null:{target}", "busybox", "cat", target)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_the_mounts_of_the_host_are_as_before(home, bind):
    def options():
        return [line.split()[5] for line in Path("/proc/self/mountinfo").read_text().splitlines()]

    before = options()
    minidocker(home, "run", *bind, "busybox", "true")
    assert options() == before

"""Chapter 9, --userns remap: root inside is nobody outside, and files belong to those inside all the same."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from minidocker.images.container import container, ready
from minidocker.namespaces import Namespaces
from minidocker.process import run
from minidocker.security.users import remap
from minidocker.volumes import store
from tests.helpers import HOME, REPO, until
from tests.helpers.images import add_image, minidocker

pytestmark = [
    pytest.mark.chapter(9),
    pytest.mark.skipif(os.geteuid() != 0, reason="root gives its rights away here, and has to have them"),
]
FIRST = 0x7FFF0000
WWW_DATA = 33


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store with busybox and Debian."""
    from minidocker.images.store import Store

    home = tmp_path_factory.mktemp("home")
    for name in ("busybox", "debian"):
        add_image(Store(str(home)), name, HOME / "roots" / name, Cmd=["sh"])
    return home


@pytest.fixture
def inside(home):
    """Run a shell's script in a remapped container: CompletedProcess."""

    def sh(script, *options, image="busybox"):
        return minidocker(home, "run", "--rm", "--userns", "remap", *options, image, "sh", "-c", script)

    return sh


def test_root_inside_is_nobody_outside(home, inside):
    done = inside("id -u; cat /proc/self/uid_map; stat -c %u /bin/busybox; touch /new; stat -c %u:%g /new")
    assert done.stdout.split() == ["0", "0", str(FIRST), "65536", "0", "0:0"], done.stderr
    argv = [sys.executable, "-m", "minidocker", "run", "--userns=remap", "--init", "busybox", "sleep", "77"]
    env = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    with subprocess.Popen(argv, env=env) as process:
        command = ["ps", "-o", "args=", "-u", str(FIRST)]
        seen = until(lambda: b"sleep 77" in subprocess.run(command, capture_output=True).stdout)
        process.send_signal(signal.SIGTERM)
    assert seen and process.returncode == 128 + signal.SIGTERM


def test_the_other_users_of_an_image(inside):
    script = "chown www-data /srv; stat -c %U /srv; su -s /bin/sh www-data -c 'id -un'; stat -c %g /etc/shadow"
    done = inside(f"{script}; rm -r /etc/apt; mkdir /etc/apt; ls -A /etc/apt; echo text > /dev/stdout", image="debian")
    assert done.stdout.split() == ["www-data", "www-data", "42", "text"], done.stderr
    made = inside("id -un; stat -c %U .", "-u", "www-data", "-w", "/new/place", image="debian")
    assert made.stdout.split() == ["www-data", "root"], made.stderr


def test_the_walls_stay(inside):
    done = inside("grep -E 'Cap[EB]|Seccomp:' /proc/self/status; echo > /proc/sys/vm/swappiness; mount -t tmpfs t /tmp")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["00000000a80425fb"] * 2 + ["2"]
    assert "Read-only" in done.stderr and "mount" in done.stderr


def test_not_even_the_right_to_mount_uncovers_anything(inside):
    """The mounts are those of root outside, over whom it gives no right."""
    script = "umount /proc/interrupts; mount -o remount,rw /proc/sys; wc -c < /proc/interrupts"
    done = inside(script, "--cap-add", "SYS_ADMIN")
    assert done.stdout.split() == ["0"] and done.stderr.count("mount") >= 2, done


def test_a_volume_of_a_user(inside, tmp_path):
    """Root inside is its owner, and nobody else: a set-user-ID program made there is not one of root."""
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 1000, 1001)
    script = "touch /v/root /v/www; chown 33:33 /v/www; chmod u+s /v/root; stat -c %u:%g /v /v/root /v/www"
    done = inside(script, "-v", f"{tmp_path}/theirs:/v")
    assert done.stdout.split() == ["0:0", "0:0", "33:33"], done.stderr
    made, www = (os.stat(tmp_path / "theirs" / name) for name in ("root", "www"))
    assert (made.st_uid, made.st_gid) == (1000, 1001) and made.st_mode & stat.S_ISUID
    assert (www.st_uid, www.st_gid) == (FIRST + WWW_DATA, FIRST + WWW_DATA)


def test_a_volume_of_root_is_not_theirs(inside, tmp_path):
    for name, mode in ("open", 0o644), ("secret", 0o600):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    done = inside("stat -c %u /v; cat /v/open /v/secret; touch /v/new; chmod 666 /v/secret", "-v", f"{tmp_path}:/v")
    assert done.stdout.split() == ["65534", "open"] and done.stderr.count("\n") == 3, done
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["open", "secret"]


def test_the_rest_of_the_state_directory_stays_closed(home, inside):
    """Layers and named volumes are theirs; but not because of where they are."""
    (home / "key").write_text("secret")
    (home / "key").chmod(0o600)
    done = inside("cat /key; chmod 666 /key", "-v", f"{home}/key:/key")
    assert done.stdout == "" and done.stderr.count("\n") == 2, done
    assert (home / "key").stat().st_mode & 0o777 == 0o600


def test_a_named_volume_is_shared_with_those_who_are_not_remapped(home, inside, monkeypatch):
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    first = inside(
        "stat -c %g /var/log/btmp; touch /var/log/new; chown 33 /var/log/new", "-v", "logs:/var/log", image="debian"
    )
    assert first.stdout.split() == ["43"], first.stderr
    try:
        assert os.stat(f"{store.directory('logs')}/_data/new").st_uid == WWW_DATA
        again = minidocker(home, "run", "--rm", "-v", "logs:/l", "busybox", "stat", "-c", "%u", "/l/new")
        assert again.stdout.split() == ["33"], again.stderr
    finally:
        store.remove("logs")


def test_a_terminal_a_tmpfs_and_an_anonymous_volume(inside):
    done = inside("touch /t/a /n/b; stat -c %u /t /t/a /n/b", "--tmpfs", "/t:mode=755", "-v", "/n")
    assert done.stdout.split() == ["0", "0", "0"], done.stderr
    done = inside("tty; echo yes > /dev/tty", "-t")
    assert done.stdout.split() == ["/dev/pts/0", "yes"], done


@pytest.mark.parametrize("remapped, ended", [(True, None), (False, -signal.SIGKILL)])
def test_no_process_of_the_host_gets_its_signals(home, remapped, ended):
    """Where it sees them: the list has no PID namespace here. Root inside has the right to kill, but over nobody."""
    with subprocess.Popen(["sleep", "60"]) as neighbour:
        argv, walls, options = container(ready("busybox", str(home)), ["kill", "-9", f"{neighbour.pid}"])
        walls[0] = Namespaces("mount uts ipc net")
        if remapped:
            remap("remap", walls)
        done = run(argv, *walls, **options)
        assert (done.exit_code == 0) is not remapped, done
        assert until(lambda: neighbour.poll() == ended)
        neighbour.kill()


def test_what_is_no_way_to_map_users(home):
    done = minidocker(home, "run", "--userns", "other", "busybox")
    assert done.returncode == 125 and "--userns other: it is host, or remap" in done.stderr
    assert minidocker(home, "run", "--userns", "host", "busybox", "true").returncode == 0


def test_a_file_system_without_id_mapped_mounts_says_so(inside, tmp_path):
    """Mounted for a moment, where a user owns it: ramfs has none."""
    place = tmp_path / "ram"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", place], check=True)
    try:
        os.chown(place, 1000, 1000)
        done = inside("true", "-v", f"{place}:/v")
        assert done.returncode == 125 and f"{place}: no id-mapped mounts of this file system" in done.stderr, done
    finally:
        subprocess.run(["umount", place], check=True)

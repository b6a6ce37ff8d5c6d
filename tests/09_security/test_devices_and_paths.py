"""--device, --privileged and --read-only, and what is in /dev: as in Docker."""

import os
import stat
import subprocess
import sys

import pytest

from tests.helpers import HOME, REPO, need
from tests.helpers.images import minidocker

pytestmark = pytest.mark.chapter(9)

LINKS = ["core", "fd", "ptmx", "stderr", "stdin", "stdout"]
DEV = sorted([*LINKS, "full", "mqueue", "null", "pts", "random", "shm", "tty", "urandom", "zero"])
DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
FUSE = "/dev/fuse"  # to open it changes nothing


def sh(script, *options):
    """A script in a container; CompletedProcess."""
    return minidocker(HOME, "run", "--rm", "--rm", *options, "busybox", "sh", "-c", script)


@pytest.fixture(autouse=True)
def device():
    need(os.path.exists(FUSE), "a device to open: modprobe fuse")


def test_dev_has_what_docker_has_and_no_more():
    assert sh("ls /dev").stdout.split() == DEV
    run = f"{sys.executable} -m minidocker run --rm -t busybox ls /dev"
    environment = {**os.environ, "MINIDOCKER_HOME": str(HOME), "PYTHONPATH": str(REPO)}
    words = ["script", "-qec", run, "/dev/null"]
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert sorted(shown.stdout.split()) == ["console", *DEV]


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (FUSE, FUSE),
        (f"{FUSE}:rw", FUSE),
        (f"{FUSE}:{FUSE}:rwm", FUSE),
        (f"{FUSE}:/dev/deep/er", "/dev/deep/er"),
        ("/dev/net", "/dev/net/tun"),
        ("/dev/net:/dev/x", "/dev/x/tun"),
    ],
)
def test_a_device_that_is_asked_for_opens_and_no_other_node_of_it(asked, path):
    need(os.path.exists("/dev/net/tun"), "a device in a directory: modprobe tun")
    number = os.stat("/dev/net/tun" if "net" in asked else FUSE).st_rdev
    node = f"mknod /node c {os.major(number)} {os.minor(number)}"
    shown = sh(f"stat -c %a {path}; : <{path} && echo opened; {node}; : </node", "--device", asked)
    assert (shown.stdout.split()[1:], shown.returncode) == (["opened"], 1), shown.stderr


def test_a_device_that_is_a_link_and_one_that_is_there_already(tmp_path):
    (tmp_path / "link").symlink_to(FUSE)
    asked = ("--device", f"{tmp_path}/link:/dev/it", "--device", "/dev/null")
    shown = sh(": </dev/it; echo x >/dev/null && echo opened", *asked)
    assert (shown.stdout, shown.stderr) == ("opened\n", "")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (f"{FUSE}:{FUSE}:r", "fewer rights than rw cannot be enforced"),
        (f"{FUSE}:m", "fewer rights than rw cannot be enforced"),
        (f"{FUSE}:/etc/passwd", "write HOST[:/dev/NAME[:rwm]]"),
        (f"{FUSE}:/dev/../etc/passwd", "write HOST[:/dev/NAME[:rwm]]"),
        (f"{FUSE}:/dev/x:rw:rw", "write HOST[:/dev/NAME[:rwm]]"),
        ("/dev/nowhere", "there is no device /dev/nowhere on this host"),
        ("/etc/passwd:/dev/x", "there is no device /etc/passwd on this host"),
        ("/vmlinuz:/dev/x", "there is no device /vmlinuz on this host"),
        ("", "write HOST[:/dev/NAME[:rwm]]"),
        ("fuse", "write HOST[:/dev/NAME[:rwm]]"),
    ],
)
def test_a_device_that_is_none_or_cannot_be_given(asked, text):
    shown = sh("true", "--device", asked)
    assert (shown.returncode, shown.stdout) == (125, "")
    assert shown.stderr.startswith(f"minidocker: --device {asked}: ") and text in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_with_privileged_all_devices_are_there():
    shown = sh(f"ls /dev; : <{FUSE} && echo opened", "--privileged")
    here = {name for name in os.listdir("/dev") if stat.S_IFMT(os.lstat(f"/dev/{name}").st_mode) in DEVICES}
    assert {*DEV, "opened"} | here - {"console"} <= {*shown.stdout.split()}


def test_a_root_that_is_read_only():
    script = "for f in /x /etc/hosts /etc/hostname /dev/x /dev/shm/x /run/x /data/x /proc/self/comm; do"
    script += ' sh -c ": >>$f" 2>/dev/null && echo $f; done; cat /etc/hostname; pwd'
    options = ("--read-only", "--tmpfs", "/run", "--tmpfs", "/data/", "-w", "/new/one", "--name", "it")
    shown = sh(script, *options)
    assert shown.stdout.split() == ["/dev/x", "/dev/shm/x", "/run/x", "/data/x", "/proc/self/comm", "it", "/new/one"]
    assert sh(script, *options[1:]).stdout.split()[:3] == ["/x", "/etc/hosts", "/etc/hostname"]


@pytest.mark.parametrize("options", [(), ("-u", "nobody"), ("--init",), ("--cap-add", "ALL"), ("--privileged",)])
def test_a_read_only_root_cannot_be_made_writable_but_with_sys_admin(options):
    shown = sh("mount -o remount,bind,rw / 2>/dev/null; touch /x && echo written", "--read-only", *options)
    assert (shown.stdout == "written\n") == ("ALL" in options or "--privileged" in options), shown.stderr


def test_a_hosts_file_of_the_network_is_read_only_and_a_directory_that_is_there_is_used():
    shown = sh("echo >>/etc/hosts; pwd", "--read-only", "-w", "/etc")
    assert (shown.stdout, "Read-only file system" in shown.stderr) == ("/etc\n", True)

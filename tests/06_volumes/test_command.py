"""Chapter 6, the command: -v, --mount, --tmpfs, and the verbs about volumes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers import REPO, need, until
from tests.helpers.images import HOME, add_image, minidocker, new_store

pytestmark = pytest.mark.chapter(6)


def test_a_volume_outlives_its_containers(home):
    assert minidocker(home, "volume", "create", "pages").stdout == "pages\n"
    assert minidocker(home, "run", "--rm", "-v", "pages:/srv", "busybox", "sh", "-c", "echo hi >/srv/x").returncode == 0
    shown = minidocker(home, "run", "--rm", "-v", "pages:/srv:ro", "busybox", "sh", "-c", "cat /srv/x; echo no >/srv/x")
    assert shown.stdout == "hi\n"
    assert "Read-only file system" in shown.stderr
    assert minidocker(home, "volume", "ls", "-q").stdout == "pages\n"
    assert json.loads(minidocker(home, "volume", "inspect", "pages").stdout)[0]["Name"] == "pages"
    assert minidocker(home, "volume", "rm", "pages").stdout == "pages\n"
    assert minidocker(home, "volume", "ls", "-q").stdout == ""


def test_mounts_in_words_and_in_memory(home, tmp_path):
    (tmp_path / "file").write_text("of the host\n")
    words = f"type=bind,source={tmp_path},target=/h,readonly"
    assert minidocker(home, "run", "--mount", words, "busybox", "cat", "/h/file").stdout == "of the host\n"
    fill = "dd if=/dev/zero of=/t/x bs=1M count=2"
    shown = minidocker(home, "run", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", fill)
    assert "No space left" in shown.stderr


def test_the_volumes_of_an_image_are_made_and_go_with_the_container(home, tmp_path):
    add_image(
        new_store(home), "asks", HOME / "roots/busybox", Volumes={"/data": {}}, Cmd=["sh", "-c", "mount | grep -c data"]
    )
    assert minidocker(home, "run", "--rm", "asks").stdout == "1\n"
    assert minidocker(home, "volume", "ls", "-q").stdout == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "-v", "x", "busybox"), "must begin with /"),
        (("run", "-v", "a:/b:nosuch", "busybox"), "nosuch"),
        (("run", "--mount", "type=bind,source=/nosuch,target=/x", "busybox", "true"), "/nosuch"),
        (("run", "--mount", "type=cake,target=/x", "busybox", "true"), "cake"),
        (("volume", "rm", "nosuch"), "nosuch"),
        (("volume", "inspect", "nosuch"), "nosuch"),
        (("volume", "create", "../x"), "../x"),
        (("volume", "create", "-d", "nfs"), "local"),
    ],
)
def test_a_mistake_is_one_line(home, words, text):
    result = minidocker(home, *words)
    assert text in result.stderr
    assert result.returncode
    assert len(result.stderr.splitlines()) == 1


def test_docker_s_options_of_a_mount(home, tmp_path):
    """Those of SELinux and of Docker Desktop change nothing, and are no error."""
    (tmp_path / "file").write_text("here\n")
    for option in ("z", "Z", "ro,Z", "cached", "rprivate,z,ro"):
        assert minidocker(home, "run", "-v", f"{tmp_path}:/h:{option}", "busybox", "cat", "/h/file").stdout == "here\n"
    for volume in ("pages:data", "data", f"{tmp_path}:h"):
        assert "must begin with /" in minidocker(home, "run", "-v", volume, "busybox", "true").stderr
    assert "must begin with /" in minidocker(home, "run", "--tmpfs", "data", "busybox", "true").stderr


def test_what_cannot_be_made_is_named(home, tmp_path):
    """Nothing can be made in /sys; the message says what."""
    (tmp_path / "file").touch()
    for source in (tmp_path, tmp_path / "file"):
        result = minidocker(home, "run", "-v", f"{source}:/sys/kernel/new", "busybox", "true")
        assert (result.returncode, "new" in result.stderr, "Read-only" in result.stderr) == (125, True, True), result


def test_an_image_whose_volume_is_relative(home):
    """BuildKit writes `VOLUME data` as it stands, and Docker mounts it on /data."""
    add_image(new_store(home), "relative", HOME / "roots/busybox", Volumes={"data/": {}}, Cmd=["stat", "/data"])
    assert minidocker(home, "run", "relative", "sh", "-c", "mount | grep -c ' /data '").stdout == "1\n"


def test_several_volumes_are_removed_also_if_one_cannot_be(home):
    for name in ("one", "two"):
        minidocker(home, "volume", "create", name)
    result = minidocker(home, "volume", "rm", "one", "nosuch", "two")
    assert (result.returncode, result.stdout) == (1, "one\ntwo\n")
    assert "nosuch" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_a_volume_waits_for_its_server(home, tmp_path, number):
    """The command gives up at once, and leaves nothing: no directory, no keeper."""
    helper = shutil.which("mount.fuse3") or "/usr/sbin/mount.fuse3"
    need(os.path.exists(helper), "needs mount.fuse3: apt-get install fuse3")
    (tmp_path / "hang").write_text(f"#!/bin/sh\n: > {tmp_path}/waits\nexec sleep 1000\n")
    (tmp_path / "hang").chmod(0o755)
    minidocker(home, "volume", "create", "--opt", "type=fuse3.x", "--opt", "device=x", "hangs")
    words = f"{sys.executable} -m minidocker run -v hangs:/d busybox true"
    script = f"mount --bind {tmp_path}/hang {os.path.realpath(helper)} && exec {words}"
    environment = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], env=environment) as process:
        assert until(lambda: (tmp_path / "waits").exists())
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    assert os.listdir(home / "containers") == []
    assert minidocker(home, "container", "prune").returncode == 0  # it was made, and never began
    assert minidocker(home, "volume", "rm", "hangs").returncode == 0

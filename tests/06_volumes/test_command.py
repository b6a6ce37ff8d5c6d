"""Chapter 6, the command: -v, --mount, --tmpfs, and the verbs about volumes."""

import json

import pytest

from tests.helpers.images import HOME, add_image, minidocker, new_store

pytestmark = pytest.mark.chapter(6)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    new_store(home)
    return home


def test_a_volume_outlives_its_containers(home):
    assert minidocker(home, "volume", "create", "pages").stdout == "pages\n"
    assert minidocker(home, "run", "-v", "pages:/srv", "busybox", "sh", "-c", "echo hi >/srv/x").returncode == 0
    shown = minidocker(home, "run", "-v", "pages:/srv:ro", "busybox", "sh", "-c", "cat /srv/x; echo no >/srv/x")
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
    assert minidocker(home, "run", "asks").stdout == "1\n"
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

"""Chapter 5: files that are one beneath several layers, and what must not become one."""

import errno
import os
import random
import shutil
import subprocess

import pytest

from minidocker.images import share
from minidocker.images.tar import DIRECTORY, HARDLINK, SYMLINK
from tests.helpers import layers as trees
from tests.helpers import need
from tests.helpers.layers import archive, differences, entry, regular, snapshot, unpacked

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners and devices: this needs root"),
]


@pytest.fixture
def tmp_path():
    with trees.scratch() as path:
        yield path


def big(text):
    return text * (share.SMALLEST // len(text) + 1)


def inode(path):
    return os.stat(path).st_ino


@pytest.fixture
def shared(tmp_path):
    """Unpack layers that share a pool: shared("name", entries...) is the directory."""

    def one(name, *entries):
        unpacked(archive(*entries), tmp_path / name, shared=str(tmp_path / "pool"))
        return tmp_path / name

    return one


def test_equal_files_of_two_layers_are_one(shared, tmp_path):
    files = [regular(b"d/lib", big(b"same"), uid=7, mtime=10**9), regular(b"small", b"same")]
    one = shared("one", entry(b"d/", DIRECTORY, 0o755, mtime=5 * 10**9), *files, regular(b"mine", big(b"1")))
    two = shared("two", entry(b"d/", DIRECTORY, 0o755, mtime=5 * 10**9), *files, regular(b"yours", big(b"2")))
    assert inode(one / "d/lib") == inode(two / "d/lib") and inode(one / "small") != inode(two / "small")
    assert os.stat(two / "d").st_mtime == 5  # sharing has not touched the directory
    assert sorted(os.listdir(two)) == ["d", "small", "yours"] and os.listdir(two / "d") == ["lib"]
    shutil.rmtree(one)
    share.prune(str(tmp_path / "pool"))
    assert (two / "d/lib").read_bytes() == big(b"same") and len(os.listdir(tmp_path / "pool")) == 2
    shutil.rmtree(two)
    assert share.prune(str(tmp_path / "pool")) > 0
    assert os.listdir(tmp_path / "pool") == []


DIFFERENT = {
    "content": regular(b"f", big(b"other")[: len(big(b"same"))]),
    "path": regular(b"g", big(b"same")),
    "mode": regular(b"f", big(b"same"), mode=0o4755),
    "owner": regular(b"f", big(b"same"), uid=1),
    "group": regular(b"f", big(b"same"), gid=1),
    "time": regular(b"f", big(b"same"), mtime=1),
    "attributes": regular(b"f", big(b"same"), xattrs={b"user.a": b"1"}),
}


@pytest.mark.parametrize("file", DIFFERENT.values(), ids=DIFFERENT)
def test_files_that_differ_stay_two(file, shared):
    one, two = shared("one", regular(b"f", big(b"same"))), shared("two", file)
    name = os.fsdecode(file[0].name)
    assert inode(one / "f") != inode(two / name)
    assert (two / name).read_bytes() == file[1]


def test_a_lie_about_the_checksum_gains_nothing(shared, tmp_path, monkeypatch):
    """Every byte is compared: neither a collision nor a jail that was broken open can change another layer's file."""
    one = shared("one", regular(b"f", big(b"same")))
    evil = big(b"evil")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/f").write_bytes(evil)
    os.chmod(tmp_path / "two/f", 0o644)
    os.utime(tmp_path / "two/f", (0, 0))
    name = os.listdir(tmp_path / "pool")[0]
    share.share(str(tmp_path / "two"), [(b"f", name.partition("-")[0])], str(tmp_path / "pool"))
    assert (one / "f").read_bytes() == big(b"same") and (tmp_path / "two/f").read_bytes() == evil


def test_sharing_follows_no_symlink(shared, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "f").write_bytes(big(b"same"))
    before = snapshot(secret)
    files = [entry(b"l", SYMLINK, link=os.fsencode(secret)), regular(b"f", big(b"same"))]
    shared("one", *files)
    two = shared("two", *files)
    share.share(str(two), [(b"l/f", "00000000"), (b"l", "00000000")], str(tmp_path / "pool"))
    assert differences(before, snapshot(secret)) == []


@pytest.mark.parametrize(
    "name", [b"../secret/f", b"d/../../secret/f", b"/../secret/f", b"none", b"d/none", b"d", b"..", b""]
)
def test_sharing_believes_no_name(name, shared, tmp_path):
    """The names come out of the jail: one that was broken open may say anything."""
    one = shared("one", regular(b"f", big(b"same")))
    (tmp_path / "secret").mkdir()
    shutil.copy2(one / "f", tmp_path / "secret/f")
    two = shared("two", entry(b"d/", DIRECTORY, 0o755))
    before = os.listdir(tmp_path / "pool")
    checksum = before[0].partition("-")[0]
    assert share.share(str(two), [(name, checksum)], str(tmp_path / "pool")) == 0
    assert os.stat(tmp_path / "secret/f").st_nlink == 1 and os.listdir(tmp_path / "pool") == before


def test_a_link_that_cannot_take_the_place_of_the_file_goes_away(shared, tmp_path, monkeypatch):
    one = shared("one", regular(b"f", big(b"same")))

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "rename", refuse)
    two = shared("two", regular(b"f", big(b"same")))
    assert os.listdir(two) == ["f"] and inode(one / "f") != inode(two / "f")


def test_a_file_with_two_names_keeps_both(shared):
    files = [regular(b"a", big(b"same")), entry(b"b", HARDLINK, link=b"a")]
    shared("one", regular(b"a", big(b"same")))
    two = shared("two", *files)
    assert inode(two / "a") == inode(two / "b")


def test_blocks_are_shared_where_the_file_system_can_clone(tmp_path):
    need(shutil.which("mkfs.btrfs") and os.path.exists("/dev/loop-control"), "needs btrfs-progs and loop devices")
    with open(tmp_path / "image", "wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", tmp_path / "image"], check=True)
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", tmp_path / "disk"], check=True)
    try:
        pool, content = str(tmp_path / "disk/pool"), random.Random(1).randbytes(8 << 20)
        for name, mode in (("one", 0o644), ("two", 0o600)):
            unpacked(
                archive(regular(os.fsencode(name), content, mode=mode, mtime=1)), tmp_path / "disk" / name, shared=pool
            )
        assert (tmp_path / "disk/two/two").read_bytes() == content
        assert os.stat(tmp_path / "disk/two/two").st_mtime_ns == 1
        os.sync()
        text = subprocess.run(
            ["btrfs", "filesystem", "du", "--raw", "-s", tmp_path / "disk/two"], capture_output=True, text=True
        )
        assert int(text.stdout.splitlines()[1].split()[1]) < len(content) // 10, text.stdout  # exclusive bytes
        shutil.rmtree(tmp_path / "disk/one")
        shutil.rmtree(tmp_path / "disk/two")
        share.prune(pool)
        assert os.listdir(pool) == []
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)

"""Chapter 5: what hostile layers, a full disk, and a container at work in what becomes a layer cannot do."""

import contextlib
import errno
import gzip
import io
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import pytest
from backports import zstd

from minidocker.files import usage
from minidocker.images import manifest as media
from minidocker.images import tar
from minidocker.images.layer import unpack as jail
from minidocker.images.layer.pack import write_layer
from minidocker.images.layer.unpack import unpack
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.trees import remove
from tests.helpers import layers as trees
from tests.helpers.layers import (
    archive,
    differences,
    entry,
    header,
    packed,
    pax,
    regular,
    sha256,
    snapshot,
    unpacked,
    whiteout,
)

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners and devices: this needs root"),
]

DIRECTORY, SYMLINK, HARDLINK = tar.DIRECTORY, tar.SYMLINK, tar.HARDLINK


@pytest.fixture
def tmp_path():
    with trees.scratch() as path:
        yield path


# A hostile layer: one clear error, and nothing that is left


def sparse(*records):
    return archive(pax(*(tar._record(*record) for record in records)), regular(b"f"))


def many_headers(count):
    """More extra headers than an entry may have."""
    return archive(*[pax(tar._record(b"comment%d" % number, b"x" * 300_000)) for number in range(count)], entry(b"f"))


GOOD = archive(regular(b"file", b"content" * 1000))
HOSTILE = {  # name: (layer, what the error says, how the blob differs from the layer)
    "climbs": (archive(regular(b"../file")), "a path that climbs"),
    "climbs, with much after it": (archive(regular(b"../file"), regular(b"f", b"x" * (5 << 20))), "a path that climbs"),
    "climbs in the middle": (archive(regular(b"a/../../file")), "a path that climbs"),
    "a link that climbs": (archive(entry(b"l", HARDLINK, link=b"../../etc/passwd")), "a path that climbs"),
    "a link to nothing": (
        archive(entry(b"l", HARDLINK, link=b"/etc/passwd")), "a hard link to etc/passwd, which is not"
    ),
    "a link to a directory": (archive(entry(b"d/", DIRECTORY), entry(b"l", HARDLINK, link=b"d")), "not permitted"),
    "a link without a target": (archive(entry(b"l", SYMLINK)), "a link to nothing"),
    "through a dangling link": (archive(entry(b"l", SYMLINK, link=b"/x/y"), regular(b"l/f")), "No such file"),
    "through a file": (archive(regular(b"f"), regular(b"f/g")), "Not a directory"),
    "through a loop": (archive(entry(b"l", SYMLINK, link=b"l"), regular(b"l/f")), "Too many levels"),
    "over a symlink": (archive(entry(b"l", SYMLINK, link=b"/etc/passwd"), regular(b"l")), "has it twice"),
    "twice": (archive(regular(b"f"), regular(b"./f")), "has it twice"),
    "a file over a directory": (archive(regular(b"d/f"), regular(b"d")), "has it twice"),
    "a root that is a file": (archive(regular(b".")), "the root of the layer is not a directory"),
    "a root that is a link": (archive(entry(b"/", SYMLINK, link=b"/etc")), "the root of the layer is not a directory"),
    "no name": (archive(header(entry(b"x"), offset_0=bytes(99) + b"x")), "without a name"),
    "a zero in a name": (archive(pax(tar._record(b"path", b"a\0b")), entry(b"f")), "a zero in a name"),
    "a long name": (archive(regular(b"n" * 300)), "File name too long"),
    "a long path": (archive(regular(b"d/" * 3000)), "File name too long"),
    "whiteout of a parent": (archive(whiteout(b"d/.wh...")), "a whiteout of nothing, or of a parent"),
    "whiteout of itself": (archive(whiteout(b"d/.wh..")), "a whiteout of nothing, or of a parent"),
    "whiteout of nothing": (archive(whiteout(b".wh.")), "a whiteout of nothing, or of a parent"),
    "whiteout that climbs": (archive(whiteout(b"../.wh.etc")), "a path that climbs"),
    "through a whiteout": (archive(regular(b".wh.d/f")), "a path through a whiteout"),
    "opaque file": (archive(regular(b"f"), whiteout(b"f/.wh..wh..opq")), "must be a directory"),
    "overlay's whiteout": (archive(entry(b"w", tar.CHARACTER)), "a device 0/0"),
    "overlay's attribute": (
        archive(entry(b"d/", DIRECTORY, xattrs={b"trusted.overlay.redirect": b"/etc"})), "would direct OverlayFS"),
    "the user's attribute": (archive(entry(b"f", xattrs={b"user.overlay.metacopy": b""})), "would direct OverlayFS"),
    "a nameless attribute": (archive(entry(b"f", xattrs={b"": b""})), "f: "),
    "a huge size": (archive(header(entry(b"f", size=8**11 - 1))), "larger content|in the middle of a file"),
    "a huge size in base 256": (archive(header(entry(b"f"), offset_124=b"\x80" + b"\x7f" * 11)), "a size or time"),
    "a size below zero": (archive(header(entry(b"f"), offset_124=b"\xff" * 12)), "an owner, size or device"),
    "a link to what is removed": (
        archive(whiteout(b".wh.f"), entry(b"l", HARDLINK, link=b"f")), "a hard link to f, which is not"
    ),
    "a size that is none": (archive(header(entry(b"f"), offset_124=b"-1         ")), "not a number"),
    "a size with an underscore": (archive(header(entry(b"f"), offset_124=b"1_0        ")), "not a number"),
    "a pax size that is none": (archive(pax(tar._record(b"size", b"x")), entry(b"f")), "not a number"),
    "a pax size with an underscore": (archive(pax(tar._record(b"size", b"1_0")), entry(b"f")), "not a number"),
    "a pax owner with a blank": (archive(pax(tar._record(b"uid", b" 1")), entry(b"f")), "not a number"),
    "a pax time with two signs": (archive(pax(tar._record(b"mtime", b"--1")), entry(b"f")), "not a number"),
    "a pax time with a sign in it": (archive(pax(tar._record(b"mtime", b"1.-5")), entry(b"f")), "not a number"),
    "an owner that means no change": (archive(entry(b"f", uid=2**32 - 1)), "an owner, size or device"),
    "a time beyond all": (archive(pax(tar._record(b"mtime", b"9" * 30)), entry(b"f")), "a size or time"),
    "a device beyond all": (
        archive(header(entry(b"f", tar.CHARACTER), offset_329=b"7777777")), "an owner, size or device"
    ),
    "an unknown type": (archive(header(entry(b"f"), offset_156=b"D")), "entries of type b'D'"),
    "gnu's sparse files": (archive(header(entry(b"f"), offset_156=b"S")), "tar --sparse"),
    "sparse files of pax 0.1": (sparse((b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.size", b"9")), "tar --sparse"),
    "a broken checksum": (GOOD[:148] + b"000000" + GOOD[154:], "a header's checksum is wrong"),
    "no tar at all": (b"This is not a tar archive.\n" * 100, "a header's checksum is wrong"),
    "cut in a header": (GOOD[:300], "in the middle of a header"),
    "cut in a file": (GOOD[:1024], "in the middle of a file"),
    "cut in an extra header": (many_headers(1)[:1024], "in the middle of an extra header"),
    "extra headers without end": (many_headers(4), "bytes of extra headers"),
    "a long extra header": (archive(header(entry(b"x", b"x", size=1 << 30))), "bytes of extra header"),
    "a broken pax record": (archive(pax(b"8 path=a\n"), entry(b"f")), "a broken pax record"),
    "a pax record of length 0": (archive(pax(b"0 path=a\n"), entry(b"f")), "a broken pax record"),
    "a pax record of a length below 0": (archive(pax(b"-5 path=a\n"), entry(b"f")), "a broken pax record"),
    "a pax record that is too long": (
        archive(pax(b"99999999999999999999 path=a\n"), entry(b"f")), "a broken pax record"
    ),
    "more after the end": (GOOD + bytes(3 << 20), "more data after the end mark"),
    "another content": (GOOD, "its content has the digest", archive(regular(b"other"))),
    "no gzip": (GOOD, "cannot be decompressed", b"\x1f\x8bnonsense"),
    "gzip that is cut off": (GOOD, "cannot be decompressed", gzip.compress(GOOD)[:-20]),
    "gzip with a wrong checksum": (GOOD, "cannot be decompressed", gzip.compress(GOOD)[:-8] + bytes(8)),
    "gzip with something after it": (GOOD, "cannot be decompressed", gzip.compress(GOOD) + b"garbage"),
    "zstd that is broken": (
        GOOD, "cannot be decompressed", zstd.compress(GOOD)[:12] + b"\xff" * 50
    ),
    "zstd that is cut off": (GOOD, "in the middle|cannot be decompressed", zstd.compress(GOOD)[:-9]),
    "xz that is broken": (GOOD, "cannot be decompressed", b"\xfd7zXZ\0" + bytes(range(256)) * 4),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer_is_one_clear_error(case, tmp_path):
    layer, message, *blob = HOSTILE[case]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("outside")
    before = snapshot(tmp_path)
    options = {"blob": blob[0]} if blob else {}
    with pytest.raises(ContainerError, match=message) as error:
        unpacked(layer, tmp_path / "in/target", **options)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert len(str(error.value)) < 7000 and str(error.value).startswith("layer blob: ")
    shutil.rmtree(tmp_path / "in")
    after = snapshot(tmp_path)
    del before[b""], after[b""]
    assert differences(before, after) == []


LENIENT = {  # what other tools are lenient about costs no honest image: what is unpacked
    "nothing at all": (b"", {}),
    "no end mark": (GOOD[:-1024], {"file": b"content" * 1000}),
    "half an end mark": (GOOD[:-512], {"file": b"content" * 1000}),
    "an attribute of a mac": (archive(regular(b"f", xattrs={b"com.apple.quarantine": b"x"})), {"f": b"x"}),
    "and of a directory": (archive(entry(b"d/", DIRECTORY, 0o755, xattrs={b"com.apple.a": b"x"})), {"d": None}),
    "nul before digits": (archive(header(entry(b"f"), offset_108=b"\0000007\0")), {"f": b""}),
    "nul and blanks": (archive(header(entry(b"f"), offset_108=b"\0\0 7 \0\0\0")), {"f": b""}),
    "a way up that stays inside": (archive(entry(b"a/", DIRECTORY, 0o755), regular(b"a/../m")), {"a": None, "m": b"x"}),
    "a hard link with such a way": (
        archive(regular(b"m"), entry(b"d/l", HARDLINK, link=b"d/../m")), {"m": b"x", "d": None, "d/l": b"x"}
    ),
    "a whiteout of what it then takes for granted": (
        archive(whiteout(b".wh.a"), regular(b"a/b/new")), {"a": None, "a/b": None, "a/b/new": b"x"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("layer, wanted", LENIENT.values(), ids=LENIENT)
def test_what_other_tools_take_is_taken(layer, wanted, tmp_path):
    unpacked(layer, tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*")}
    assert {name: None if path.is_dir() else path.read_bytes() for name, path in found.items()} == wanted


def test_a_directory_in_the_place_of_a_whiteout_hides_what_was_below(tmp_path):
    unpacked(archive(whiteout(b".wh.a"), regular(b"a/new")), tmp_path / "out")
    assert os.getxattr(tmp_path / "out/a", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o777])
def test_the_callers_umask_is_not_in_the_layer(umask, tmp_path):
    before = os.umask(umask)
    try:
        store = Store(str(tmp_path / "home"))
        blob = store.put(archive(regular(b"d/f", mode=0o644)), media.LAYER)
        layer = store.layer(blob, blob["digest"])
    finally:
        os.umask(before)
    assert [os.stat(f"{layer}/{name}").st_mode & 0o7777 for name in (".", "d", "d/f")] == [0o755, 0o755, 0o644]


def test_symlinks_that_point_out_are_kept_and_lead_nowhere(tmp_path):
    """Honest layers have absolute symlinks, and files below them: what they mean is the layer's own root."""
    (tmp_path / "outside").mkdir()
    up = b"../" * 30 + os.fsencode(tmp_path / "outside")
    layer = archive(
        entry(b"root", SYMLINK, link=b"/"), entry(b"up", SYMLINK, link=up), entry(b"lib", SYMLINK, link=b"/usr/lib"),
        entry(b"usr/lib/", DIRECTORY, 0o755), regular(b"lib/libc", b"one"), regular(b"root/here", b"two"),
    )  # fmt: skip
    unpacked(layer, tmp_path / "in/target")
    target = tmp_path / "in/target"
    assert os.readlink(target / "up") == os.fsdecode(up)
    assert (target / "usr/lib/libc").read_text() == "one" and (target / "here").read_text() == "two"
    assert os.listdir(tmp_path / "outside") == []
    with pytest.raises(ContainerError, match="No such file"):
        unpacked(archive(entry(b"up", SYMLINK, link=up), regular(b"up/f")), tmp_path / "in/again")
    assert os.listdir(tmp_path / "outside") == []


@contextlib.contextmanager
def small_disk(path, options):
    """A file system of a few pages."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


FULL = {
    "large": (
        "size=1M",
        archive(regular(b"f", b"x" * (2 << 20))),
        "f: the layer has a larger content than there is room",
    ),
    "zeros": (
        "size=1M",
        archive(regular(b"f", bytes(2 << 20))),
        "f: the layer has a larger content than there is room",
    ),
    "small files": (
        "size=1M",
        archive(*(regular(b"f%d" % number, b"x") for number in range(300))),
        "f[0-9]+: No space left on device",
    ),
    "entries": (
        "size=1M,nr_inodes=50",
        archive(*(entry(b"f%d" % number) for number in range(60))),
        "the layer has more entries than there is room for",
    ),
}


@pytest.mark.parametrize("options, layer, message", FULL.values(), ids=FULL)
def test_a_full_disk_is_one_clear_error(options, layer, message, tmp_path):
    (tmp_path / "blob").write_bytes(layer)
    with small_disk(tmp_path / "small", options) as disk, pytest.raises(ContainerError, match=message):
        (disk / "target").mkdir()
        unpack(str(tmp_path / "blob"), str(disk / "target"), sha256(layer))


# A bomb of zeros, a bomb of directories: the memory that it takes is measured in a process of its own
MEASURED = """
import resource, sys
from minidocker.images.layer.unpack import unpack
try:
    unpack(*sys.argv[1:3], None)
except Exception as error:
    print(error, end=" ")
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def measured(blob, target):
    """What unpack said, and the most memory, in MiB, that one of its processes had."""
    target.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEASURED, blob, target]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return answer.rpartition(" ")[0], int(answer.rpartition(" ")[2])


def test_memory_stays_flat_as_layers_grow(tmp_path):
    taken = {}
    for size in (1 << 20, 2 << 30):
        packer = zstd.ZstdCompressor()
        with open(tmp_path / "blob", "wb") as file:
            file.write(packer.compress(tar.write(entry(b"zeros", size=size))))
            for _ in range(size >> 20):
                file.write(packer.compress(bytes(1 << 20)))
            file.write(packer.compress(tar.END) + packer.flush())
        message, taken[size] = measured(tmp_path / "blob", tmp_path / str(size))
        status = os.stat(tmp_path / str(size) / "zeros")
        assert (message, status.st_size, status.st_blocks) == ("", size, 0)
    assert taken[2 << 30] - taken[1 << 20] < 16


def test_a_bomb_of_directories_is_refused_before_it_fills_the_memory(tmp_path):
    """A megabyte of attributes each, a thousand times smaller when packed."""
    attributes = {b"user.a%d" % number: bytes(60000) for number in range(15)}
    packer = zstd.ZstdCompressor()
    with open(tmp_path / "blob", "wb") as file:
        for number in range(1000):
            made = entry(b"d%d/" % number, DIRECTORY, xattrs=attributes)
            file.write(packer.compress(tar.write(made)))
        file.write(packer.flush())
    message, taken = measured(tmp_path / "blob", tmp_path / "out")
    assert "more to remember than there is room for" in message
    assert taken < 700


def test_directories_that_an_archive_takes_for_granted_count_as_well(tmp_path, monkeypatch):
    """A name of four kilobytes makes two thousand of them: without an end, that would fill the memory, and the disk."""
    monkeypatch.setattr(jail, "MAX_HELD", 1 << 20)
    layer = archive(*(entry(b"%d/" % number + b"d/" * 100 + b"f") for number in range(50)))
    with pytest.raises(ContainerError, match="more to remember than there is room for"):
        unpacked(layer, tmp_path / "out")
    monkeypatch.setattr(jail, "MAX_HELD", 10 << 20)
    unpacked(layer, tmp_path / "again")


def test_a_tree_that_is_deeper_than_any_path_can_be_removed(tmp_path):
    """Through a symlink to the bottom, an archive goes on from there; `prune` must not fail on what it made."""
    deep = b"/".join([b"d" * 100] * 35)
    link = entry(b"l", SYMLINK, link=deep)
    layer = archive(entry(deep + b"/", DIRECTORY), link, regular(b"l/" + deep + b"/f", b"x" * 20_000))
    unpacked(layer, tmp_path / "out")
    assert usage([str(tmp_path / "out")]) > 20_000
    with pytest.raises(ContainerError, match="File name too long"):
        packed(tmp_path / "out")
    remove(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# The decompressor has been taken over


def attempts():
    """What the process may do, one after the other: the errors that it got."""
    tries = {
        "look": lambda: os.listdir("/"),
        "look from where it stands": lambda: os.listdir("."),
        "write": lambda: os.open("/open", os.O_WRONLY),
        "make": lambda: os.open("d/new", os.O_WRONLY | os.O_CREAT),
        "execute": lambda: os.execv("/setuid", ["setuid"]),
        "mode": lambda: os.chmod("/", 0o777),
        "device": lambda: os.mknod("/tmp", 0o600 | 0o20000, os.makedev(1, 3)),
        "root": lambda: os.setuid(0),
        "kill": lambda: os.kill(-1, 9),
    }
    for name, attempt in tries.items():
        try:
            attempt()
            yield f"{name}: done"
        except OSError as refused:
            yield f"{name}: {errno.errorcode[refused.errno]}"


def test_a_decompressor_that_was_taken_over_can_do_nothing(tmp_path, monkeypatch):
    """Its layer has a setuid program, open files and open directories; it tries while they are there."""
    layer = archive(
        entry(b"d/", DIRECTORY, 0o777), regular(b"open", mode=0o666), regular(b"setuid", b"#!/setuid\n", mode=0o4777),
        entry(b"./", DIRECTORY, 0o777), regular(b"last", b"x" * 3_000_000),
    )  # fmt: skip

    def taken_over():
        rest = layer
        while rest:  # the pipe holds less than the last file: when this ends, the others are there
            rest = rest[os.write(1, rest) :]
        raise ContainerError(f"decompressed: {', '.join(attempts())}")

    monkeypatch.setattr(jail, "decompress", taken_over)
    with pytest.raises(ContainerError) as error:
        unpacked(layer, tmp_path / "out")
    tried = str(error.value).partition("decompressed: ")[2].split(", ")
    assert len(tried) == 9
    assert {line.partition(": ")[2] for line in tried} <= {"EACCES", "EPERM", "EROFS", "ESRCH"}, tried


def test_a_decompressor_cannot_vouch_for_what_it_sends(tmp_path, monkeypatch):
    """The digest is that of what was unpacked: a layer that others have cannot be replaced by another one."""
    good, evil = archive(regular(b"f", b"good")), archive(regular(b"f", b"evil"))
    monkeypatch.setattr(jail, "decompress", lambda: os.write(1, evil))
    with pytest.raises(ContainerError, match=f"its content has the digest {sha256(evil)}"):
        unpacked(good, tmp_path / "out")


def test_the_root_directory_gets_its_own_mode_back(tmp_path):
    for mode in (0o755, 0o711):
        (tmp_path / oct(mode)).mkdir(mode=mode)
        unpacked(archive(regular(b"f")), tmp_path / oct(mode))
        assert os.stat(tmp_path / oct(mode)).st_mode & 0o7777 == mode
    unpacked(archive(entry(b"./", DIRECTORY, 0o2750)), tmp_path / "said")
    assert os.stat(tmp_path / "said").st_mode & 0o7777 == 0o2750


# Killed


BUSY = """
import os, sys, itertools
from minidocker.images.layer.unpack import unpack
top, diff_id = sys.argv[1:]
print("ready", flush=True)
for number in itertools.count():
    os.mkdir(f"{top}/tmp/{number}")
    unpack(f"{top}/blob", f"{top}/tmp/{number}", diff_id)
"""


def family(pid):
    """The process and all its descendants."""
    found = [pid]
    for tasks in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in tasks.read_text().split():
                found += family(int(child))
    return found


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_unpack_is_killed_at_any_moment(tmp_path):
    """Nothing lives on, and there is nothing outside the target."""
    layer = archive(*(regular(b"d%d/f%d" % (number % 7, number), b"%d" % number * 8000) for number in range(300)))
    (tmp_path / "blob").write_bytes(trees.compressed(layer))
    (tmp_path / "tmp").mkdir()
    chance = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(12):
        command = [sys.executable, "-c", BUSY, str(tmp_path), sha256(layer)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as victim:
            victim.stdout.readline()
            time.sleep(0.05 + chance.random() / 3)
            pids = family(victim.pid)
            victim.kill()
        deadline = time.monotonic() + 10
        while any(map(running, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(running, pids)), "a process outlived unpack"
        assert {path.name for path in tmp_path.iterdir()} <= {"blob", "tmp"}
        shutil.rmtree(tmp_path / "tmp")
        (tmp_path / "tmp").mkdir()
    unpacked(layer, tmp_path / "tmp/whole")
    assert packed(tmp_path / "tmp/whole")


# A directory that changes while it becomes a layer


class Meddler(io.BytesIO):
    """A stream that changes the directory when something is written for the `count`th time."""

    def __init__(self, count, change):
        super().__init__()
        self.count, self.change = count, change

    def write(self, data):
        self.count -= 1
        if self.count == 0:
            self.change()
        return super().write(data)


def grow(top):
    with open(top / "d/file", "ab") as file:
        file.write(b"more")


def shrink(top):
    os.truncate(top / "d/file", 10)


def to_symlink(top):
    (top / "d/file").unlink()
    (top / "d/file").symlink_to("/etc/passwd")


def to_fifo(top):
    (top / "d/file").unlink()
    os.mkfifo(top / "d/file")


def parent_to_symlink(top):
    (top / "d").rename(top.parent / "d")
    (top / "d").symlink_to(top.parent / "secret")


@pytest.mark.parametrize("what", [grow, shrink, to_symlink, to_fifo, parent_to_symlink])
def test_a_directory_that_changes_meanwhile_is_an_error_and_no_way_out(what, tmp_path):
    """A container may be at work in it, and put a symlink in the place of what was a file a moment ago."""
    for name in ("in/d", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"hidden from it" if name == "secret" else b"x" * 3_000_000)
    for moment in range(1, 6):
        shutil.copytree(tmp_path / "in", tmp_path / "now", symlinks=True)
        stream = Meddler(moment, lambda: what(tmp_path / "now"))
        with contextlib.suppress(ContainerError):
            write_layer(str(tmp_path / "now"), stream)
            (tmp_path / "blob").write_bytes(stream.getvalue())
            (tmp_path / "out").mkdir()
            unpack(str(tmp_path / "blob"), str(tmp_path / "out"), None)  # if there was no error, it is an archive
            shutil.rmtree(tmp_path / "out")
        assert b"hidden from it" not in stream.getvalue() and b"root:" not in stream.getvalue()
        shutil.rmtree(tmp_path / "now")
        shutil.rmtree(tmp_path / "d", ignore_errors=True)

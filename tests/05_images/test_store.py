"""Chapter 5, the store: names, digests, who may use it at once, what killed processes leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidocker import files
from minidocker.images import image
from minidocker.images import manifest as media
from minidocker.images.container import container, ready
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from tests.helpers.images import REPO, add_image, minidocker, new_store

pytestmark = pytest.mark.chapter(5)


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path)


# Names


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("a/b:1", "docker.io/a/b:1", "a/b:1"),
        ("localhost/b", "localhost/b:latest", "localhost/b:latest"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("ghcr.io/x/y__z-1.2", "ghcr.io/x/y__z-1.2:latest", "ghcr.io/x/y__z-1.2:latest"),
        ("docker.io/library/x", "docker.io/library/x:latest", "x:latest"),
        ("x@sha256:" + "a" * 64, "docker.io/library/x@sha256:" + "a" * 64, "x@sha256:" + "a" * 64),
        ("x:1@sha256:" + "a" * 64, "docker.io/library/x:1@sha256:" + "a" * 64, "x:1@sha256:" + "a" * 64),
    ],
)
def test_names_are_those_of_docker(text, full, familiar):
    parsed = media.parse(text)
    assert (str(parsed), parsed.familiar) == (full, familiar)
    assert str(media.parse(str(parsed))) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "a//b",
        "/a",
        "a/",
        "a..b",
        "a:",
        "a:-x",
        "a:" + "x" * 129,
        "a b",
        "a___b",
        "-a",
        "a-",
        "../../etc",
        "a/..",
        "a@sha256:12",
        "a@md5:" + "0" * 32,
        "a@sha256:../../../" + "0" * 55,
        "localhost:5000/",
        "ä",
        "a:b:c",
        "a\n",
    ],
)
def test_what_is_no_name_is_refused_in_one_line(text):
    with pytest.raises(ContainerError) as refused:
        media.parse(text)
    assert len(str(refused.value).splitlines()) == 1


@given(st.text(alphabet="ab/.:-_@1", max_size=12))
def test_a_name_that_is_accepted_stays_what_it_is(text):
    try:
        full = str(media.parse(text))
    except ContainerError:
        return
    assert str(media.parse(full)) == full
    assert "/.." not in full


# The layout


def test_it_is_an_oci_image_layout(store):
    assert json.load(open(f"{store.layout}/oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = json.load(open(f"{store.layout}/index.json"))
    assert index["schemaVersion"] == 2
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "busybox:latest"
    assert sorted(os.listdir(store.layout)) == ["blobs", "index.json", "oci-layout"]


def test_the_same_tree_is_the_same_image(store, tmp_path):
    first = image.find(store, "busybox")
    other = Store(str(tmp_path / "other"))
    assert add_image(other, "x", store.layer(first.manifest["layers"][0], first.diff_ids[0]), Cmd=["sh"]).id == first.id


def test_an_image_is_found_by_name_id_and_digest(store):
    found = image.find(store, "busybox:latest")
    for name in (
        found.id,
        found.id[7:],
        found.id[7:19],
        f"busybox@{found.descriptor['digest']}",
        "docker.io/library/busybox",
    ):
        assert image.find(store, name).id == found.id
    with pytest.raises(ContainerError, match="no such image: nosuch:latest"):
        image.find(store, "nosuch")


def test_a_name_moves_and_what_it_named_dangles_until_it_is_pruned(store, tmp_path):
    old = image.find(store, "busybox")
    (tmp_path / "tree").mkdir()
    new = add_image(store, "busybox", tmp_path / "tree")
    assert image.find(store, "busybox").id == new.id
    assert {one.id for one in image.images(store)} == {old.id, new.id}
    store.forget(old.descriptor["digest"])
    assert store.collect() > 500_000
    assert not store.has(old.id)
    assert image.find(store, "busybox").id == new.id


def test_two_names_of_one_image_are_removed_one_by_one(store):
    store.tag("other:1", image.find(store, "busybox").descriptor)
    assert image.remove(store, "busybox") == ["Untagged: busybox:latest"]
    assert image.remove(store, "other:1")[1].startswith("Deleted: sha256:")
    assert not os.listdir(f"{store.layout}/blobs/sha256")


@pytest.mark.skipif(os.geteuid() != 0, reason="to run a container needs root")
def test_a_layer_in_use_is_not_removed(store):
    found = image.find(store, "busybox")
    [directory] = found.layers()
    argv, isolators, options = container({**found.ready(), "held": [directory]}, ["sleep", "60"])
    with start(argv, *isolators, **options):
        image.remove(store, "busybox")
        assert os.path.exists(f"{directory}/bin/busybox")
    store.collect()
    assert not os.path.exists(directory)
    with pytest.raises(ContainerError, match="removed"):
        run(argv, *isolators, **options)


def test_what_the_build_cache_knows_stays(store):
    found = image.find(store, "busybox")
    store.remember("ab" * 32, found.descriptor)
    store.untag("busybox")
    store.collect()
    assert store.steps()["ab" * 32]["digest"] == found.descriptor["digest"]
    store.forget_steps()
    store.collect()
    assert "ab" * 32 not in store.steps()
    assert not store.has(found.id)


# Documents from outside


BROKEN = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000, b"1" * 10]


@pytest.mark.parametrize("data", BROKEN)
def test_broken_json_is_one_clear_error(data):
    with pytest.raises(ContainerError) as refused:
        media.parsed(data)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("data", [*BROKEN, b"{}", b'{"manifests": {}}'])
def test_a_broken_index_is_named_with_the_remedy(store, data):
    Path(store.index).write_bytes(data)
    for words in (["images"], ["rmi", "x"], ["run", "x"], ["system", "prune", "--force"]):
        done = minidocker(store.home, *words)
        assert done.returncode
        assert done.stderr.startswith(f"minidocker: {store.index}: ")
        assert "remove it, and pull or build" in done.stderr
    os.remove(store.index)
    assert image.images(Store(store.home)) == []


def test_a_document_is_believed_only_if_it_is_what_its_descriptor_says(store):
    descriptor = store.put(json.dumps({"a": 1}).encode(), media.CONFIG)
    with open(store.blob(descriptor["digest"]), "wb") as file:
        file.write(b'{"a":2}')
    with pytest.raises(ContainerError, match="digest"):
        store.get_json(descriptor)
    with pytest.raises(ContainerError, match="not in the store"):
        store.get_json({**descriptor, "digest": "sha256:" + "0" * 64})


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"schemaVersion": 1},
        {"schemaVersion": 2, "layers": []},
        {"schemaVersion": 2, "layers": "x", "config": {}},
        {
            "schemaVersion": 2,
            "layers": [],
            "config": {"digest": "sha256:../../x", "size": 1, "mediaType": media.CONFIG},
        },
        {
            "schemaVersion": 2,
            "layers": [],
            "config": {"digest": "sha256:" + "0" * 64, "size": -1, "mediaType": media.CONFIG},
        },
        {
            "schemaVersion": 2,
            "layers": [],
            "config": {"digest": "sha256:" + "0" * 64, "size": True, "mediaType": media.CONFIG},
        },
        {
            "schemaVersion": 2,
            "layers": [],
            "config": {"digest": "sha256:" + "0" * 64, "size": 1, "mediaType": "text/html"},
        },
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(manifest):
    with pytest.raises(ContainerError):
        media.check_manifest(manifest)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rootfs": []},
        {"rootfs": {"diff_ids": ["sha256:x"]}},
        {"rootfs": {"diff_ids": [1]}},
        {"rootfs": {"diff_ids": []}},
        {"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}, "config": {"Env": "PATH=/"}},
        {"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}, "config": {"Cmd": [1]}},
        {"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}, "config": []},
    ],
)
def test_a_config_that_cannot_be_used_is_refused(config):
    with pytest.raises(ContainerError):
        media.check_config(config, 1)


def test_an_image_for_another_machine_is_refused(store):
    with pytest.raises(ContainerError, match="pull it for this platform"):
        media.check_platform({"os": "linux", "architecture": "s390x"})


# Many at once, and killed ones


def test_many_threads_tag_at_once_and_no_name_is_lost(store):
    descriptor = image.find(store, "busybox").descriptor

    def tag(number):
        Store(store.home).tag(f"name{number}", descriptor)

    threads = [threading.Thread(target=tag, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.tags()) == 21


MAKER = """
import sys
from tests.helpers.images import add_image
from minidocker.images.store import Store
store = Store(sys.argv[1])
print("begun", flush=True)
while True:
    image = add_image(store, "made", sys.argv[2])
    image.layers()
    store.untag("made")
"""


def test_a_maker_that_is_killed_leaves_a_whole_store_and_litter_that_goes(store, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / str(number)).write_bytes(os.urandom(3000))
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO}/tests"}
    for moment in range(8):
        argv = [sys.executable, "-c", MAKER, store.home, str(tree)]
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        process.stdout.readline()
        threading.Event().wait(0.01 + 0.03 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for found in image.images(store):  # every document is whole, and what it names is there
            assert all(store.has(digest) for digest in found.digests())
    store.untag("made")
    store.collect()
    assert not os.listdir(store.tmp)
    assert len(os.listdir(f"{store.layout}/blobs/sha256")) == 3
    assert image.find(store, "busybox").layers()


def test_collecting_waits_for_who_makes_and_removing_does_not(store):
    with store.writing():
        assert store.collect(wait=False) == 0
        blob = store.put(b"no name yet", media.LAYER)
        image.remove(store, "busybox")
        assert store.has(blob["digest"])
    store.collect()
    assert not store.has(blob["digest"])


def test_foreign_setuid_files_are_for_root_only(tmp_path):
    """CVE-2021-41091: what layers hold is not for the users of this machine, also where an older store let them in."""
    for name in ("layers", "tmp"):
        (tmp_path / name).mkdir(mode=0o755)
    store = Store(str(tmp_path))
    assert [os.stat(path).st_mode & 0o7777 for path in (store.unpacked, store.tmp)] == [0o700, 0o700]


# Names before prefixes of IDs


def free_digit(store):
    """A letter that is a name as well, and no ID of an image begins with it: what is in the store differs."""
    return next(digit for digit in "abcdef" if not any(kept.id[7] == digit for kept in image.images(store)))


def with_id(store, first, tree):
    """An image whose ID begins with this digit: a name that looks like hexadecimal is no riddle any more."""
    for number in range(500):
        made = add_image(store, "lottery", tree, Labels={"number": str(number)})
        if made.id.startswith(f"sha256:{first}"):
            return made
        image.remove(store, "lottery")
    raise AssertionError("no such ID")


def test_a_name_wins_over_the_beginning_of_an_id_and_a_full_id_over_all(store, tmp_path):
    (tmp_path / "tree").mkdir()
    busybox = image.find(store, "busybox")
    digit = free_digit(store)
    other = with_id(store, digit, tmp_path / "tree")
    assert image.find(store, digit).id == other.id  # nothing is called so yet
    store.tag(digit, busybox.descriptor)
    store.tag(other.id[7:19], busybox.descriptor)
    assert image.find(store, digit).id == image.find(store, other.id[7:19]).id == busybox.id
    assert image.find(store, other.id[:15]).id == image.find(store, other.id).id == image.find(store, other.id[7:]).id
    assert image.find(store, other.id).id == other.id
    assert ready(digit, store.home)["id"] == busybox.id
    assert image.remove(store, digit) == [f"Untagged: {digit}:latest"]
    assert store.has(other.id) and image.find(store, "lottery").id == other.id


def test_the_command_takes_the_name_as_well(store, tmp_path):
    (tmp_path / "tree").mkdir()
    other = with_id(store, "d", tmp_path / "tree")
    store.tag("d", image.find(store, "busybox").descriptor)

    def shown(*words):
        return minidocker(store.home, *words).stdout

    assert shown("run", "d", "echo", "the right one") == "the right one\n"
    assert json.loads(shown("inspect", "d"))[0]["Id"] == image.find(store, "busybox").id
    shown("tag", "d", "again")
    assert image.find(store, "again").id == image.find(store, "busybox").id
    (tmp_path / "Dockerfile").write_text("FROM d\nRUN echo built\n")
    assert minidocker(store.home, "build", "-t", "e", str(tmp_path)).returncode == 0
    for name in ("d", "d:latest"):
        minidocker(store.home, "save", "-o", tmp_path / name, name)
    assert (tmp_path / "d").read_bytes() == (tmp_path / "d:latest").read_bytes()
    assert "d:latest" in shown("rmi", "d") and image.find(store, "lottery").id == other.id


def test_the_beginning_of_an_id_is_not_pushed_as_a_name(store, tmp_path):
    digits = image.find(store, "busybox").id[7:19]
    refused = minidocker(store.home, "push", digits)
    assert (refused.returncode, "no image here is called" in refused.stderr) == (1, True), refused.stderr


def test_an_ambiguous_beginning_is_refused(store, tmp_path):
    (tmp_path / "tree").mkdir()
    first = with_id(store, "d", tmp_path / "tree")
    store.tag("first", first.descriptor)
    store.untag("lottery")
    (tmp_path / "tree/file").touch()
    with_id(store, "d", tmp_path / "tree")
    with pytest.raises(ContainerError, match="give more digits"):
        image.find(store, "d")
    with pytest.raises(ContainerError, match="give more digits"):
        image.remove(store, "d")


# A layer that comes twice


@pytest.mark.skipif(os.geteuid() != 0, reason="to mount a union needs root")
@pytest.mark.parametrize("order", ["bb", "bab", "bcbc", "babab", "eeb", "bee", "ebe"])
def test_a_layer_may_come_twice(store, tmp_path, order):
    """Wherever it stands: what the lower one says, the upper one says again. BuildKit's empty layer often does."""
    layers = {"b": image.find(store, "busybox")}
    pairs = {"b": (layers["b"].manifest["layers"][0], layers["b"].diff_ids[0])}
    for name, made in {"a": lambda path: (path / "x").write_text("a"), "c": hides_x, "e": lambda path: None}.items():
        (tmp_path / name).mkdir()
        made(tmp_path / name)
        pairs[name] = store.add_layer(str(tmp_path / name))
    rootfs = {"type": "layers", "diff_ids": [pairs[name][1] for name in order]}
    config = {**media.platform(), "config": {"Cmd": ["sh", "-c", "ls /x; echo runs"]}, "rootfs": rootfs}
    twice = image.make(store, config, [pairs[name][0] for name in order])
    store.tag("twice", twice.descriptor)
    assert len(twice.layers()) == len(set(order)) == len(set(twice.layers()))
    shown = minidocker(store.home, "run", "twice").stdout
    assert shown == ("/x\nruns\n" if "a" in order else "runs\n")
    archive = tmp_path / "twice.tar"
    assert minidocker(store.home, "save", "-o", archive, "twice").returncode == 0
    assert minidocker(tmp_path / "there", "load", "-i", archive).returncode == 0
    assert minidocker(tmp_path / "there", "run", "twice").stdout == shown
    assert minidocker(store.home, "export", "-o", tmp_path / "files.tar", "twice").returncode == 0
    (tmp_path / "Dockerfile").write_text("FROM twice\nRUN echo built >/built\n")
    assert minidocker(store.home, "build", "-t", "more", str(tmp_path)).returncode == 0
    assert minidocker(store.home, "run", "more", "cat", "/built").stdout == "built\n"


def hides_x(path):
    os.mknod(path / "x", 0o020000, 0)


# Images in use


@pytest.fixture
def running(store):
    """A container of busybox that runs."""
    argv, isolators, options = container(ready("busybox", store.home), ["sleep", "1000"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIDOCKER_HOME", store.home)
        with start(argv, *isolators, **options) as process:
            yield process


@pytest.mark.skipif(os.geteuid() != 0, reason="to run a container needs root")
def test_the_image_of_a_running_container_is_not_removed(store, tmp_path, running):
    found = image.find(store, "busybox")
    for word in ("busybox", found.id[7:19]):
        with pytest.raises(ContainerError, match="a container uses this image"):
            image.remove(store, word)
    with pytest.raises(ContainerError, match="a container uses this image"):
        image.remove(store, found.id, force=True)
    store.tag("other", found.descriptor)
    assert image.remove(store, "other") == ["Untagged: other:latest"]  # a name of several is only a name
    (tmp_path / "tree").mkdir()
    unused = add_image(store, "unused", tmp_path / "tree")
    image.prune(store, everything=True)
    assert store.has(found.id) and not store.has(unused.id)
    assert image.remove(store, "busybox", force=True) == ["Untagged: busybox:latest"]
    image.prune(store)
    assert store.has(found.id) and not store.tags()
    running.kill()
    running.wait()
    image.prune(store)
    assert not store.has(found.id)


# One bad image


@pytest.mark.parametrize(
    "change",
    [
        {"created": 5},
        {"author": ["a"]},
        {"history": {}},
        {"history": [7]},
        {"history": [{"created_by": 1}]},
        {"architecture": {}},
        {"config": {"Volumes": ["x"]}},
        {"config": {"ExposedPorts": "80"}},
        {"config": {"Labels": [1]}},
        {"config": {"User": 7}},
    ],
)
def test_a_config_with_a_key_of_another_kind_is_refused_at_the_door_and_breaks_no_list(store, tmp_path, change):
    good = image.find(store, "busybox")
    config = store.put(json.dumps({**good.config, **change}).encode(), media.CONFIG)
    document = {**good.manifest, "config": config}
    bad = store.put(json.dumps(document).encode(), media.MANIFEST)
    store.tag("bad", bad)
    with pytest.raises(ContainerError, match="that cannot be"):
        image.find(store, "bad")
    listed = minidocker(store.home, "images")
    assert (listed.returncode, listed.stderr) == (0, "") and "busybox" in listed.stdout
    for words in (("history", "busybox"), ("inspect", "busybox"), ("system", "df"), ("image", "prune")):
        assert minidocker(store.home, *words).returncode == 0
    for words in (("run", "bad"), ("inspect", "bad"), ("save", "bad")):
        refused = minidocker(store.home, *words)
        assert refused.returncode in (1, 125) and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert minidocker(store.home, "rmi", "bad").stdout == "Untagged: bad:latest\n"
    assert [*store.tags()] == ["docker.io/library/busybox:latest"]


# A full disk

FULL = """
mount -t tmpfs -o size=8m small "$MINIDOCKER_HOME" && "$0" -m minidocker load -q -i "$1" || exit 9
dd if=/dev/zero of="$MINIDOCKER_HOME/fill" bs=1k count=99999 2>/dev/null
"$0" -m minidocker rmi busybox && "$0" -m minidocker images
rm "$MINIDOCKER_HOME/fill"; "$0" -m minidocker load -q -i "$1"
dd if=/dev/zero of="$MINIDOCKER_HOME/fill" bs=1k count=99999 2>/dev/null
"$0" -m minidocker image prune -a && "$0" -m minidocker images && ls "$MINIDOCKER_HOME/images/blobs/sha256"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="to mount a small file system needs root")
def test_on_a_full_disk_images_can_be_removed(store, tmp_path):
    assert minidocker(store.home, "save", "-o", tmp_path / "busybox.tar", "busybox").returncode == 0
    (tmp_path / "small").mkdir()
    environment = {**os.environ, "MINIDOCKER_HOME": str(tmp_path / "small"), "PYTHONPATH": str(REPO)}
    words = ["unshare", "-m", "sh", "-c", FULL, sys.executable, str(tmp_path / "busybox.tar")]
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (shown.returncode, shown.stderr) == (0, ""), shown
    header = "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"
    lines = shown.stdout.splitlines()
    assert lines[0] == "Untagged: busybox:latest" and lines[2] == header
    assert lines[3].endswith("MB") and lines[4:] == [header]


def test_a_cache_that_cannot_be_written_is_none(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    first = ready("busybox", store.home)
    shutil.rmtree(f"{store.home}/ready")
    monkeypatch.setattr("minidocker.state.replace", refuse)
    assert ready("busybox", store.home) == first
    store.remember("ab" * 32, image.find(store, "busybox").descriptor)
    assert "ab" * 32 not in store.steps()


@pytest.mark.skipif(os.geteuid() != 0, reason="to build needs root")
def test_what_only_the_cache_of_a_removed_image_needs_goes_with_it(store, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo one >/one\nRUN echo two >/two\n")
    before = sorted(os.listdir(f"{store.layout}/blobs/sha256"))
    assert minidocker(store.home, "build", "-t", "built", str(tmp_path)).returncode == 0
    assert len(store.steps()) == 2
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo one >/one\nRUN echo three >/three\n")
    assert minidocker(store.home, "build", "-t", "other", str(tmp_path)).returncode == 0
    assert minidocker(store.home, "rmi", "built").returncode == 0
    assert len(store.steps()) == 2  # the first step led to both
    assert minidocker(store.home, "rmi", "other").returncode == 0
    assert store.steps() == {} and sorted(os.listdir(f"{store.layout}/blobs/sha256")) == before


def test_prune_says_what_was_really_freed(store, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(os.urandom(1 << 20))
    os.link(tree / "a", tree / "b")
    made = add_image(store, "linked", tree)
    made.layers()

    def used(path):
        return files.usage([path])

    before = used(store.layout) + used(store.unpacked)
    store.untag("linked")
    freed = store.collect()
    assert abs(before - used(store.layout) - used(store.unpacked) - freed) < 1 << 16


SHORT = """
import resource, signal, sys
from minidocker import state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
state.replace(sys.argv[1], b"n" * 5000)
"""


def test_a_file_that_is_written_in_part_does_not_take_the_place_of_a_whole_one(tmp_path):
    """write(2) may write less than it was given: on a disk that is nearly full, or here, by a limit."""
    (tmp_path / "file").write_text("old")
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    failed = subprocess.run([sys.executable, "-c", SHORT, tmp_path / "file"], env=environment, capture_output=True)
    assert b"File too large" in failed.stderr
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_what_a_killed_writer_of_the_index_left_goes_with_the_next_change(store):
    with open(f"{store.index}.abc.new", "w") as file:
        file.write("{")
    store.tag("other", image.find(store, "busybox").descriptor)
    assert sorted(os.listdir(store.layout)) == ["blobs", "index.json", "oci-layout"]

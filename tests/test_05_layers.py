"""Chapter 5: a directory becomes a layer and a layer a directory, exactly; and what a hostile layer cannot do."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import random
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import layers_05 as trees
import pytest
import zstandard
from conftest import need
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layers_05 import archive, build, differences, entry, header, packed, pax, sha256, snapshot, unpacked

from minidocker.images import share, tar
from minidocker.images.diff import write_layer
from minidocker.images.unpack import unpack
from minidocker.outcome import ContainerError
from minidocker.process import start
from minidocker.union import Union

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners and devices: this needs root"),
]

ROOTS = pathlib.Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"), "roots")
OFTEN = int(os.environ.get("MINIDOCKER_EXAMPLES", "30"))
DIRECTORY, SYMLINK, HARDLINK = tar.DIRECTORY, tar.SYMLINK, tar.HARDLINK


# Without shrinking: each example unpacks several layers, and a failure would be hours in coming
GENERATE = [Phase.explicit, Phase.reuse, Phase.generate]


def driven(test):
    return settings(max_examples=OFTEN, deadline=None, suppress_health_check=[*HealthCheck], phases=GENERATE)(test)


@contextlib.contextmanager
def scratch():
    """A directory for one example: in memory, if that file system has attributes of users there (Linux 6.6)."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if MEMORY else None) as path:
        yield pathlib.Path(path)


def has_attributes(directory):
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=directory) as file:
        os.setxattr(file.name, "user.a", b"")
        return True
    return False


MEMORY = has_attributes("/dev/shm")


@pytest.fixture
def tmp_path():
    with scratch() as path:
        yield path


# A tree goes through a layer and back


@driven
@given(tree=trees.trees())
def test_a_tree_survives_a_layer(tree):
    with scratch() as top:
        for name in ("one", "two"):
            (top / name).mkdir()
            build(top / name, tree)
        layer = packed(top / "one")
        assert packed(top / "two") == layer  # the same tree, the same bytes
        unpacked(layer, top / "out")
        assert differences(snapshot(top / "one"), snapshot(top / "out")) == []
        assert packed(top / "out") == layer


@driven
@given(tree=trees.trees())
def test_tarfile_reads_the_same_tree(tree):
    """The standard library as a second opinion about what we write."""
    with scratch() as top:
        (top / "one").mkdir()
        build(top / "one", tree)
        theirs = {}
        with tarfile.open(fileobj=io.BytesIO(packed(top / "one")), encoding="utf-8", errors="surrogateescape") as file:
            for member in file:
                name = os.fsencode(member.name).removeprefix(b".").strip(b"/")
                theirs[name] = (member.mode, (member.uid, member.gid), member.isreg() and member.size)
        ours = snapshot(top / "one")
        assert theirs.keys() == ours.keys()
        for name, file in ours.items():
            first = file["group"] in (None, name)
            size = file["size"] if stat.S_ISREG(file["kind"]) and first else False
            assert theirs[name] == (file["mode"], file["owner"], size)


def changed(tree, other):
    """The paths of `other` that a layer over `tree` must hold; the names of one file go together."""

    def family(where, path):
        first = where[path].link if where[path].kind == "link" else path
        return [name for name in sorted(where) if first in (name, where[name].kind == "link" and where[name].link)]

    return {
        path
        for path, node in other.items()
        if node.kind == "dir" or any(
            tree.get(name) != other[name] or (name in tree and family(tree, name) != family(other, name))
            for name in family(other, path)
        )
    }  # fmt: skip


def build_upper(top, tree, other, form, opaque):
    """The upper directory of a union that shows `other` over `tree`, made by hand in one of the two formats."""
    keep = changed(tree, other)
    covered = {path for path in other if path and path in opaque and other[path].kind == "dir"}
    for path in other:
        above = {path[:end] for end in range(len(path)) if path[end : end + 1] == b"/"}
        keep |= {path} if above & covered else set()
    for path, node in other.items():  # the names of a file with several stay together
        if node.kind == "link" and (path in keep or node.link in keep):
            keep |= {path, node.link}
    for path, node in other.items():
        if node.kind == "link" and node.link in keep:
            keep.add(path)
    build(top, {path: node for path, node in other.items() if path in keep})
    times = {path: os.stat(os.path.join(os.fsencode(top), path)) for path, node in other.items() if node.kind == "dir"}
    for path in tree:
        parent, base = os.path.split(path)
        alive = path and path not in other and other.get(parent, trees.Node("file", 0, 0, 0, 0)).kind == "dir"
        if alive and not any(parent == name or parent.startswith(name + b"/") for name in covered):
            place = os.path.join(os.fsencode(top), parent)
            if form == "overlay":
                os.mknod(os.path.join(place, base), stat.S_IFCHR, 0)
            elif len(base) <= 251:
                pathlib.Path(os.fsdecode(os.path.join(place, b".wh." + base))).touch()
    for path in covered:
        place = os.path.join(os.fsencode(top), path)
        if form == "overlay":
            os.setxattr(place, "trusted.overlay.opaque", b"y")
        else:
            pathlib.Path(os.fsdecode(place), ".wh..wh..opq").touch()
    for path, status in times.items():
        os.utime(os.path.join(os.fsencode(top), path), ns=(status.st_mtime_ns, status.st_mtime_ns))


def short(tree):
    """Without the longest name: AUFS has no room for a whiteout of it."""
    return {path: node for path, node in tree.items() if b"m" * 255 not in path and b"m" * 255 not in node.link}


@driven
@given(tree=trees.trees().map(short), other=trees.trees().map(short), opaque=st.sets(trees.PATHS, max_size=3))
def test_the_difference_of_two_trees_makes_the_second_of_the_first(tree, other, opaque):
    with scratch() as top:
        layers = {}
        for form in ("overlay", "aufs"):
            (top / form).mkdir()
            build_upper(top / form, tree, other, form, opaque)
            layers[form] = packed(top / form, form)
        assert layers["overlay"] == layers["aufs"]  # whichever union it was, the layer is the same
        for name, contents in (("base", tree), ("wanted", other)):
            (top / name).mkdir()
            build(top / name, contents)
        wanted = snapshot(top / "wanted")
        unpacked(packed(top / "base"), top / "merged")
        unpacked(layers["aufs"], top / "merged", "remove")
        assert differences(wanted, snapshot(top / "merged")) == []
        for form in ("overlay", "aufs"):  # unpacked for a union, it is the upper directory again
            unpacked(layers[form], top / f"{form} again", form)
            assert packed(top / f"{form} again", form) == layers[form]
        with mounted([str(top / "overlay again"), str(top / "base")]) as merged:
            shown = snapshot(merged)
            del shown[b""], wanted[b""]  # the container's own upper directory has attributes of its own
            assert differences(wanted, shown) == []


@contextlib.contextmanager
def mounted(lowers, upper=None, driver="overlay"):
    """A union, and where the host reaches it: through the root of a process that sees the mount."""
    union = Union(lowers, upper, driver=driver)
    with start(["sleep", "1000"], union) as process:
        yield f"/proc/{process.pid}/root{union.root}"


PLAIN = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "mkdir", "remove", "remove", "fifo", "symlink"]), PLAIN),
        st.tuples(st.just("chmod"), PLAIN, st.sampled_from([0o600, 0o4755, 0o1777])),
        st.tuples(st.just("chown"), PLAIN, st.sampled_from([7, 1000])),
        st.tuples(st.just("replace"), PLAIN),  # a directory by a new one of the same name: opaque
        st.tuples(st.sampled_from(["rename", "link"]), PLAIN, PLAIN),
    ),
    min_size=1,
    max_size=15,
)


def change(top, what, path, *rest):
    """One change, if it can be made."""
    path = os.path.join(top, path)
    with contextlib.suppress(OSError):
        if what == "write":
            with open(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK), "w"
            ) as file:  # not of a FIFO
                file.write(f"{rest} {path[-3:]}")
        elif what == "mkdir":
            os.mkdir(path)
        elif what == "remove":
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        elif what == "replace" and os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
            os.mkdir(path)
            with open(os.path.join(path, "new"), "w"):
                pass
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "symlink":
            os.symlink("/nowhere", path)
        elif what == "chmod" and not os.path.islink(path):
            os.chmod(path, rest[0])
        elif what == "chown":
            os.chown(path, rest[0], 0, follow_symlinks=False)
        elif what == "rename":
            os.rename(path, os.path.join(top, rest[0]))
        elif what == "link":
            os.link(path, os.path.join(top, rest[0]), follow_symlinks=False)


@pytest.mark.parametrize("driver", ["overlay", "aufs"])
@driven
@given(before=CHANGES, after=CHANGES)
def test_what_a_container_changes_becomes_a_layer(driver, before, after):
    """A real union is changed through its mount; its upper directory, over the lower one, is what it showed."""
    with scratch() as top:
        for name in ("base", "upper"):
            (top / name).mkdir(mode=0o755)
        for operation in [("mkdir", "a"), ("mkdir", "a/b"), ("write", "a/b/a"), ("write", "b"), *before]:
            change(top / "base", *operation)
        with mounted([str(top / "base")], str(top / "upper"), driver) as merged:
            for operation in after:
                change(merged, *operation)
            shown = snapshot(merged, ["trusted.overlay."])
        unpacked(packed(top / "base"), top / "out")
        unpacked(packed(top / "upper", driver), top / "out", "remove")
        assert differences(shown, snapshot(top / "out")) == []


# The same tree as other tools make of the same layer


def odd_tree(top):
    """One of everything that a layer can hold."""
    (top / "d/deep").mkdir(parents=True)
    (top / "d/file").write_bytes(b"content\n")
    os.link(top / "d/file", top / "second name")
    (top / "setuid").write_bytes(b"#!\n")
    os.chown(top / "setuid", 1000, 2**21)
    os.chmod(top / "setuid", 0o6755)
    os.chmod(top / "d", 0o1777)
    (top / "ping").write_bytes(b"\x7fELF")
    os.setxattr(top / "ping", "security.capability", trees.CAPABILITY)
    os.setxattr(top / "d", "user.note", b"\0binary\xff")
    os.symlink("/etc/passwd", top / "absolute")
    os.link(top / "absolute", top / "absolute again", follow_symlinks=False)
    os.symlink("t" * 300, top / "dangling")
    os.mkfifo(top / "fifo", 0o622)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 1000))
    (top / ("n" * 120)).write_bytes(b"")
    (top / ("m" * 255)).mkdir()
    pathlib.Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_bytes(b"not UTF-8")
    (top / "é").write_bytes("é".encode())
    with open(top / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    for path, directories, files in os.walk(top, topdown=False):
        for name in [*files, *directories, ""]:
            os.utime(os.path.join(path, name), ns=(0, 1_234_567_890_123_456_789), follow_symlinks=False)


@pytest.fixture(scope="module")
def debian_layer():
    """The Debian root of set-up, as a layer: (tar, root)."""
    root = ROOTS / "debian"
    need(root.is_dir(), "needs the Debian root: make run")
    return packed(root), root


def oci_layout(top, layer):
    """An image of one layer, written here without the package's store."""
    (top / "blobs/sha256").mkdir(parents=True)

    def put(data):
        (top / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)
        return {"digest": sha256(data), "size": len(data)}

    prefix = "application/vnd.oci.image."
    rootfs = {"type": "layers", "diff_ids": [sha256(layer)]}
    config = put(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode())
    blob = put(trees.compressed(layer))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}manifest.v1+json",
        "config": {"mediaType": f"{prefix}config.v1+json", **config},
        "layers": [{"mediaType": f"{prefix}layer.v1.tar+gzip", **blob}],
    }
    described = {"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}
    described["annotations"] = {"org.opencontainers.image.ref.name": "it"}
    (top / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (top / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))


def by_umoci(layer, top):
    need(shutil.which("umoci"), "needs umoci")
    oci_layout(top / "layout", layer)
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{top}/layout:it", top / "theirs"], check=True)


def by_gnu_tar(layer, top):
    need(shutil.which("tar"), "needs GNU tar")
    (top / "theirs").mkdir()
    command = ["tar", "-xpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", top / "theirs"]
    subprocess.run(command, input=layer, check=True)


@pytest.mark.parametrize("tool", [by_umoci, by_gnu_tar])
@pytest.mark.parametrize("what", ["odd", "debian"])
def test_other_tools_make_the_same_tree_of_our_layer(tool, what, tmp_path, request):
    if what == "debian":
        layer = request.getfixturevalue("debian_layer")[0]
    else:
        (tmp_path / "odd").mkdir()
        odd_tree(tmp_path / "odd")
        layer = packed(tmp_path / "odd")
    unpacked(layer, tmp_path / "ours")
    tool(layer, tmp_path)
    assert differences(snapshot(tmp_path / "ours"), snapshot(tmp_path / "theirs")) == []


@pytest.mark.parametrize("form", ["pax", "gnu", "posix", "v7"])
def test_we_make_the_same_tree_of_gnu_tars_layer(form, tmp_path):
    need(shutil.which("tar"), "needs GNU tar")
    (tmp_path / "odd").mkdir()
    odd_tree(tmp_path / "odd")
    if form == "v7":  # it has neither long names, nor devices, nor large numbers
        for name in ("n" * 120, "m" * 255, "fifo", "null", "disk", "setuid", "dangling"):
            path = tmp_path / "odd" / name
            path.rmdir() if os.path.isdir(path) else path.unlink()
    xattrs = ["--xattrs", "--xattrs-include=*"] if form in ("pax", "posix") else []
    command = ["tar", f"--format={form}", *xattrs, "--numeric-owner", "-cf", "-", "-C", tmp_path / "odd", "."]
    layer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    unpacked(layer, tmp_path / "ours")
    one, other = snapshot(tmp_path / "odd"), snapshot(tmp_path / "ours")
    if form in ("gnu", "v7"):  # whole seconds, no attributes
        for files in (one, other):
            for file in files.values():
                file["time"], file["xattrs"] = file["time"] // 10**9, {}
    assert differences(one, other) == []


def test_the_debian_root_survives_a_layer(debian_layer, tmp_path):
    layer, root = debian_layer
    unpacked(layer, tmp_path / "ours", blob=trees.compressed(layer))
    assert differences(snapshot(root), snapshot(tmp_path / "ours")) == []


def test_names_that_go_writes(tmp_path):
    """Go's tar leaves the name field empty if nothing of the name is ASCII; only the pax record has it."""
    name = "日本".encode()
    layer = archive(pax(tar._record(b"path", name)), header(entry(b"x"), offset_0=bytes(100)))
    unpacked(layer, tmp_path / "out")
    assert os.listdir(os.fsencode(tmp_path / "out")) == [name]


def test_an_attribute_with_an_equals_sign_as_gnu_tar_writes_it(tmp_path):
    need(shutil.which("tar"), "needs GNU tar")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").touch()
    os.setxattr(tmp_path / "in/file", "user.a=b%3D", b"value")
    command = ["tar", "--format=pax", "--xattrs", "-cf", "-", "-C", tmp_path / "in", "."]
    unpacked(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, tmp_path / "ours")
    assert trees.xattrs(tmp_path / "ours/file") == {"user.a=b%3D": b"value"}
    by_gnu_tar(packed(tmp_path / "in"), tmp_path)
    assert trees.xattrs(tmp_path / "theirs/file") == {"user.a=b%3D": b"value"}


# How a blob may be compressed

CONTENT = archive((entry(b"file"), b"content"), entry(b"d/", DIRECTORY, 0o755))
HALF = len(CONTENT) // 2
FRAMES = [zstandard.ZstdCompressor().compress(part) for part in (CONTENT[:HALF], CONTENT[HALF:])]
BLOBS = {
    "none": CONTENT,
    "gzip": gzip.compress(CONTENT),
    "gzip of two members": gzip.compress(CONTENT[:HALF]) + gzip.compress(CONTENT[HALF:]),
    "gzip with zeros after it": gzip.compress(CONTENT) + bytes(512),
    "zstd": zstandard.ZstdCompressor().compress(CONTENT),
    "zstd of two frames": b"".join(FRAMES),
    "zstd with frames to skip": b"\x50\x2a\x4d\x18\4\0\0\0skip" + b"".join(FRAMES) + b"\x51\x2a\x4d\x18\4\0\0\0skip",
}


@pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS)
def test_a_blob_is_decompressed(blob, tmp_path):
    unpacked(CONTENT, tmp_path / "out", blob=blob)
    assert (tmp_path / "out/file").read_text() == "content"


def test_threads_unpack_at_the_same_time(tmp_path):
    """Layers are pulled in parallel; a process with threads has the launcher start the jails."""
    threads = [
        threading.Thread(target=unpacked, args=(CONTENT, tmp_path / str(number) / "out"), daemon=True)
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(tmp_path / str(number) / "out/file").read_text() for number in range(4)] == ["content"] * 4


# Whiteouts


def whiteout(name):
    return entry(name, mode=0)


LOWER = archive(
    entry(b"d/", DIRECTORY, 0o755),
    (entry(b"d/old"), b"old"),
    entry(b"d/sub/", DIRECTORY, 0o755),
    (entry(b"d/sub/old"), b"old"),
    (entry(b"f"), b"old"),
)
WHITEOUTS = {
    "a file": ([whiteout(b".wh.f")], {"d", "d/old", "d/sub", "d/sub/old"}),
    "a directory": ([whiteout(b".wh.d")], {"f"}),
    "what is not there": ([whiteout(b".wh.nothing")], {"d", "d/old", "d/sub", "d/sub/old", "f"}),
    "in a directory that the layer does not mention": ([whiteout(b"d/sub/.wh.old")], {"d", "d/old", "d/sub", "f"}),
    "twice": ([whiteout(b".wh.f"), whiteout(b".wh.f")], {"d", "d/old", "d/sub", "d/sub/old"}),
    "opaque first": (
        [entry(b"d/", DIRECTORY, 0o755), whiteout(b"d/.wh..wh..opq"), entry(b"d/new")], {"d", "d/new", "f"}
    ),
    "opaque last": (
        [entry(b"d/new"), entry(b"d/sub/deep/new"), whiteout(b"d/.wh..wh..opq")],
        {"d", "d/new", "d/sub", "d/sub/deep", "d/sub/deep/new", "f"},
    ),
    "a directory, which the layer makes again": (
        [whiteout(b".wh.d"), entry(b"d/", DIRECTORY, 0o755), entry(b"d/new")],
        {"d", "d/new", "f"},
    ),
    "a directory, which the layer has made before": (
        [entry(b"d/", DIRECTORY, 0o755), entry(b"d/new"), whiteout(b".wh.d")],
        {"d", "d/new", "f"},
    ),
    "a file, which the layer makes again": (
        [whiteout(b".wh.f"), entry(b"f")], {"d", "d/old", "d/sub", "d/sub/old", "f"}
    ),
    "a directory that becomes a file": ([entry(b"d")], {"d", "f"}),
    "a file that becomes a directory": ([entry(b"f/new")], {"d", "d/old", "d/sub", "d/sub/old", "f", "f/new"}),
    "aufs's own files": (
        [entry(b".wh..wh.plnk/", DIRECTORY), (entry(b".wh..wh.plnk/1.2"), b"x"), whiteout(b".wh..wh.aufs")],
        {"d", "d/old", "d/sub", "d/sub/old", "f"},
    ),
}  # fmt: skip


def names(top):
    return {str(path.relative_to(top)) for path in pathlib.Path(top).rglob("*")}


@pytest.mark.parametrize("entries, wanted", WHITEOUTS.values(), ids=WHITEOUTS)
def test_a_whiteout_hides_what_is_below(entries, wanted, tmp_path):
    layer = archive(*entries)
    unpacked(LOWER, tmp_path / "base")
    if entries[0].name != b"f/new":  # without an entry for f, only the union can know that it was a file
        unpacked(LOWER, tmp_path / "merged")
        unpacked(layer, tmp_path / "merged", "remove")
        assert names(tmp_path / "merged") == wanted
    for form, driver in (("overlay", "overlay"), ("overlay", "aufs"), ("aufs", "aufs")):
        unpacked(layer, tmp_path / form / driver / "top", form)
        with mounted([str(tmp_path / form / driver / "top"), str(tmp_path / "base")], driver=driver) as merged:
            assert names(merged) == wanted, (form, driver)


# A hostile layer: one clear error, and nothing that is left


def regular(name, content=b"x", **fields):
    return entry(name, **fields), content


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
    "an unknown attribute": (archive(entry(b"f", xattrs={b"nonsense.x": b""})), "f: Operation not supported"),
    "a huge size": (archive(header(entry(b"f", size=8**11 - 1))), "larger content|in the middle of a file"),
    "a huge size in base 256": (archive(header(entry(b"f"), offset_124=b"\x80" + b"\x7f" * 11)), "a size or time"),
    "a size below zero": (archive(header(entry(b"f"), offset_124=b"\xff" * 12)), "an owner, size or device"),
    "a size that is none": (archive(header(entry(b"f"), offset_124=b"-1         ")), "not a number"),
    "a size with an underscore": (archive(header(entry(b"f"), offset_124=b"1_0        ")), "not a number"),
    "a pax size that is none": (archive(pax(tar._record(b"size", b"x")), entry(b"f")), "not a number"),
    "an owner that means no change": (archive(entry(b"f", uid=2**32 - 1)), "an owner, size or device"),
    "a time beyond all": (archive(pax(tar._record(b"mtime", b"9" * 30)), entry(b"f")), "a size or time"),
    "a device beyond all": (
        archive(header(entry(b"f", tar.CHARACTER), offset_329=b"7777777")), "an owner, size or device"
    ),
    "an unknown type": (archive(header(entry(b"f"), offset_156=b"D")), "entries of type b'D'"),
    "gnu's sparse files": (archive(header(entry(b"f"), offset_156=b"S")), "tar --sparse"),
    "sparse files of pax 0.0": (sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.offset", b"1")), "tar --sparse"),
    "sparse files of pax 0.1": (sparse((b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.size", b"9")), "tar --sparse"),
    "sparse files of pax 1.0": (sparse((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")), "tar --sparse"),
    "a broken checksum": (GOOD[:148] + b"000000" + GOOD[154:], "a header's checksum is wrong"),
    "no tar at all": (b"This is not a tar archive.\n" * 100, "a header's checksum is wrong"),
    "nothing": (b"", "no end mark"),
    "no end": (GOOD[:-1024], "no end mark"),
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
        GOOD, "cannot be decompressed|no end mark", zstandard.ZstdCompressor().compress(GOOD)[:12] + b"\xff" * 50
    ),
    "zstd that is cut off": (GOOD, "in the middle|no end mark|cut off", zstandard.ZstdCompressor().compress(GOOD)[:-9]),
    "xz": (GOOD, "not a tar archive", b"\xfd7zXZ\0" + bytes(range(256)) * 4),
}  # fmt: skip


@pytest.mark.parametrize("form", ["overlay", "remove", "aufs"])
@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_layer_is_one_clear_error(case, form, tmp_path):
    layer, message, *blob = case
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("outside")
    before = snapshot(tmp_path)
    options = {"blob": blob[0]} if blob else {}
    if form == "aufs" and message == "must be a directory":
        message = "Not a directory"
    with pytest.raises(ContainerError, match=message) as error:
        unpacked(layer, tmp_path / "in/target", form, **options)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert len(str(error.value)) < 7000 and str(error.value).startswith("layer blob: ")
    shutil.rmtree(tmp_path / "in")
    after = snapshot(tmp_path)
    del before[b""], after[b""]
    assert differences(before, after) == []


def test_symlinks_that_point_out_are_kept_and_lead_nowhere(tmp_path):
    """Honest layers have absolute symlinks, and files below them: what they mean is the layer's own root."""
    (tmp_path / "outside").mkdir()
    up = b"../" * 30 + os.fsencode(tmp_path / "outside")
    layer = archive(
        entry(b"root", SYMLINK, link=b"/"), entry(b"up", SYMLINK, link=up), entry(b"lib", SYMLINK, link=b"/usr/lib"),
        entry(b"usr/lib/", DIRECTORY, 0o755), regular(b"lib/libc", b"one"), regular(b"root/here", b"two"),
    )  # fmt: skip
    unpacked(layer, tmp_path / "in/target", shared=str(tmp_path / "pool"))
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
from minidocker.images.unpack import unpack
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
        packer = zstandard.ZstdCompressor().compressobj()
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
    packer = zstandard.ZstdCompressor().compressobj()
    with open(tmp_path / "blob", "wb") as file:
        for number in range(1000):
            made = entry(b"d%d/" % number, DIRECTORY, xattrs=attributes)
            file.write(packer.compress(tar.write(made)))
        file.write(packer.flush())
    message, taken = measured(tmp_path / "blob", tmp_path / "out")
    assert "more to remember than there is room for" in message
    assert taken < 700


# Killed


BUSY = """
import os, sys, itertools
from minidocker.images.unpack import unpack
top, diff_id = sys.argv[1:]
print("ready", flush=True)
for number in itertools.count():
    os.mkdir(f"{top}/tmp/{number}")
    unpack(f"{top}/blob", f"{top}/tmp/{number}", diff_id, shared=f"{top}/pool")
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
    """Nothing lives on, and there is nothing outside the target, but files of the pool that are whole."""
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
        assert {path.name for path in tmp_path.iterdir()} <= {"blob", "tmp", "pool"}
        shutil.rmtree(tmp_path / "tmp")
        share.prune(str(tmp_path / "pool"))
        assert os.listdir(tmp_path / "pool") == []
        (tmp_path / "tmp").mkdir()
    unpacked(layer, tmp_path / "tmp/whole", shared=str(tmp_path / "pool"))
    assert packed(tmp_path / "tmp/whole")


# A directory becomes a layer: what cannot be one, and what changes meanwhile


def test_sockets_and_the_hosts_labels_stay_out(tmp_path):
    (tmp_path / "in").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "in/socket"))
        os.setxattr(tmp_path / "in", "security.selinux", b"unconfined_u\0")
        layer = packed(tmp_path / "in")
    unpacked(layer, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [] and trees.xattrs(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.redirect"])
def test_a_file_whose_content_is_elsewhere_cannot_become_a_layer(name, tmp_path):
    os.setxattr(tmp_path, name, b"/x")
    with pytest.raises(ContainerError, match="redirect_dir=off"):
        packed(tmp_path, "overlay")


@pytest.mark.parametrize("form, name", [("none", ".wh.a"), ("overlay", ".wh..wh..opq"), ("none", None)])
def test_a_file_that_would_be_a_whiteout_cannot_become_a_layer(form, name, tmp_path):
    (tmp_path / name).touch() if name else os.mknod(tmp_path / "w", stat.S_IFCHR)
    with pytest.raises(ContainerError, match=f"{name or 'w'}: it cannot become part of a layer: .*is a whiteout"):
        packed(tmp_path, form)


def test_the_marks_of_users_leave_as_those_of_root_do(tmp_path):
    """OverlayFS in a user namespace says user.overlay.opaque."""
    for name, mark in (("root", "trusted.overlay.opaque"), ("user", "user.overlay.opaque")):
        (tmp_path / name / "d").mkdir(parents=True)
        os.setxattr(tmp_path / name / "d", mark, b"y")
        for path in (tmp_path / name / "d", tmp_path / name):
            os.utime(path, (0, 0))
    assert packed(tmp_path / "root", "overlay") == packed(tmp_path / "user", "overlay")
    assert b"d/.wh..wh..opq" in packed(tmp_path / "user", "overlay")


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


def test_a_large_sparse_file_is_read_where_it_has_data(tmp_path):
    """Ten gigabytes of hole: the tar has them all, and nobody has them in memory or on the disk."""

    class Counter:
        size = digests = largest = 0

        def write(self, data):
            self.size += len(data)
            self.largest = max(self.largest, len(data))
            return len(data)

    (tmp_path / "in").mkdir()
    with open(tmp_path / "in/f", "wb") as file:
        file.truncate(10 << 30)
    counter = Counter()
    write_layer(str(tmp_path / "in"), counter)
    assert counter.size > 10 << 30 and counter.largest <= 1 << 20


# Files are shared beneath the layers


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
    assert share.saved(str(tmp_path / "pool")) == os.stat(one / "d/lib").st_blocks * 512
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

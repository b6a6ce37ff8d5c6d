"""Chapter 5: a directory becomes a layer and a layer a directory, exactly, also where other tools made one of them."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading

import pytest
from backports import zstd
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from minidocker.images import tar
from minidocker.images.layer.pack import write_layer
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.union import Union
from tests.helpers import layers as trees
from tests.helpers import need
from tests.helpers.layers import (
    archive,
    build,
    differences,
    entry,
    header,
    packed,
    pax,
    scratch,
    sha256,
    snapshot,
    unpacked,
    whiteout,
)

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners and devices: this needs root"),
]

ROOTS = pathlib.Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"), "roots")
OFTEN = int(os.environ.get("MINIDOCKER_EXAMPLES", "30"))
DIRECTORY = tar.DIRECTORY


# Without shrinking: each example unpacks several layers, and a failure would be hours in coming
GENERATE = [Phase.explicit, Phase.reuse, Phase.generate]


def driven(test):
    return settings(max_examples=OFTEN, deadline=None, suppress_health_check=[*HealthCheck], phases=GENERATE)(test)


@pytest.fixture
def tmp_path():
    with trees.scratch() as path:
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
        ours, names = snapshot(top / "one"), {}
        assert theirs.keys() == ours.keys()
        for name, file in sorted(ours.items(), key=lambda item: item[0].split(b"/")):  # as they come in the layer
            first = names.setdefault(file["group"] or name, name) == name
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


def build_upper(top, tree, other, opaque):
    """The upper directory of OverlayFS that shows `other` over `tree`, made by hand."""
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
            os.mknod(os.path.join(place, base), stat.S_IFCHR, 0)
    for path in covered:
        os.setxattr(os.path.join(os.fsencode(top), path), "trusted.overlay.opaque", b"y")
    for path, status in times.items():
        os.utime(os.path.join(os.fsencode(top), path), ns=(status.st_mtime_ns, status.st_mtime_ns))


@driven
@given(tree=trees.trees(), other=trees.trees(), opaque=st.sets(trees.PATHS, max_size=3))
def test_the_difference_of_two_trees_makes_the_second_of_the_first(tree, other, opaque):
    with scratch() as top:
        for name, contents in (("base", tree), ("wanted", other), ("upper", {})):
            (top / name).mkdir()
            build(top / name, contents)
        build_upper(top / "upper", tree, other, opaque)
        layer = packed(top / "upper")
        unpacked(layer, top / "again")  # it is the upper directory again
        assert packed(top / "again") == layer
        with mounted([str(top / "again"), str(top / "base")]) as merged:
            wanted, shown = snapshot(top / "wanted"), snapshot(merged)
            del shown[b""], wanted[b""]  # the container's own upper directory has attributes of its own
            assert differences(wanted, shown) == []


@contextlib.contextmanager
def mounted(lowers, upper=None):
    """A union, and where the host reaches it: through the root of a process that sees the mount."""
    union = Union(lowers, upper)
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
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOFOLLOW), "w"
            ) as file:  # not of a FIFO, and not where a symlink leads
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


@driven
@given(before=CHANGES, after=CHANGES)
def test_what_a_container_changes_becomes_a_layer(before, after):
    """A real union is changed through its mount; its upper directory, over the lower one, is what it showed."""
    with scratch() as top:
        for name in ("base", "upper"):
            (top / name).mkdir(mode=0o755)
        for operation in [("mkdir", "a"), ("mkdir", "a/b"), ("write", "a/b/a"), ("write", "b"), *before]:
            change(top / "base", *operation)
        with mounted([str(top / "base")], str(top / "upper")) as merged:
            for operation in after:
                change(merged, *operation)
            shown = snapshot(merged, ["trusted.overlay."])
        unpacked(packed(top / "base"), top / "below")
        unpacked(packed(top / "upper"), top / "above")
        with mounted([str(top / "above"), str(top / "below")]) as merged:
            again = snapshot(merged, ["trusted.overlay."])
            del shown[b""], again[b""]
            assert differences(shown, again) == []


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
def test_other_tools_make_the_same_tree_of_our_layer(tool, tmp_path):
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


def test_the_debian_root_survives_a_layer(tmp_path):
    """The root of set-up; GNU tar makes the same of its layer."""
    root = ROOTS / "debian"
    need(root.is_dir(), "needs the Debian root: make run")
    layer, original = packed(root), snapshot(root)
    unpacked(layer, tmp_path / "ours", blob=trees.compressed(layer))
    assert differences(original, snapshot(tmp_path / "ours")) == []
    by_gnu_tar(layer, tmp_path)
    assert differences(original, snapshot(tmp_path / "theirs")) == []


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
FRAMES = [zstd.compress(part) for part in (CONTENT[:HALF], CONTENT[HALF:])]
BLOBS = {
    "none": CONTENT,
    "gzip": gzip.compress(CONTENT),
    "gzip of two members": gzip.compress(CONTENT[:HALF]) + gzip.compress(CONTENT[HALF:]),
    "gzip with zeros after it": gzip.compress(CONTENT) + bytes(512),
    "zstd": zstd.compress(CONTENT),
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
    unpacked(LOWER, tmp_path / "base")
    unpacked(archive(*entries), tmp_path / "top")
    with mounted([str(tmp_path / "top"), str(tmp_path / "base")]) as merged:
        assert names(merged) == wanted


IN_A_NAMESPACE = """
import os, sys
from minidocker.images.container import container
from minidocker.images.layer.unpack import unpack
from minidocker.cgroups import Cgroup
from minidocker.process import run
layers = sys.argv[3:]
for number, target in enumerate(layers):
    os.mkdir(target)
    unpack(f"{sys.argv[1]}/{number}", target, None)
script = "ls /d; echo x > /dev/null; stat -c %u /dev/zero; chmod 0 /dev/zero"
argv, isolators, options = container({"layers": [*layers, sys.argv[2]], "config": {}}, ["sh", "-c", script])
isolators = [one for one in isolators if not isinstance(one, Cgroup)]
print(run(argv, *isolators, **options).stdout, [*map(os.listxattr, (f"{layers[0]}/d",))])
"""


def test_in_a_user_namespace_a_layer_has_no_devices_and_other_marks(tmp_path):
    """What is opaque is marked by an attribute of users; /dev has the host's devices, which do not change."""
    device = entry(b"node", tar.CHARACTER, major=1, minor=3)
    (tmp_path / "0").write_bytes(archive(device, entry(b"d/", DIRECTORY), whiteout(b"d/.wh..wh..opq"), entry(b"d/new")))
    (tmp_path / "1").write_bytes(LOWER)
    ids = {f"{kind}_map": "0 200000 65536" for kind in ("uid", "gid")}
    root, modes = tmp_path / "state", os.stat("/dev/zero").st_mode
    root.mkdir()
    for path in (tmp_path, root):
        os.chown(path, 200000, 200000)
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"], "MINIDOCKER_HOME": str(root)}
    paths = [str(tmp_path), str(ROOTS / "busybox"), str(tmp_path / "top"), str(tmp_path / "base")]
    done = run([sys.executable, "-c", IN_A_NAMESPACE, *paths], Namespaces("user mount", **ids), env=env)
    assert done.stdout.split() == ["new", "65534", "[['user.overlay.opaque']]"], done
    assert names(tmp_path / "top") == {"d", "d/new"} and os.stat("/dev/zero").st_mode == modes


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
        packed(tmp_path)


@pytest.mark.parametrize("name", [".wh.a", ".wh..wh..opq"])
def test_a_file_that_would_be_a_whiteout_cannot_become_a_layer(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ContainerError, match=f"{name}: it cannot become part of a layer: .*is a whiteout"):
        packed(tmp_path)


def test_the_marks_of_users_leave_as_those_of_root_do(tmp_path):
    """OverlayFS in a user namespace says user.overlay.opaque."""
    for name, mark in (("root", "trusted.overlay.opaque"), ("user", "user.overlay.opaque")):
        (tmp_path / name / "d").mkdir(parents=True)
        os.setxattr(tmp_path / name / "d", mark, b"y")
        for path in (tmp_path / name / "d", tmp_path / name):
            os.utime(path, (0, 0))
    assert packed(tmp_path / "root") == packed(tmp_path / "user")
    assert b"d/.wh..wh..opq" in packed(tmp_path / "user")


def test_a_large_sparse_file_is_never_in_memory(tmp_path):
    """Ten gigabytes of hole: the tar has them all, and no more than a mebibyte is in memory at a time."""

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

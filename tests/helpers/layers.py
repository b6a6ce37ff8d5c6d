"""What the tests of layers share: trees of every kind of file, how they look, archives made by hand."""

import contextlib
import gzip
import hashlib
import io
import os
import pathlib
import stat
import tempfile

from hypothesis import strategies as st

from minidocker.images import tar
from minidocker.images.layer.pack import write_layer
from minidocker.images.layer.unpack import unpack
from minidocker.images.tar import Entry

# Names and numbers that archives have trouble with
NAMES = [b"a", b"b", b"c", "é".encode(), b"\xff\xfe", b"line\nbreak %=", b"-x", b"n" * 101, b"m" * 255]
SECONDS = st.one_of(st.just(0), st.integers(-(2**31), 2**33))
TIMES = st.builds(lambda seconds, part: seconds * 10**9 + part, SECONDS, st.sampled_from([0, 1, 999_999_999]))
OWNERS = st.sampled_from([0, 0, 1000, 2**21, 2**32 - 2])
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1777, 0o7777, 0])
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # capabilities(7): cap_net_bind_service=ep
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["user.b", "user.a", "user.a=b%3D", "trusted.t"]), st.binary(max_size=40), max_size=2
)
CONTENTS = st.one_of(st.binary(max_size=30), st.sampled_from([b"", b"x" * 511, b"y" * 512, b"z" * 513, b"w" * 40000]))
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)


class Node:
    """One file as it is to be. `link`: a symlink's text, or for kind "link" the path of the file's first name."""

    def __init__(self, kind, mode, uid, gid, mtime, content=b"", xattrs=(), link=b""):
        self.kind, self.mode, self.uid, self.gid, self.mtime = kind, mode, uid, gid, mtime
        self.content, self.xattrs, self.link = content, dict(xattrs), link

    def __eq__(self, other):
        return isinstance(other, Node) and vars(self) == vars(other)

    def __repr__(self):
        text = f"{self.kind}, {self.mode:o}, {self.uid}:{self.gid}, {self.mtime}, {self.content[:20]!r}, {self.xattrs}"
        return f"Node({text}, {self.link!r})"


@st.composite
def nodes(draw, kinds=("dir", "dir", "file", "file", "symlink", "fifo", "device", "link", "capable")):
    """A file of any kind."""
    kind = draw(st.sampled_from(kinds))
    node = Node(kind, draw(MODES), draw(OWNERS), draw(OWNERS), draw(TIMES))
    if kind == "capable":
        node.kind, node.xattrs = "file", {"security.capability": CAPABILITY}
    if kind in ("dir", "file"):
        node.xattrs = draw(ATTRIBUTES)
    if node.kind == "file":
        node.content = draw(CONTENTS)
    if kind == "symlink":
        node.link = draw(st.sampled_from([b"a", b"/etc/passwd", b"../../..", b"\xff", b"t" * 200]))
    if kind == "link":
        node.link = draw(PATHS)
    return node


@st.composite
def trees(draw):
    """{path: Node}, a directory before what is in it. What cannot be (a file in a file) is left out."""
    tree = {b"": draw(nodes(["dir"]))}
    for path in draw(st.lists(PATHS, max_size=12)):
        parent = os.path.dirname(path)
        while parent and parent not in tree:  # the directories on the way
            parent = os.path.dirname(parent)
        if tree[parent].kind != "dir" or path in tree:
            continue
        for end in [index for index in range(len(parent) + 1, len(path)) if path[index : index + 1] == b"/"]:
            tree.setdefault(path[:end], draw(nodes(["dir"])))
        node = draw(nodes())
        if node.kind == "link" and tree.get(node.link, Node("dir", 0, 0, 0, 0)).kind in ("dir", "link"):
            continue
        tree[path] = node
    return tree


def build(top, tree):
    """Make the tree in the empty directory `top`."""
    top = os.fsencode(top)
    for path, node in tree.items():
        make(os.path.join(top, path) if path else top, node, top)
    for path, node in reversed([*tree.items()]):
        if node.kind == "dir":
            place = os.path.join(top, path) if path else top
            os.chmod(place, node.mode)
            os.utime(place, ns=(node.mtime, node.mtime))


def make(path, node, top):
    """One file, by the plainest means."""
    if node.kind == "link":
        os.link(os.path.join(top, node.link), path, follow_symlinks=False)
        return
    if node.kind == "dir":
        os.makedirs(path, exist_ok=True)
    elif node.kind == "file":
        with open(path, "xb") as file:
            file.write(node.content)
    elif node.kind == "symlink":
        os.symlink(node.link, path)
    else:
        os.mknod(path, stat.S_IFIFO if node.kind == "fifo" else stat.S_IFCHR, os.makedev(1, 3))
    os.chown(path, node.uid, node.gid, follow_symlinks=False)
    if node.kind != "symlink":
        os.chmod(path, node.mode)
    for key, value in node.xattrs.items():
        os.setxattr(path, key, value, follow_symlinks=False)
    os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


def snapshot(top, ignore=()):
    """{path: everything that a tree is judged by}: kind, mode, owner, size, content, time, link, device, xattrs, group.

    Files with several names in the tree have the first of them as group. `ignore`: prefixes of attributes.
    """
    top = os.fsencode(top)
    found, groups = {}, {}
    waiting = [b""]
    while waiting:
        name = waiting.pop(0)
        path = os.path.join(top, name) if name else top
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(name, base) for base in sorted(os.listdir(path))]
            group = size = content = None
        else:
            group = groups.setdefault((status.st_dev, status.st_ino), name)
            size, content = status.st_size, digest(path) if stat.S_ISREG(status.st_mode) else None
        found[name] = {
            "kind": kind,
            "mode": stat.S_IMODE(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "size": size,
            "content": content,
            "time": status.st_mtime_ns,
            "link": os.readlink(path) if stat.S_ISLNK(status.st_mode) else None,
            "device": status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else None,
            "xattrs": {key: value for key, value in xattrs(path).items() if not key.startswith(tuple(ignore))},
            "group": group,
        }
    return found


def xattrs(path):
    """All extended attributes of a file."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def digest(path):
    """Of the content of a regular file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(one, other):
    """What differs between two snapshots, for people."""
    lines = [f"only on one side: {name!r}" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        for field, value in one[name].items():
            if value != other[name][field]:
                lines.append(f"{name!r}: {field}: {value!r} and {other[name][field]!r}")
    return lines


def packed(directory):
    """The directory as an uncompressed layer."""
    stream = io.BytesIO()
    write_layer(os.fspath(directory), stream)
    return stream.getvalue()


def sha256(data):
    """As a diff ID."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def unpacked(data, target, blob=None, diff_id=None):
    """Unpack an uncompressed layer into a directory, which is made if it is not there. `blob`: how it is compressed."""
    os.makedirs(target, exist_ok=True)
    path = os.path.join(os.path.dirname(target), "blob")
    with open(path, "wb") as file:
        file.write(data if blob is None else blob)
    unpack(path, os.fspath(target), diff_id or sha256(data))
    os.unlink(path)


def filled(data):
    """A content, filled up to whole blocks."""
    return data.ljust(tar.padded(len(data)), b"\0")


def archive(*entries, end=tar.END):
    """A tar of `Entry` objects, (Entry, content) pairs and raw bytes."""
    parts = []
    for entry in entries:
        if isinstance(entry, bytes):
            parts.append(entry)
            continue
        entry, content = entry if isinstance(entry, tuple) else (entry, b"")
        entry.size = entry.size or len(content)
        parts.append(tar.write(entry) + filled(content))
    return b"".join(parts) + end


def entry(name, type=tar.REGULAR, mode=0o644, link=b"", **fields):
    """An `Entry` with any of its fields."""
    made = Entry(name, type, mode, 0, link)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def regular(name, content=b"x", **fields):
    """A regular file for `archive`."""
    return entry(name, **fields), content


def whiteout(name):
    """The entry of a whiteout."""
    return entry(name, mode=0)


def header(entry, **fields):
    """The bytes of a header with some replaced: offset_156=b"S"; its checksum is mended."""
    data = bytearray(tar.write(entry)[-tar.BLOCK :])
    for key, value in fields.items():
        offset = int(key.rpartition("_")[2])
        data[offset : offset + len(value)] = value
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def pax(*records, kind=b"x"):
    """An extra header with these bytes as its records."""
    data = b"".join(records)
    return header(entry(b"PaxHeaders/x", kind, size=len(data))) + filled(data)


def compressed(data):
    """With gzip, quickly."""
    return gzip.compress(data, 1, mtime=0)


def has_attributes(directory):
    """Whether files there have attributes of users: tmpfs since Linux 6.6."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=directory) as file:
        os.setxattr(file.name, "user.a", b"")
        return True
    return False


MEMORY = has_attributes("/dev/shm")


@contextlib.contextmanager
def scratch():
    """A directory for one example: in memory, if that will do."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if MEMORY else None) as path:
        yield pathlib.Path(path)

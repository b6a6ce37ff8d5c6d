"""Chapter 5: a layer becomes a directory. It is hostile until it has proved otherwise, so this runs behind walls.

    unpack("blobs/sha256/…", target, "sha256:…")

Two containers and a pipe between them. In an empty root, as a user without rights, one that decompresses; in a root
that is the target, and nothing else, one that makes the files and takes the digest. That root is why a symlink to /etc
means the layer's own /etc. What no wall can notice is checked by `Layer`: paths that climb, links to nothing, sizes
that lie, entries without end.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import fcntl
import hashlib
import io
import lzma
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO

from backports import zstd  # Python 3.14 has it as compression.zstd
from isal import igzip  # zlib's format, at twice its speed

from minidocker.files import OVERLAY_MARKS
from minidocker.images import tar
from minidocker.images.inside import User
from minidocker.images.tar import AUFS_PRIVATE, CHUNK, OPAQUE, WHITEOUT, BadTar, Entry
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Process, start
from minidocker.rootfs import PivotRoot, make_mounts_private
from minidocker.syscalls import MS_RDONLY, mount
from minidocker.union import initial

WALLS = "pid ipc net uts"
GZIP, ZSTD, SKIPPABLE = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"  # zstd may begin with frames without content
OPENERS = {GZIP: igzip.open, ZSTD: zstd.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
MAX_ENTRIES = 2_000_000
MAX_HELD = 256 << 20  # bytes of what has to be remembered to the end: a bomb of directories is one of memory
MAX_TAIL = 1 << 20  # bytes after the end mark; archivers fill up to a record, at most some kilobytes
ZEROS = bytes(CHUNK)
INITIAL = initial()  # in the jails there is no /proc to ask
IS_OPAQUE = f"{'trusted' if INITIAL else 'user'}.overlay.opaque", b"y"
NOT_HELD = (errno.ENOTSUP, errno.EPERM)  # attributes that this file system does not have, of a Mac for example


def unpack(source: str | int, target: str, diff_id: str | None = None, what: str = "", show: bool = False) -> None:
    """Unpack a layer, a file or a descriptor, into a directory; `diff_id` is what the digest of its tar is to be.

    Needs root. Raises `ContainerError`, which begins with `what` was unpacked; the target is then worthless.
    """
    try:
        with open(source, "rb", 0, closefd=isinstance(source, str)) as file, decompressed(file.fileno()) as stream:
            jail = Namespaces(WALLS), PivotRoot(target, proc=False)
            with start(partial(untar, diff_id), *jail, stdin=stream.fileno()) as process:
                code = _followed(process, file) if show and file.seekable() else process.wait().exit_code
            if code:
                raise ContainerError("its unpacking was killed: by a limit of memory?")
    except ContainerError as refused:
        raise ContainerError(f"{what or f'layer {os.path.basename(str(source))}'}: {refused}") from None


def _followed(process: Process, file: io.FileIO) -> int:
    """Its exit code. Meanwhile a bar says how far the file has been read: who reads it shares its position with us."""
    position = 0
    with bar("unpacking", os.fstat(file.fileno()).st_size) as advance:
        while True:
            with contextlib.suppress(TimeoutError):
                return process.wait(0.1).exit_code
            before, position = position, file.tell()
            advance(position - before)


@contextlib.contextmanager
def bar(what: str, size: int | None, show: bool = True) -> Iterator[Callable[[int], object]]:
    """On a terminal, and after a moment: how many of so many bytes have passed, as what it yields is told."""
    if not (show and sys.stderr.isatty()):
        yield lambda count: None
        return
    from tqdm import tqdm  # dear to import

    tqdm.monitor_interval = 0  # no thread of its own: who unpacks forks
    with tqdm(desc=what, total=size, unit="B", unit_scale=True, leave=False, delay=0.2) as shown:
        yield shown.update


def carry(source: BinaryIO, target: BinaryIO, what: str, size: int | None, show: bool) -> None:
    """Copy a file to its end, with a bar."""
    with bar(what, size, show) as advance:
        while data := source.read(CHUNK):
            target.write(data)
            advance(len(data))


@contextlib.contextmanager
def decompressed(source: int) -> Iterator[io.FileIO]:
    """The content of a file or a pipe, from a process that can do nothing else. If that fails, it fails at the end."""
    output, data = os.pipe()
    fcntl.fcntl(data, fcntl.F_SETPIPE_SZ, CHUNK)
    with (
        open(output, "rb", buffering=0) as reader,
        open(data, "wb", buffering=0) as writer,
        start(decompress, Namespaces(WALLS), Nowhere("/proc", proc=False), stdin=source, stdout=data) as process,
    ):
        writer.close()
        try:
            yield reader
        finally:
            reader.close()  # now the other side learns that nobody reads any more
            if process.wait().exit_code:  # its own failure comes first: it is why the archive looked cut off
                raise ContainerError("its decompressing was killed: by a limit of memory?")


class Nowhere(PivotRoot):
    """An empty root, and a user without any rights. Decompressors are large programs in C: one that was taken over can
    do nothing but read its input and write its output."""

    def inside(self) -> None:
        """The root is a file system in memory, mounted over any directory. No file there says who is who."""
        make_mounts_private()
        mount("tmpfs", self.root, "tmpfs", MS_RDONLY, "mode=700,size=4k")
        super().inside()
        User("65534:65534").inside()


def decompress() -> None:
    """From descriptor 0, a file, to descriptor 1, a pipe. Runs as nobody, in an empty root."""
    try:
        with opened(0) as stream, open(1, "wb", closefd=False) as pipe:
            shutil.copyfileobj(stream, pipe, CHUNK)
    except BrokenPipeError:
        pass  # the reader has given up, and says why
    except Exception as failed:  # decompressors have many ways to fail
        raise ContainerError(f"the blob cannot be decompressed: {failed}") from None


def opened(descriptor: int) -> Any:
    """The content of a file or a pipe, however it is compressed: the first bytes say so."""
    source = io.BufferedReader(io.FileIO(descriptor, closefd=False), CHUNK)
    magic = source.peek(6)[:6]
    for mark, opener in OPENERS.items():
        if magic.startswith(mark) or (mark == ZSTD and magic[1:4] == SKIPPABLE):
            return opener(source)  # type: ignore[operator]
    return source


def untar(diff_id: str | None) -> None:
    """Make the layer's files in the current directory, which is the root of the jail, of the tar on descriptor 0."""
    os.umask(0)
    source, sha256 = open(0, "rb", CHUNK, closefd=False), hashlib.sha256()

    def read(size: int) -> bytes:
        data = source.read(size)
        sha256.update(data)  # by who uses the data: the other end could lie
        return data

    layer = Layer(read)
    each(layer.add, tar.read(read))
    if len(read(MAX_TAIL + 1)) > MAX_TAIL:  # to the end, which the digest includes
        raise BadTar("more data after the end mark of the archive")
    digest = f"sha256:{sha256.hexdigest()}"
    if diff_id not in (digest, None):
        raise ContainerError(f"its content has the digest {digest}, not {diff_id}")
    each(attributes, layer.directories.values())


def each(work: Callable[[Entry], None], entries: Iterable[Entry]) -> None:
    """What goes wrong begins with the name of the entry."""
    for entry in entries:
        try:
            work(entry)
        except (OSError, BadTar) as bad:
            raise BadTar(f"{text(entry.name)}: {getattr(bad, 'strerror', None) or bad}") from None


class Layer:
    """The directory that a layer becomes: the current one, which is also the root of a jail."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read, status, space = read, os.stat("."), os.statvfs(".")
        # What directories are to look like comes last, or making files in them would change it
        self.directories = {b".": Entry(b".", tar.DIRECTORY, stat.S_IMODE(status.st_mode))}
        self.directories[b"."].mtime = status.st_mtime_ns
        os.chmod(".", 0o700)  # until the end it lets nobody else in
        self.room, self.held = space.f_bavail * space.f_frsize, MAX_HELD
        self.entries = min(space.f_favail or MAX_ENTRIES, MAX_ENTRIES)

    def add(self, entry: Entry) -> None:
        """One entry: a whiteout by its name, whatever it is else; anything else as what it is."""
        entry.name = clean(entry.name)
        self.room -= entry.size
        self.entries -= 1
        if self.entries < 0 or self.room < 0:
            what = "more entries" if self.entries < 0 else "a larger content"
            raise BadTar(f"the layer has {what} than there is room for")
        path = b"/" + entry.name
        if b"/" + WHITEOUT not in path:
            self._place(entry)
            return
        if b"/" + AUFS_PRIVATE not in path.removesuffix(b"/" + OPAQUE):
            self._whiteout(entry.name)
        for _ in range(0, entry.size, tar.BLOCK):
            tar.content(self.read, tar.BLOCK)

    def _whiteout(self, name: bytes) -> None:
        """What the layers below have under this name is gone; or, if opaque, all that they have in this directory."""
        directory, base = os.path.split(name)
        if b"/" + WHITEOUT in b"/" + directory:
            raise BadTar("a path through a whiteout")
        if base[len(WHITEOUT) :] in (b"", b".", b".."):
            raise BadTar("a whiteout of nothing, or of a parent")
        self._parents(name)
        hidden = directory or b"." if base == OPAQUE else os.path.join(directory, base[len(WHITEOUT) :])
        if not os.path.lexists(hidden):
            os.mknod(hidden, stat.S_IFCHR, 0)
        elif stat.S_ISDIR(os.lstat(hidden).st_mode):  # if the layer has it as well, it stays, without what is below
            os.setxattr(hidden, *IS_OPAQUE)
        elif base == OPAQUE:
            raise BadTar("to be opaque, it must be a directory")

    def _place(self, entry: Entry) -> None:
        """Make it, after its parents if those are missing; a whiteout of that name has come too early, and goes."""
        check(entry)
        if entry.type == tar.DIRECTORY:  # to the end; and one entry can name a thousand of them
            self.directories[entry.name] = entry
            self.held -= 512 + len(entry.name) + sum(map(len, entry.xattrs.values()))
            if self.held < 0:
                raise BadTar("the layer has more to remember than there is room for")
        try:
            make(entry, self.read)
        except (FileNotFoundError, NotADirectoryError):
            self._parents(entry.name)
            make(entry, self.read)
        except FileExistsError:
            if missing(entry.name):
                os.unlink(entry.name)
                make(entry, self.read)
                if entry.type == tar.DIRECTORY:
                    os.setxattr(entry.name, *IS_OPAQUE)
            elif entry.type != tar.DIRECTORY or not stat.S_ISDIR(os.lstat(entry.name).st_mode):
                raise BadTar("the layer has it twice") from None

    def _parents(self, name: bytes) -> None:
        """Make the directories that the archive took for granted; one in a whiteout's place hides what was below."""
        path = b""
        for part in name.split(b"/")[:-1]:
            path = os.path.join(path, part)
            if missing(path):
                self._place(Entry(path, tar.DIRECTORY, 0o755))


def clean(name: bytes) -> bytes:
    """A path below the current directory, whatever it began with; one that leads above it is a lie in any case."""
    path = os.path.normpath(name.lstrip(b"/"))
    if path.split(b"/")[0] == b"..":
        raise BadTar("a path that climbs")
    return path


def check(entry: Entry) -> None:
    """What the kernel would take, and no layer may have."""
    if entry.name == b"." and entry.type != tar.DIRECTORY:
        raise BadTar("the root of the layer is not a directory")
    if entry.type in (tar.HARDLINK, tar.SYMLINK) and not entry.link:
        raise BadTar("a link to nothing")
    if entry.type == tar.CHARACTER and entry.major == entry.minor == 0:
        raise BadTar("a device 0/0, which would be a whiteout of OverlayFS")
    for key in map(text, entry.xattrs):
        if key.startswith(OVERLAY_MARKS):
            raise BadTar(f"an attribute {key}, which would direct OverlayFS")


def make(entry: Entry, read: Callable[[int], bytes]) -> None:
    """One file, exactly. Nothing is read if the name is taken."""
    name = entry.name
    if entry.type == tar.REGULAR:
        return regular(entry, read)
    if entry.type == tar.DIRECTORY:
        return os.mkdir(name, 0o700)  # what it is to look like comes last
    if entry.type == tar.HARDLINK:  # a second name, also for a symlink; of this layer, and not of something removed
        first = clean(entry.link)
        if missing(first):
            raise BadTar(f"a hard link to {text(first)}, which is not in the layer")
        return os.link(first, name, follow_symlinks=False)
    if entry.type == tar.SYMLINK:
        os.symlink(entry.link, name)
    elif INITIAL or entry.type == tar.FIFO:  # in another user namespace nobody makes devices: they are left out
        os.mknod(name, tar.KINDS[int(entry.type)], os.makedev(entry.major, entry.minor))
    return attributes(entry) if os.path.lexists(name) else None


def regular(entry: Entry, read: Callable[[int], bytes]) -> None:
    """The content in pieces, with holes where there are long runs of zeros; then what it is to look like."""
    file = os.open(entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, entry.mode & 0o777)
    try:
        for start in range(0, entry.size, CHUNK):
            data = tar.content(read, min(CHUNK, entry.size - start))
            if data == ZEROS:
                os.ftruncate(file, os.lseek(file, CHUNK, os.SEEK_CUR))
                continue
            while data:
                data = data[os.write(file, data) :]
        attributes(entry, file)
    finally:
        os.close(file)


def attributes(entry: Entry, file: int | None = None) -> None:
    """Owner first: its change takes setuid and capabilities away. A symlink has no mode, a file was made with it."""
    place, follow = (entry.name, False) if file is None else (file, True)
    os.chown(place, entry.uid, entry.gid, follow_symlinks=follow)
    if entry.type != tar.SYMLINK and (file is None or entry.mode & 0o7000):
        os.chmod(place, entry.mode)
    for key, value in entry.xattrs.items():
        try:
            os.setxattr(place, key, value, follow_symlinks=follow)
        except OSError as refused:
            if refused.errno not in NOT_HELD:
                raise
    os.utime(place, ns=(entry.mtime, entry.mtime), follow_symlinks=follow)


def missing(path: bytes) -> bool:
    """Whether nothing has this name, or OverlayFS's mark for that: the character device 0/0."""
    try:
        status = os.lstat(path)
    except OSError:
        return True
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def text(name: bytes) -> str:
    """A name for an error message; nobody reads more of it."""
    return (name[:300] + b"..." * (len(name) > 300)).decode(errors="backslashreplace")

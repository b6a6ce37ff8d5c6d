"""Chapter 5: what COPY and ADD take: files of the build context, or of another stage or image, as a tar and a digest.

    digest = read([PivotRoot(context, proc=False)], Selection(["src/*.py"], ignore=Ignore("*.log")))
    read([...], selection, spool)             # the same digest, and the files as a tar in `spool`

It runs in a jail (chapter 1) whose root is the context, so a symlink in it leads to another place in it, and to nothing
else on this machine. In the tar, what was named itself goes by its name, and what a directory holds by ./name: only
where they are unpacked is known whether the target is a directory. The digest is the key of the build cache: names,
kinds, modes, owners and contents, and not the times, which another checkout of the same files changes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from minidocker.images import tar
from minidocker.images.patterns import Ignore, find
from minidocker.images.restore import CHUNK, clean, exactly
from minidocker.images.tar import BadTar, Entry
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run

KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.DEVICE,
    stat.S_IFIFO: tar.FIFO,
}
KEPT = ("user.", "security.capability")  # attributes that belong to the file, and not to the machine it is on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO


def read(jail: Sequence[Isolator], selection: Selection, spool: BinaryIO | None = None) -> str:
    """The digest of what is selected in the jail's root; with `spool`, write it there as a tar. Needs root."""
    descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if spool is None else os.dup(spool.fileno())
    try:
        result = run(["read"], *jail, Read(selection, spool is not None), stdout=descriptor)
    finally:
        os.close(descriptor)
    if result.exit_code:
        raise ContainerError(result.stderr or "the process that read the files was killed", exit_code=1)
    return result.stderr


class Selection:
    """What to read. `patterns`: sources as in COPY; `documents`: (name, content) of files that the Dockerfile holds.

    `owners`: keep them; else all belongs to root, since who owns a file on this machine says nothing about the image.
    `archives`: a function that opens a file that may be compressed: for ADD, which sends what is in a tar archive.
    `single`: the target is not said to be a directory, so there may be one source only.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        documents: Sequence[tuple[str, bytes]] = (),
        ignore: Ignore | None = None,
        owners: bool = False,
        archives: Callable[[BinaryIO], BinaryIO] | None = None,
        single: bool = False,
    ) -> None:
        self.patterns, self.documents, self.owners, self.archives = patterns, documents, owners, archives
        self.single = single
        self.ignore = ignore or Ignore()


class Read(Isolator):
    """Last in the list: it does the work, says the digest or what is wrong on descriptor 2, and ends the process."""

    def __init__(self, selection: Selection, send: bool) -> None:
        self.selection, self.send = selection, send

    def inside(self) -> None:
        """Runs in the jail, as root."""
        try:
            with open(1, "wb", buffering=CHUNK, closefd=False) as stream:
                answer, code = _Reader(self.selection, stream if self.send else None).all(), 0
        except OSError as refused:
            answer, code = f"{refused.filename or 'the files'}: {refused.strerror or refused}", 1
        except (BadTar, ValueError, EOFError) as wrong:
            answer, code = str(wrong), 1
        os.write(2, answer.encode(errors="backslashreplace"))
        os._exit(code)


class _Reader:
    """Goes through the selection once."""

    def __init__(self, selection: Selection, stream: BinaryIO | None) -> None:
        self.selection, self.stream, self.ignore = selection, stream, selection.ignore
        self.digest = hashlib.sha256()
        self.links: dict[tuple[int, int], bytes] = {}  # device and inode -> the name under which the content went out

    def all(self) -> str:
        """The documents, then each pattern in turn, then the digest."""
        for name, content in self.selection.documents:
            self.put(Entry(os.fsencode(name), size=len(content)), content)
        for pattern in self.selection.patterns:
            found = [path for path in find(pattern) if self.visible(path)]
            if not found:
                raise FileNotFoundError(errno.ENOENT, "there is no such file, or .dockerignore leaves it out", pattern)
            if len(found) > 1 and self.selection.single:
                raise ValueError(f"{pattern} is {len(found)} files: the target must end with a slash")
            for path in found:
                self.source(path)
        if self.stream:
            self.stream.write(tar.END)
        return self.digest.hexdigest()

    def visible(self, path: str) -> bool:
        """Whether something of it can be copied. A link is followed, and must not lead to what is left out."""
        real = os.path.realpath(f"/{path}")[1:]
        if not os.path.exists(f"/{real}"):
            return False
        left_out = [name for name in (path, real) if self.ignore.ignores(name)]
        return not left_out or (self.ignore.exceptions and path == real and os.path.isdir(f"/{real}"))

    def source(self, path: str) -> None:
        """One source: the content of a directory, that of an archive, or a file."""
        real = os.path.realpath(f"/{path}")[1:]
        if os.path.isdir(f"/{real}"):
            self.links.clear()
            for name, status in self.walk(real):
                self.file(f"/{real}/{name}", os.fsencode(f"./{name}"), status)
        elif not (self.selection.archives and self.archive(f"/{real}", self.selection.archives)):
            self.file(f"/{real}", os.fsencode(os.path.basename(path)), os.lstat(f"/{real}"))

    def walk(self, top: str) -> Iterator[tuple[str, os.stat_result]]:
        """(name below `top`, status) of all that is not left out, by name, each directory before what is in it.

        A directory that is left out can hold something that is not; then it comes, too, just before that.
        """
        waiting, held = [""], list[str]()
        while waiting:
            name = waiting.pop()
            path = os.path.join(top, name)
            status = os.lstat(f"/{path}")
            ignored = bool(name) and self.ignore.ignores(path)
            if stat.S_ISDIR(status.st_mode) and (not ignored or self.ignore.exceptions):
                names = sorted(os.listdir(f"/{path}"), reverse=True)
                waiting += [os.path.join(name, base) for base in names]
            if ignored:
                held.append(name)
            elif name and not stat.S_ISSOCK(status.st_mode):
                for above in [above for above in held if name.startswith(f"{above}/")]:
                    yield above, os.lstat(f"/{top}/{above}")
                    held.remove(above)
                yield name, status

    def file(self, path: str, name: bytes, status: os.stat_result) -> None:
        """One entry. A second name of the same file stays one, within a directory that is copied as a whole."""
        if stat.S_ISSOCK(status.st_mode):
            raise ValueError(f"{path}: a socket: there is no way to pack one")
        entry = Entry(name, KINDS[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode))
        entry.mtime = status.st_mtime_ns
        if self.selection.owners:
            entry.uid, entry.gid = status.st_uid, status.st_gid
        identity = (status.st_dev, status.st_ino)
        if entry.type != tar.DIRECTORY and name.startswith(b"./") and identity in self.links:
            entry.type, entry.link = tar.HARDLINK, self.links[identity]
            return self.put(entry)
        self.links[identity] = name
        attributes = [key for key in os.listxattr(path, follow_symlinks=False) if key.startswith(KEPT)]
        entry.xattrs = {os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in attributes}
        if entry.type == tar.SYMLINK:
            entry.link = os.fsencode(os.readlink(path))
        elif entry.type in (tar.CHARACTER, tar.DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        elif entry.type == tar.REGULAR:
            entry.size = status.st_size
            with open(path, "rb", buffering=0) as content:
                return self.put(entry, content)
        self.put(entry)

    def archive(self, path: str, opened: Callable[[BinaryIO], BinaryIO]) -> bool:
        """Put the entries of a tar archive in the place of its file; False if it is none."""
        with open(path, "rb") as file:
            try:
                stream = opened(file)
                entries = tar.read(stream)
                entry = next(entries, None)
            except Exception:  # decompressors have many ways to say that this is not for them
                return False
            if entry is None:
                return False  # a file that begins with zeros looks like an archive of nothing
            while entry:
                entry.name = b"./" + clean(entry.name)
                self.put(entry, stream, tar.padded(entry.size) - entry.size)
                entry = next(entries, None)
        return True

    def put(self, entry: Entry, content: BinaryIO | bytes = b"", padding: int = 0) -> None:
        """Into the digest, and to the stream. `padding`: bytes to read over behind the content."""
        facts = (entry.name, entry.type, entry.mode, entry.uid, entry.gid, entry.size, entry.link)
        self.digest.update(repr((*facts, entry.major, entry.minor, sorted(entry.xattrs.items()))).encode())
        if self.stream:
            self.stream.write(tar.write(entry))
        left = entry.size
        while left:
            data = content if isinstance(content, bytes) else content.read(min(left, CHUNK))
            if not data:
                raise BadTar(f"{os.fsdecode(entry.name)}: it became shorter while it was read")
            self.digest.update(data)
            left -= len(data)
            if self.stream:
                self.stream.write(data)
        if self.stream:
            self.stream.write(bytes(tar.padded(entry.size) - entry.size))
        if padding and not isinstance(content, bytes):
            exactly(content, padding)

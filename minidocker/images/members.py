"""Chapter 5: the files in a tar archive that somebody hands us, kept apart under numbers until we know which we want.

    with store.place() as directory, reading("app.tar"):
        members = Members(stream, directory)
        text = members.small("manifest.json")

The names in such an archive are anybody's invention, so none of them ever becomes a path here: member 17 is the file
17, whatever it calls itself. Archives come compressed, or not, and through pipes, which cannot be read twice.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import posixpath
import zlib
from typing import cast

import zstandard
from isal import igzip
from isal.igzip_lib import IsalError

from minidocker.images import manifest as media
from minidocker.images import tar
from minidocker.outcome import ContainerError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
MAX_MEMBERS = 20_000  # an archive of a hundred images has some hundred
MAX_LINKS = 8  # of a link to a link
CHUNK = 1 << 20
_BROKEN = (tar.BadTar, EOFError, zlib.error, IsalError, zstandard.ZstdError, gzip.BadGzipFile)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from minidocker.images.manifest import Descriptor


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """All the ways in which an archive can be broken become one error."""
    try:
        yield
    except _BROKEN as broken:  # type: ignore[misc]  # isal's types know no error
        raise ContainerError(f"{what}: not an archive that can be read: {broken}") from None


def uncompressed(stream: BinaryIO) -> BinaryIO:
    """The content, whichever way it is compressed. The stream need not be seekable: it may be a pipe."""
    buffered = io.BufferedReader(stream, CHUNK)  # type: ignore[type-var]  # a raw stream or a buffered one: it reads both
    magic = buffered.peek(4)[:4]
    if magic.startswith(GZIP):
        return cast("BinaryIO", igzip.IGzipFile(fileobj=buffered))  # type: ignore[no-untyped-call]
    if magic == ZSTD:
        reader = zstandard.ZstdDecompressor().stream_reader(buffered, read_across_frames=True)
        return io.BufferedReader(reader, CHUNK)
    return buffered


class Members:
    """All regular files of an archive, in the directory given; a link stands for what it points to in the archive."""

    def __init__(self, stream: BinaryIO, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, Descriptor] = {}  # name -> digest, size, and "path", where the content is
        self._links: dict[str, str] = {}
        space = os.statvfs(directory)
        self._room = space.f_bavail * space.f_frsize
        for number, entry in enumerate(tar.read(stream)):
            self._take(number, entry, stream)

    def _take(self, number: int, entry: tar.Entry, stream: BinaryIO) -> None:
        name = _clean(os.fsdecode(entry.name))
        self._room -= entry.size
        if number >= MAX_MEMBERS or self._room < 0:
            raise tar.BadTar(f"more than {MAX_MEMBERS} files in it, or more bytes than are free here")
        if name in self._files or name in self._links:
            raise tar.BadTar(f"{name!r} is in it twice")
        if entry.type == tar.REGULAR:
            self._files[name] = self._keep(f"{self._directory}/{number}", entry.size, stream)
        elif entry.type == tar.SYMLINK:
            self._links[name] = _clean(posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link)))
        elif entry.type == tar.HARDLINK:
            self._links[name] = _clean(os.fsdecode(entry.link))

    @staticmethod
    def _keep(path: str, size: int, stream: BinaryIO) -> Descriptor:
        """Write the content to a file, and take its digest."""
        digest, left = hashlib.sha256(), tar.padded(size)
        with open(path, "xb") as file:
            while left:
                data = stream.read(min(left, CHUNK))
                if not data:
                    raise tar.BadTar("it ends in the middle of a file")
                left -= len(data)
                data = data[: size - file.tell()]
                digest.update(data)
                file.write(data)
        return {"digest": f"sha256:{digest.hexdigest()}", "size": size, "path": path}

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._links

    def find(self, name: str) -> Descriptor:
        """Digest, size and path of a member. Raises `ContainerError` if there is none."""
        target = _clean(name)
        for _ in range(MAX_LINKS):
            target = self._links.get(target, target)
        if target not in self._files:
            raise ContainerError(f"the archive speaks of {name[:80]!r}, and has no such file")
        return self._files[target]

    def small(self, name: str) -> bytes:
        """The content of a JSON document."""
        member = self.find(name)
        with open(member["path"], "rb") as file:
            return file.read(media.MAX_JSON + 1)


def _clean(name: str) -> str:
    """One spelling for each name: no "./" in front, nothing twice. What climbs out finds no member, and that is all."""
    return posixpath.normpath(name).lstrip("/")

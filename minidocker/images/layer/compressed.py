"""Chapter 5: the content of a file or a pipe, however it is compressed: the first bytes say so.

    with opened(open("app.tar.xz", "rb")) as stream:
        entries = tar.read(stream)

Layers come with gzip or zstd, archives that people made in other ways, too. A file of several members is one content.
"""

from __future__ import annotations

import bz2
import io
import lzma
from typing import BinaryIO, cast

from backports import zstd  # Python 3.14 has it as compression.zstd
from isal import igzip  # zlib's format, at twice its speed

from minidocker.images.layer import CHUNK

GZIP, ZSTD, BZIP2, XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"
SKIPPABLE = b"\x2a\x4d\x18"  # the last bytes of the mark of a frame without content; zstd archives may begin with one


def opened(stream: BinaryIO) -> BinaryIO:
    """Needs no position in the stream, so that it may be a pipe."""
    source = io.BufferedReader(stream, CHUNK)  # type: ignore[type-var]  # a raw stream or a buffered one: it reads both
    magic = source.peek(6)[:6]
    if magic.startswith(GZIP):
        return cast("BinaryIO", igzip.IGzipFile(fileobj=source))  # type: ignore[no-untyped-call]
    if magic.startswith(ZSTD) or magic[1:4] == SKIPPABLE:
        return cast("BinaryIO", zstd.ZstdFile(source))
    if magic.startswith(BZIP2):
        return cast("BinaryIO", bz2.open(source))
    return cast("BinaryIO", lzma.open(source)) if magic == XZ else source

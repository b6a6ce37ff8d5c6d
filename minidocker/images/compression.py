"""Chapter 5: what ADD makes of an archive: however it is compressed, a tar.

    with open("app.tar.xz", "rb") as file:
        entries = tar.read(opened(file))

Layers are compressed with gzip or zstd, and what people put beside a Dockerfile in other ways, too.
"""

from __future__ import annotations

import bz2
import lzma
from typing import BinaryIO, cast

from minidocker.images.unpack import decompressed

BZIP2, XZ = b"BZh", b"\xfd7zXZ\0"


def opened(file: BinaryIO) -> BinaryIO:
    """The content of a file that may be compressed, by its first bytes. Runs in the jail."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(BZIP2):
        return cast("BinaryIO", bz2.open(file))
    if magic == XZ:
        return cast("BinaryIO", lzma.open(file))
    return decompressed(file)

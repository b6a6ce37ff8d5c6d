"""Chapter 5: a layer on its way out: packed with gzip, and two digests taken while it passes.

    digest, diff_id, size = pack("/…/upper", file)

The diff ID is the digest of the tar, and says what the layer is; the digest is that of the blob, the packed tar, and
says what is transferred. The same tar packed by another program is another blob with the same diff ID.
"""

from __future__ import annotations

import hashlib

from isal import isal_zlib  # the same format as zlib's: much faster, and a little larger

from minidocker.images.diff import write_layer

GZIP_WINDOW = 16 + 15  # deflateInit2 of zlib.h: 15 is the largest window, and 16 asks for gzip's header, without a time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


class Packer:
    """A stream that packs what is written to it into `file`: see `diff_id`, `digest` and `size` after `close`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = isal_zlib.compressobj(wbits=GZIP_WINDOW)
        self._tar, self._blob, self.size = hashlib.sha256(), hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Take a piece of the tar."""
        self._tar.update(data)
        self._out(self._packer.compress(data))
        return len(data)

    def close(self) -> None:
        """The end of the tar: write what is still in the packer."""
        self._out(self._packer.flush())

    def _out(self, data: bytes) -> None:
        self._blob.update(data)
        self._file.write(data)
        self.size += len(data)

    @property
    def diff_id(self) -> str:
        """The digest of the tar."""
        return f"sha256:{self._tar.hexdigest()}"

    @property
    def digest(self) -> str:
        """The digest of the packed tar."""
        return f"sha256:{self._blob.hexdigest()}"


def pack(directory: str, file: BinaryIO, whiteouts: str = "overlay") -> tuple[str, str, int]:
    """Write a directory as a packed layer; return (digest, diff ID, size). Needs the right to read all of it."""
    packer = Packer(file)
    write_layer(directory, packer, whiteouts)  # type: ignore[arg-type]  # of a file, it needs to write only
    packer.close()
    return packer.digest, packer.diff_id, packer.size

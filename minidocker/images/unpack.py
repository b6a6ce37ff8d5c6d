"""Chapter 5: the jail in which a layer is unpacked.

    unpack("blobs/sha256/…", target, "sha256:…")

Three things are kept apart: this process, which trusts nobody; in the jail (the target as its root, an own network and
process tree, and nothing else), one process that decompresses and takes the digest, and one that makes the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib

import zstandard
from isal import igzip  # zlib's interface, at twice its speed

from minidocker.images.apply import CHUNK, Apply
from minidocker.images.tar import BadTar
from minidocker.namespaces import Namespaces
from minidocker.process import Isolator, run
from minidocker.rootfs import PivotRoot

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


def unpack(blob: str, target: str, diff_id: str, whiteouts: str = "overlay") -> None:
    """Unpack the layer in the file `blob` into the directory `target`; `diff_id` is the digest of the uncompressed tar.

    Needs root. Raises `ContainerError` for everything that is wrong with the layer; the target is then worthless.
    """
    descriptor = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    try:
        jail = (Namespaces("pid ipc net uts"), PivotRoot(target, proc=False), _Unpack(descriptor, diff_id, whiteouts))
        run(["unpack"], *jail)
    finally:
        os.close(descriptor)


class _Unpack(Isolator):
    """Last in the list: it does the work and ends the process; no command is executed."""

    def __init__(self, descriptor: int, diff_id: str, whiteouts: str) -> None:
        self.descriptors, self.diff_id, self.whiteouts = (descriptor,), diff_id, whiteouts

    def inside(self) -> None:
        """Runs in the jail, as root. What it raises reaches the caller as any isolator's error does."""
        data, verdict = _decompressor(self.descriptors[0])
        try:
            with open(data, "rb", buffering=CHUNK) as stream:
                Apply(self.whiteouts).all(stream)
        except BadTar:
            _judge(verdict, "")  # an archive that is cut off may be a blob that could not be decompressed
            raise
        _judge(verdict, self.diff_id)
        os._exit(0)


def _judge(verdict: int, diff_id: str) -> None:
    """Read what the decompressor has to say at its end: what went wrong, or the digest, which must be this one."""
    with open(verdict) as file:
        text = file.read()
    if diff_id and text != diff_id:
        raise BadTar(f"the layer's content has the digest {text or 'of a cut-off file'}, not {diff_id}")
    if not text.startswith("sha256:"):
        raise BadTar(text)


def _decompressor(blob: int) -> tuple[int, int]:
    """Start the second process of the jail; return the ends to read of its data and of its verdict."""
    data, data_in = os.pipe()
    verdict, verdict_in = os.pipe()
    fcntl.fcntl(data_in, fcntl.F_SETPIPE_SZ, CHUNK)
    if os.fork() == 0:
        try:
            text = _decompress(blob, data_in)
        except (OSError, EOFError, ValueError, zlib.error, zstandard.ZstdError) as failure:
            text = f"the blob cannot be decompressed: {failure}"
        os.write(verdict_in, text.encode())
        os._exit(0)
    os.close(data_in)
    os.close(verdict_in)
    return data, verdict


def _decompress(blob: int, target: int) -> str:
    """Write the uncompressed content to a pipe; return its digest."""
    digest = hashlib.sha256()
    with decompressed(open(blob, "rb")) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            while data:
                data = data[os.write(target, data) :]
    return f"sha256:{digest.hexdigest()}"


def decompressed(file: BinaryIO) -> BinaryIO:
    """The content of a blob, whichever way it is compressed: its first bytes say so."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(GZIP):
        return igzip.open(file, "rb")
    if magic == ZSTD:
        return zstandard.ZstdDecompressor().stream_reader(file)
    return file

"""Chapter 5: the jail in which a layer is unpacked.

    unpack("blobs/sha256/…", target, "sha256:…")

Three things are kept apart: this process, which trusts nobody; in the jail (the target as its root, an own network and
process tree, and nothing else), one process that decompresses and takes the digest, as a user without any rights; and
one that makes the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from typing import cast

import zstandard
from isal import igzip  # zlib's interface, at twice its speed

from minidocker.images.apply import Apply
from minidocker.images.restore import CHUNK
from minidocker.images.tar import BadTar
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run
from minidocker.rootfs import PivotRoot

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"  # the last bytes of the mark of a frame without content; zstd archives may begin with one
NOBODY = 65534
FAILED = "the blob cannot be decompressed: "

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


def unpack(blob: str, target: str, diff_id: str | None, whiteouts: str = "overlay", shared: str | None = None) -> None:
    """Unpack the layer in the file `blob` into the directory `target`; `diff_id` is the digest of the uncompressed tar,
    None if nobody has promised one. `whiteouts`: see `Apply`. `shared`: a directory on the same file system that holds
    the files of other layers, see the module `share`; only for a target that nobody will write to.

    Needs root. Raises `ContainerError` for everything that is wrong with the layer; the target is then worthless.
    """
    from minidocker.images import share

    descriptor = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    report = os.memfd_create("report")  # written in the jail, read here
    try:
        smallest = share.SMALLEST if shared else -1
        jail = Unpack(descriptor, report, diff_id, whiteouts, smallest)
        result = run(["unpack"], Namespaces("pid ipc net uts"), PivotRoot(target, proc=False), jail)
        if result.exit_code:
            text = os.pread(report, 1 << 16, 0).decode() or f"its unpacking ended with exit code {result.exit_code}"
            raise ContainerError(f"layer {os.path.basename(blob)}: {text}", path=blob)
        if shared:
            share.share(target, _files(report), shared)
    finally:
        os.close(descriptor)
        os.close(report)


def _files(report: int) -> Iterator[tuple[bytes, str]]:
    """(name, checksum) of the files that the jail has reported."""
    os.lseek(report, 0, os.SEEK_SET)
    with open(report, "rb", closefd=False) as file:
        rest = b""
        while data := file.read(CHUNK):
            *records, rest = (rest + data).split(b"\0")
            for record in records:
                checksum, _, name = record.partition(b" ")
                yield name, checksum.decode()


class Unpack(Isolator):
    """Last in the list: it does the work and ends the process; no command is executed."""

    def __init__(self, blob: int, report: int, diff_id: str | None, whiteouts: str, smallest: int) -> None:
        self.descriptors = (blob, report)
        self.diff_id, self.whiteouts, self.smallest = diff_id, whiteouts, smallest

    def inside(self) -> None:
        """Runs in the jail, as root."""
        blob, report = self.descriptors
        try:
            self._unpack(blob, report)
        except BadTar as bad:
            os.ftruncate(report, 0)
            os.pwrite(report, str(bad).encode(errors="backslashreplace"), 0)
            os._exit(1)
        os._exit(0)

    def _unpack(self, blob: int, report: int) -> None:
        """Apply what the other process decompresses, and then ask it for the digest."""
        apply = Apply(self.whiteouts)
        if self.smallest >= 0:
            apply.smallest = self.smallest
            apply.report = lambda name, checksum: os.write(report, checksum.encode() + b" " + name + b"\0")
        data, verdict = _decompressor(blob)
        try:
            with open(data, "rb", buffering=CHUNK) as stream:
                apply.all(stream)
        except BadTar:
            text = _read(verdict)
            if text.startswith(FAILED):
                raise BadTar(text) from None  # that is why the archive looked cut off
            raise
        text = _read(verdict)
        if text.startswith(FAILED) or self.diff_id not in (text, None):
            raise BadTar(text if text.startswith(FAILED) else f"its content has the digest {text}, not {self.diff_id}")


def _read(verdict: int) -> str:
    """What the decompressor says at its end; nothing, if it was ended because its reader had given up."""
    with open(verdict) as file:
        return file.read()


def _decompressor(blob: int) -> tuple[int, int]:
    """Start the second process of the jail; return the ends to read of its data and of its verdict.

    Decompressors are large programs in C, so this one may do nothing but read the blob and write to the two pipes: as
    nobody, it can make no device, and cannot touch the process that makes the files.
    """
    data, data_in = os.pipe()
    verdict, verdict_in = os.pipe()
    fcntl.fcntl(data_in, fcntl.F_SETPIPE_SZ, CHUNK)
    if os.fork() == 0:
        text = FAILED + "it does not say why"
        try:
            os.close(data)  # or it would never learn that its reader has given up
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            text = _decompress(blob, data_in)
        except BrokenPipeError:
            text = ""
        except (OSError, EOFError, ValueError, MemoryError, zlib.error, zstandard.ZstdError) as failure:
            text = f"{FAILED}{failure}"
        finally:
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
        return cast("BinaryIO", igzip.open(file, "rb"))  # type: ignore[no-untyped-call]
    if magic == ZSTD or magic[1:] == SKIPPABLE:
        return cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file

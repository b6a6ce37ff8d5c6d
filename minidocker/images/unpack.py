"""Chapter 5: the jail in which a layer is unpacked.

    unpack("blobs/sha256/…", target, "sha256:…")

Three things are kept apart: this process, which trusts nobody; in the jail (the target as its root, an own network and
process tree, and nothing else), one process that decompresses, as a user without any rights; and one that checks what
comes out, makes the files, and takes the digest.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import zlib
from typing import Any, BinaryIO, cast

import zstandard
from isal import igzip  # zlib's interface, at twice its speed

from minidocker.images.apply import Apply
from minidocker.images.restore import CHUNK
from minidocker.images.tar import BadTar
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run
from minidocker.rootfs import PivotRoot
from minidocker.syscalls import signal

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"  # the last bytes of the mark of a frame without content; zstd archives may begin with one
NOBODY = 65534
MAX_FAILURE = 1 << 12  # bytes of it that anybody reads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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
        smallest = share.SMALLEST if shared else None
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
    """Last in the list: it does the work and ends the process; no command is executed.

    `smallest`: report the checksums of files of at least so many bytes; None: of none.
    """

    def __init__(self, blob: int, report: int, diff_id: str | None, whiteouts: str, smallest: int | None) -> None:
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
        """Apply what the other process decompresses, if it has the digest that was promised."""

        def tell(name: bytes, checksum: str) -> None:
            os.write(report, checksum.encode() + b" " + name + b"\0")

        layer = Apply(self.whiteouts, None if self.smallest is None else tell, self.smallest or 0)
        pid, data, verdict = _decompressor(blob, report)
        stream = Digested(data)
        try:
            with io.BufferedReader(stream, CHUNK) as buffered:
                layer.all(buffered)
        except BadTar as bad:
            raise BadTar(_read(verdict) or str(bad)) from None  # its failure is why the archive looked cut off
        if failure := _read(verdict):
            raise BadTar(failure)
        if self.diff_id not in (stream.digest, None):
            raise BadTar(f"its content has the digest {stream.digest}, not {self.diff_id}")
        os.kill(pid, signal.SIGKILL)  # it has said all; now directories get their modes, and setuid files a way to them
        os.waitpid(pid, 0)
        layer.finish()


class Digested(io.RawIOBase):
    """A pipe to read from, and the digest of what was read: taken here, by who uses it, or the other end could lie."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._sha256 = descriptor, hashlib.sha256()

    def readable(self) -> bool:
        """For io.BufferedReader."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As io.RawIOBase has it: fill the buffer as far as there is data; 0 at the end."""
        size = os.readv(self._descriptor, [buffer])
        self._sha256.update(buffer[:size])
        return size

    def close(self) -> None:
        """The other end gets a BrokenPipeError from then on."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    @property
    def digest(self) -> str:
        """Of all that was read so far."""
        return f"sha256:{self._sha256.hexdigest()}"


def _read(verdict: int) -> str:
    """Why the decompressor failed; nothing if it did not, or was ended because its reader had given up."""
    with open(verdict, errors="backslashreplace") as file:
        return file.read(MAX_FAILURE)


def _decompressor(blob: int, report: int) -> tuple[int, int, int]:
    """Start the second process of the jail; return its number there, and the ends to read of its data and its verdict.

    Decompressors are large programs in C, so this one may do nothing but read the blob and write to the two pipes: as
    nobody, it can make no device, cannot touch the process that makes the files, and does not get through the root
    directory, which only root may enter until it has ended (see `Apply`).
    """
    data, data_in = os.pipe()
    verdict, verdict_in = os.pipe()
    fcntl.fcntl(data_in, fcntl.F_SETPIPE_SZ, CHUNK)
    if pid := os.fork():
        os.close(data_in)
        os.close(verdict_in)
        return pid, data, verdict
    failure = "it does not say why"
    try:
        for ours in (data, verdict, report):  # without the end to read, it learns that its reader has given up
            os.close(ours)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _decompress(blob, data_in)
        failure = ""
    except BrokenPipeError:
        failure = ""
    except (OSError, EOFError, ValueError, MemoryError, zlib.error, zstandard.ZstdError) as failed:
        failure = str(failed)
    finally:
        os.write(verdict_in, f"the blob cannot be decompressed: {failure}".encode() if failure else b"")
        os._exit(0)


def _decompress(blob: int, target: int) -> None:
    """Write the uncompressed content to a pipe."""
    with decompressed(open(blob, "rb")) as stream:
        while data := stream.read(CHUNK):
            while data:
                data = data[os.write(target, data) :]


def decompressed(file: BinaryIO) -> BinaryIO:
    """The content of a blob, whichever way it is compressed: its first bytes say so."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(GZIP):
        return cast("BinaryIO", igzip.open(file, "rb"))  # type: ignore[no-untyped-call]
    if magic == ZSTD or magic[1:] == SKIPPABLE:
        return cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file

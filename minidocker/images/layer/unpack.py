"""Chapter 5: a layer becomes a directory. It is hostile until it has proved otherwise, so this runs behind walls.

    unpack("blobs/sha256/…", target, "sha256:…")

Two containers and a pipe between them. In an empty root, as a user without rights, one that decompresses; in a root
that is the target, and nothing else, one that makes the files and takes the digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from functools import partial
from typing import cast

from minidocker.images.layer import CHUNK
from minidocker.images.layer.compressed import opened
from minidocker.images.layer.extract import Layer
from minidocker.isolator import Isolator
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot, make_mounts_private
from minidocker.syscalls import CLONE_NEWNS, MNT_DETACH, MS_RDONLY, mount, pivot_root, umount

NOBODY = 65534
WALLS = "pid ipc net uts"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO


def unpack(blob: str, target: str, diff_id: str | None) -> None:
    """Unpack the layer in the file `blob` into the directory `target`; `diff_id` is the digest of the uncompressed tar,
    None if nobody has promised one.

    Needs root. Raises `ContainerError` for everything that is wrong with the layer; the target is then worthless.
    """
    with open(blob, "rb") as file:
        try:
            unpack_from(file.fileno(), target, diff_id)
        except ContainerError as refused:
            raise ContainerError(f"layer {os.path.basename(blob)}: {refused}", path=blob) from None


def unpack_from(source: int, target: str, diff_id: str | None = None) -> None:
    """The same, from a descriptor of a file or a pipe."""
    with decompressed(source) as stream:
        jail = Namespaces(WALLS), PivotRoot(target, proc=False)
        if run(partial(untar, diff_id), *jail, stdin=stream.fileno()).exit_code:
            raise ContainerError("its unpacking was killed: by a limit of memory?")


@contextlib.contextmanager
def decompressed(source: int) -> Iterator[BinaryIO]:
    """The content of a file or a pipe, from a process that can do nothing else. If that fails, it fails at the end."""
    output, data = os.pipe()
    fcntl.fcntl(data, fcntl.F_SETPIPE_SZ, CHUNK)
    refused = None
    with (
        open(output, "rb", buffering=0) as reader,
        open(data, "wb", buffering=0) as writer,
        start(decompress, Namespaces(WALLS), Nowhere(), stdin=source, stdout=data) as process,
    ):
        writer.close()
        try:
            yield cast("BinaryIO", reader)
        except ContainerError as wrong:
            refused = wrong
        reader.close()  # now the other side learns that nobody reads any more
        if process.wait().exit_code:  # its own failure comes first: it is why the archive looked cut off
            refused = ContainerError("its decompressing was killed: by a limit of memory?")
    if refused:
        raise refused


class Nowhere(Isolator):
    """An empty root, and a user without any rights. Decompressors are large programs in C: one that was taken over can
    do nothing but read its input and write its output.
    """

    clone_flags = CLONE_NEWNS

    def inside(self) -> None:
        """The root is a file system in memory, mounted over any directory. Groups go while root may still do that."""
        make_mounts_private()
        mount("tmpfs", "/proc", "tmpfs", MS_RDONLY, "mode=700,size=4k")
        os.chdir("/proc")
        pivot_root(".", ".")
        umount(".", MNT_DETACH)
        os.chdir("/")
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def decompress() -> None:
    """From descriptor 0, a file, to descriptor 1, a pipe. Runs as nobody, in an empty root."""
    try:
        with opened(open(0, "rb", closefd=False)) as stream:
            while data := stream.read(CHUNK):
                while data:
                    data = data[os.write(1, data) :]
    except BrokenPipeError:
        pass  # the reader has given up, and says why
    except Exception as failed:  # decompressors have many ways to fail
        raise ContainerError(f"the blob cannot be decompressed: {failed}") from None


def untar(diff_id: str | None) -> None:
    """Make the layer's files in the current directory, which is the root of the jail, of the tar on descriptor 0."""
    os.umask(0)
    layer, source = Layer(), Digested()
    with io.BufferedReader(source, CHUNK) as stream:
        layer.fill(stream)
    if diff_id not in (source.digest, None):
        raise ContainerError(f"its content has the digest {source.digest}, not {diff_id}")
    layer.finish()


class Digested(io.RawIOBase):
    """Descriptor 0, and the digest of what was read of it: taken by who uses it, or the other end could lie."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """For io.BufferedReader."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As io.RawIOBase has it: fill the buffer as far as there is data; 0 at the end."""
        size = os.readv(0, [buffer])
        self._sha256.update(buffer[:size])
        return size

    @property
    def digest(self) -> str:
        """Of all that was read so far."""
        return f"sha256:{self._sha256.hexdigest()}"

"""Chapter 5: ADD: in place of an archive, what is in it.

    source = unpacked(store, source, stack)          # itself, if it is no archive; else a directory

Whether a file is an archive its content says, and not its name: a tar, however it is compressed. That is found out, and
done, behind the walls where layers are unpacked.
"""

from __future__ import annotations

import os
import stat

from minidocker.images import tar
from minidocker.images.build.copy import BELOW, DIRECTORY, NOTHING, Source
from minidocker.images.layer.unpack import WALLS, Nowhere, opened, unpack_from
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.syscalls import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack

    from minidocker.images.store import Store


def unpacked(store: Store, source: Source, stack: ExitStack) -> Source:
    """The source, or the content of the archive that it is, with the owners that it says, until the stack is closed."""
    file = openat2(source.root, source.path or ".", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, BELOW)
    stack.callback(os.close, file)
    if not stat.S_ISREG(os.fstat(file).st_mode) or not is_archive(file):
        return source
    place = stack.enter_context(store.place())
    try:
        unpack_from(file, place)
    except ContainerError as refused:
        raise ContainerError(f"{source.name}: {refused}") from None
    root = os.open(place, DIRECTORY)
    stack.callback(os.close, root)
    return Source(root, "", "", NOTHING, True)


def is_archive(file: int) -> bool:
    """Whether a tar can be read from it; it is at its beginning again."""
    try:
        return run(first, Namespaces(WALLS), Nowhere(), stdin=file).exit_code == 0
    except ContainerError:
        return False
    finally:
        os.lseek(file, 0, os.SEEK_SET)


def first() -> None:
    """Read the first header of descriptor 0. Runs as nobody, in an empty root."""
    with opened(0) as stream:
        next(tar.read(stream.read))

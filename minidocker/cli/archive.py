"""`minidocker save`, `load`, `import` and `export`: images from and to files."""

from __future__ import annotations

import contextlib
import os
import sys

from minidocker.cli.options import parse
from minidocker.images.store import Store
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


def save(arguments: list[str]) -> int:
    """save [OPTIONS] IMAGE...: write images to an archive, for minidocker load, Docker, Podman or skopeo

    -o, --output FILE   write to a file, and not to standard output
    """
    from minidocker.images.archive import save as write

    options, names = parse(save.__doc__, arguments, 1)
    with output(options.output) as stream:
        write(Store(), names, stream)
    return 0


def load(arguments: list[str]) -> int:
    """load [OPTIONS]: bring images from an archive that minidocker save, Docker, Podman or skopeo wrote

    -i, --input FILE   read a file, and not standard input
    -q, --quiet        do not say what was loaded
    """
    from minidocker.images.archive import load as read

    options, _ = parse(load.__doc__, arguments, 0, 0)
    with source(options.input or "-") as stream:
        found = read(Store(), stream.fileno(), options.input or "standard input")
    for name in found if not options.quiet else []:
        print(f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {name}")
    return 0


def import_(arguments: list[str]) -> int:
    """import [OPTIONS] FILE|- [NAME[:TAG]]: make an image of the files in a tar

    -c, --change INSTRUCTION...   set a part of its config, as a Dockerfile does: 'CMD ["sh"]'
    -m, --message TEXT            what its history says
    """
    from minidocker.images.archive import import_ as take

    options, (path, *names) = parse(import_.__doc__, arguments, 1, 2)
    comment = options.message or f"Imported from {path}"
    with source(path) as stream:
        image = take(Store(), stream.fileno(), "".join(names), options.change, comment)
    print(image.id)
    return 0


def export(arguments: list[str]) -> int:
    """export [OPTIONS] IMAGE: write the files of an image, all layers merged, to a tar

    -o, --output FILE   write to a file, and not to standard output
    """
    from minidocker.images.archive import export as write
    from minidocker.images.image import find

    options, (name,) = parse(export.__doc__, arguments, 1, 1)
    image = find(Store(), name)
    with output(options.output) as stream:
        write(image, stream.fileno())
    return 0


@contextlib.contextmanager
def output(path: str) -> Iterator[BinaryIO]:
    """The file at this path, there only if it is complete; or standard output, unless that is a terminal."""
    if not path:
        if sys.stdout.isatty():
            raise ContainerError("an archive does not belong on a terminal: use -o FILE, or a pipe")
        with open(1, "wb", closefd=False) as stream:
            yield stream
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a device, a pipe: written to as it is
        with open(path, "wb") as stream:
            yield stream
        return
    temporary = f"{path}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "xb") as stream:
            yield stream
        os.replace(temporary, path)
    except OSError as failure:
        raise ContainerError(f"{path}: cannot write it: {failure.strerror}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def source(path: str) -> Iterator[BinaryIO]:
    """The file, or for "-" standard input."""
    if path == "-" and sys.stdin.isatty():
        raise ContainerError("it would read an archive from the terminal: name a file, or use a pipe")
    try:
        stream = open(0, "rb", closefd=False) if path == "-" else open(path, "rb")
    except OSError as failure:
        raise ContainerError(f"{path}: cannot read it: {failure.strerror}") from None
    with stream:
        yield stream

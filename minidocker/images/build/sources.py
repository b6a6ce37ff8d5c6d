"""Chapter 5: what COPY and ADD are told, and where their files come from if those are not in the context as they are."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import stat
from collections.abc import Mapping

from minidocker import trees
from minidocker.images.build.copy import Copy, Source, clean, opened
from minidocker.images.build.dockerfile import DOCUMENT, Instruction, expand
from minidocker.images.store import Store
from minidocker.outcome import ContainerError

URL = re.compile(r"(https?|ftp|git|ssh)://|git@", re.I)


def planned(instruction: Instruction, variables: Mapping[str, str], directory: str) -> tuple[Copy, list[str], str]:
    """(what a COPY or ADD does, the patterns to `take`, what the history says). `directory`: WORKDIR."""
    *words, path = [expand(word, variables) for word in instruction.words]
    patterns = [word for word in words if instruction.json is not None or not DOCUMENT.fullmatch(word)]
    flags = {name: expand(value, variables) for name, value in instruction.flags.items()}
    slash = "/" if posixpath.basename(path) in ("", ".", "..") else ""
    target = f"/{clean(posixpath.join(directory, path))}".rstrip("/") + slash
    mode = flags.get("chmod", "")
    if not path or not all(patterns):
        raise ValueError("a path is empty")
    if len(words) > 1 and not slash:
        raise ValueError(f"for more than one source, the target must end with a slash: {path}/")
    if any(map(URL.match, patterns)):
        raise ValueError("--network=host lets RUN download, with the program of your choice; this does not")
    if not re.fullmatch("([0-7]{3,4})?", mode):
        raise ValueError(f"--chmod={mode}: three or four octal digits are expected, such as 755")
    copy = Copy(target, flags.get("chown", ""), int(mode, 8) if mode else None)
    spelled = [f"--{name}={value}" for name, value in flags.items()]
    return copy, patterns, " ".join([instruction.keyword, *spelled, *words, target])


def unpacked(store: Store, source: Source, stack: contextlib.ExitStack) -> Source:
    """The source; or, if that is an archive, what is in it, with the owners that it says, until the stack is closed."""
    from minidocker.images.layer.unpack import decompressed, unpack  # decompressors are dear to import

    with opened(source.root, source.path, trees.READ) as file:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return source
        header = b""
        with contextlib.suppress(ContainerError), decompressed(file) as stream:
            header = io.BufferedReader(stream).read(512)
        checksum = re.fullmatch(rb"[ \0]*([0-7]+)[ \0]*", header[148:156])
        if not checksum or int(checksum[1], 8) != sum(header[:148]) + sum(b" " * 8) + sum(header[156:]):
            return source  # no tar(5)
        os.lseek(file, 0, os.SEEK_SET)
        place = stack.enter_context(store.place())
        unpack(file, place, what=source.name)
    return Source(stack.enter_context(opened(None, place)), "", "")

"""Chapter 5: what COPY and ADD are told, and where their files come from if those are not in the context as they are."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote, urlsplit

from minidocker import trees
from minidocker.images.build.copy import MODE, NOTHING, Copy, Ignore, Source, clean, opened
from minidocker.images.build.dockerfile import DOCUMENT, Instruction, expand, fields
from minidocker.images.store import Store
from minidocker.outcome import ContainerError

URL = re.compile(r"(https?|ftp|git|ssh)://|git@", re.I)
MAX_SECRET = 500 << 10  # bytes, as BuildKit
PAGE = re.compile(r"https?://(?!.*\.git(#|\Z))", re.I)  # what ADD fetches


@contextlib.contextmanager
def received(store: Store, directory: str, file: str) -> Iterator[tuple[str, str, Ignore]]:
    """(the context, the text of the Dockerfile, what is left out). For "-" the standard input is a tar of it all, in
    which links lead nowhere else, or the Dockerfile alone."""
    with contextlib.ExitStack() as stack:
        root, path, rules = None, file or f"{directory}/Dockerfile", f"{directory}/.dockerignore"
        if directory == "-":
            from minidocker.images.layer.unpack import carry

            place = stack.enter_context(store.place())
            with open(0, "rb", closefd=False) as stdin, open(f"{place}/stdin", "xb") as whole:
                carry(stdin, whole, "build context", None, store.show)
            here = stack.enter_context(opened(None, place))
            source = unpacked(store, Source(here, "stdin", "standard input"), stack)
            directory, root, path = f"{place}/empty", here, "stdin"
            os.mkdir(directory)
            if source.root != here:
                directory, root, path = f"/proc/self/fd/{source.root}", source.root, file or "Dockerfile"
                rules = ".dockerignore"
        elif not os.path.isdir(directory):
            raise ContainerError(f"{directory} is not a directory: a build takes its files from one", exit_code=1)
        text, ignore = _text(root, path), NOTHING
        for rules in (rules, f"{path}.dockerignore"):
            try:
                ignore = Ignore(_text(root, rules))
            except ValueError as wrong:
                raise ContainerError(f"{rules}: {wrong}", exit_code=1) from None
            except (FileNotFoundError, IsADirectoryError):
                pass
        yield directory, text, ignore


def _text(root: int | None, path: str) -> str:
    flags = os.O_RDONLY if root is None else trees.READ & ~os.O_NOFOLLOW  # in a tar, a FIFO is empty
    try:
        with contextlib.nullcontext(0) if path == "-" else opened(root, path, flags) as place:
            with open(place, encoding="utf-8", newline="", closefd=False) as file:
                return file.read()
    except UnicodeDecodeError as wrong:
        raise ContainerError(f"{path}: it is not text in UTF-8: {wrong.reason}", exit_code=1) from None


def download(url: str, checksum: str, directory: int) -> Source:
    """What is at a URL, as a new file in the open directory, by the rules for registries."""
    from email.utils import mktime_tz, parsedate_tz

    from minidocker.images.registry import Registry  # dear to import, too

    new = f"{len(os.listdir(directory))}"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    with Registry(url, "") as server, open(descriptor, "w+b") as file:
        response = server.request("GET", url)
        file.writelines(server.pieces(response, shutil.disk_usage(directory).free))
        file.seek(0)
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if checksum not in ("", found):
        raise ContainerError(f"{url}: its checksum is {found}, and not {checksum}")
    modified = parsedate_tz(response.headers.get("Last-Modified", ""))
    os.utime(new, (0, mktime_tz(modified) if modified else 0), dir_fd=directory)
    return Source(directory, new, named(url), owners=False)


def secrets(words: Sequence[str]) -> dict[str, bytes]:
    """What --secret id=NAME,src=FILE brings, or id=NAME,env=VARIABLE."""
    found = dict[str, bytes]()
    for word in words:
        match fields(word):
            case {"id": name, "source": path, **rest} if rest.keys() <= {"type"}:
                with open(path, "rb") as file:
                    found[name] = file.read(MAX_SECRET + 1)
            case {"id": name, "env": variable, **rest} if rest.keys() <= {"type"} and variable in os.environ:
                found[name] = os.fsencode(os.environ[variable])
            case _:
                raise ContainerError("--secret is id=NAME,src=FILE or id=NAME,env=VARIABLE, one that is set", exit_code=1)
        if len(found[name]) > MAX_SECRET:
            raise ContainerError(f"--secret id={name}: more than {MAX_SECRET} bytes are refused", exit_code=1)
    return found


def named(url: str) -> str:
    """What the file at a URL is called."""
    return clean(unquote(urlsplit(url).path)).rpartition("/")[2]


def planned(instruction: Instruction, variables: Mapping[str, str], directory: str) -> tuple[Copy, list[str], str]:
    """(what a COPY or ADD does, the patterns to `take`, what the history says). `directory`: WORKDIR."""
    *words, path = [expand(word, variables) for word in instruction.words]
    patterns = [word for word in words if instruction.json is not None or not DOCUMENT.fullmatch(word)]
    flags = {name: expand(value, variables) for name, value in instruction.flags.items()}
    exclude = [expand(pattern, variables) for pattern in instruction.lists["exclude"]]
    parents = flags.get("parents") == "true"
    slash = "/" if parents or posixpath.basename(path) in ("", ".", "..") else ""
    target = f"/{clean(posixpath.join(directory, path))}".rstrip("/") + slash
    mode = flags.get("chmod", "")
    if not path or not all(patterns):
        raise ValueError("a path is empty")
    if len(words) > 1 and not slash:
        raise ValueError(f"for more than one source, the target must end with a slash: {path}/")
    pages = [pattern for pattern in patterns if instruction.keyword == "ADD" and PAGE.match(pattern)]
    if any(map(URL.match, {*patterns} - {*pages})):
        raise ValueError("--network=host lets RUN download, with the program of your choice; ADD takes http and https")
    if slash and not all(map(named, pages)):
        raise ValueError("a URL names no file: the target must, and not end with a slash")
    if "checksum" in flags and (len(patterns) != 1 or not pages):
        raise ValueError("--checksum is for one URL")
    if mode and not MODE.fullmatch(mode):
        raise ValueError(f"--chmod={mode}: three or four octal digits, or letters, are expected: 755, or u+x,g-w")
    copy = Copy(target, flags.get("chown", ""), mode, exclude, parents)
    spelled = [f"--{name}={value}" for name, value in (*flags.items(), *(("exclude", one) for one in exclude))]
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

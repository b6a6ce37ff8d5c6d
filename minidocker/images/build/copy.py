"""Chapter 5: COPY and ADD: what they take, known by a digest, and how it gets into an image.

    copy = Copy("/srv/", owner="web")
    copy.take(context, "src/*.py", Ignore("*.log"))         # `context`: an open directory
    copy.digest()                                           # for the key of the build cache
    copy.into(Layers(lowers), union, PivotRoot(union.root, proc=False))

Two trees may be hostile: the one that files are taken from, which is the build context or the root of another image,
and the image that gets them. So sources are looked up by openat2(2) as if that open directory were the root of
everything, and they are put into place in a jail whose root is the image: there a symlink leads to the image's own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Mapping

from minidocker import files
from minidocker.images.build.dockerfile import DOCUMENT, Instruction
from minidocker.images.build.patterns import MAGIC, Ignore, clean, component
from minidocker.images.inside import records, resolve
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.syscalls import openat2

BELOW = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS of <linux/openat2.h>
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
URL = re.compile(r"(https?|ftp|git|ssh)://|git@", re.I)
HOST = ("security.selinux", "security.ima", "security.evm")  # attributes that say something about this machine
NOTHING = Ignore()


def planned(instruction: Instruction, variables: Mapping[str, str], directory: str) -> tuple[Copy, list[str], str]:
    """(what a COPY or ADD does, the patterns to `take`, what the history says). `directory`: WORKDIR."""
    *words, path = [instruction.expand(word, variables) for word in instruction.words()]
    patterns = [word for word in words if instruction.json is not None or not DOCUMENT.fullmatch(word)]
    flags = {name: instruction.expand(value, variables) for name, value in instruction.flags.items()}
    slash = "/" if posixpath.basename(path) in ("", ".", "..") else ""
    target, mode = f"/{clean(posixpath.join(directory, path))}".rstrip("/") + slash, flags.get("chmod", "")
    wrong = ""
    if not path or not all(patterns):
        wrong = "a path is empty"
    elif len(words) > 1 and not slash:
        wrong = f"for more than one source, the target must end with a slash: {path}/"
    elif any(map(URL.match, patterns)):
        wrong = "--network=host lets RUN download, with the program of your choice; this does not"
    elif not re.fullmatch("([0-7]{3,4})?", mode):
        wrong = f"--chmod={mode}: three or four octal digits are expected, such as 755"
    if wrong:
        raise instruction.error(f"{instruction.keyword}: {wrong}")
    copy = Copy(target, flags.get("chown", ""), int(mode, 8) if mode else None)
    copy.documents = [(each.name, (instruction.expand(each.text, variables, True) if each.expand else each.text).encode()) for each in instruction.documents]
    spelled = [f"--{name}={value}" for name, value in flags.items()]
    return copy, patterns, " ".join([instruction.keyword, *spelled, *words, target])


@contextlib.contextmanager
def opened(root: int, path: str, flags: int = DIRECTORY) -> Iterator[int]:
    """Open something below an open directory, for a while. A link leads to another place there, also one to /etc."""
    descriptor = openat2(root, path or ".", flags | os.O_CLOEXEC, BELOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find(root: int, pattern: str) -> list[str]:
    """The paths below the open directory that match, sorted."""
    found = [""]
    for part in filter(None, clean(pattern).split("/")):
        if MAGIC.isdisjoint(part):
            found = [posixpath.join(base, part) for base in found]
        else:
            fits = re.compile(component(part), re.S).fullmatch
            found = [posixpath.join(base, name) for base in found for name in listed(root, base) if fits(name)]
    return found


def listed(root: int, path: str) -> list[str]:
    """What is in a directory below the root; nothing, if it is none."""
    with contextlib.suppress(OSError), opened(root, path) as directory:
        return sorted(os.listdir(directory))
    return []


def real(root: int, path: str, ignore: Ignore) -> str | None:
    """The path without links; None if nothing of it can be copied. A link must not lead to what is left out."""
    with contextlib.suppress(OSError), opened(root, path, os.O_PATH) as descriptor:
        top, whole = (os.readlink(f"/proc/self/fd/{number}") for number in (root, descriptor))
        found = whole.removeprefix(top.rstrip("/")).strip("/")
        partly = ignore.exceptions and path == found and stat.S_ISDIR(os.fstat(descriptor).st_mode)
        return None if not partly and (ignore.ignores(path) or ignore.ignores(found)) else found
    return None


class Source:
    """One file, or a directory whose content is meant: `path` below the open directory `root`, with no link in it.

    `name`: what it was called. `owners`: whether they are kept; those of a context say nothing, and become root.
    """

    def __init__(self, root: int, path: str, name: str, ignore: Ignore, owners: bool) -> None:
        self.root, self.path, self.name, self.ignore, self.owners = root, path, name, ignore, owners

    def entries(self) -> Iterator[tuple[str, int, bytes, os.stat_result]]:
        """(path below, open directory, name in it, status) of the source, and of all in it that is not left out.

        A directory comes before what is in it. One that is left out can hold something that is not: then it comes, too.
        """
        parent, base = posixpath.split(self.path)
        with opened(self.root, parent) as above:
            status = os.lstat(base or ".", dir_fd=above)
            if not stat.S_ISDIR(status.st_mode):
                yield "", above, os.fsencode(base), status
                return
        held = dict[str, tuple[str, int, bytes, os.stat_result]]()
        with opened(self.root, self.path) as top:
            for way, directory, name, status in files.walk(top, self._skips):
                path = os.fsdecode(way)
                if self._left_out(path):
                    held[path] = path, directory, name, status
                elif not stat.S_ISSOCK(status.st_mode):
                    yield from [held.pop(above) for above in [*held] if path.startswith(f"{above}/")]
                    yield path, directory, name, status

    def _left_out(self, path: str) -> bool:
        return bool(path) and self.ignore.ignores(posixpath.join(self.path, path))

    def _skips(self, way: bytes) -> bool:
        return not self.ignore.exceptions and self._left_out(os.fsdecode(way))


class Copy:
    """What one COPY or ADD does. `target`: a path of the image; it ends with a slash if it must be a directory.

    `owner`: "user:group", names or numbers, in place of root; `mode` in place of the modes that the files have.
    `documents`: (name, content) of files that the Dockerfile holds. Without any source, the target is made.
    """

    def __init__(self, target: str, owner: str = "", mode: int | None = None) -> None:
        self.target, self.owner, self.mode = target, owner, mode
        self.documents: list[tuple[str, bytes]] = []
        self.sources: list[Source] = []

    def take(self, root: int, pattern: str, ignore: Ignore = NOTHING, owners: bool = False) -> None:
        """Add what the pattern matches below the open directory."""
        found = {path: way for path in find(root, pattern) if (way := real(root, path, ignore)) is not None}
        if not found:
            raise FileNotFoundError(errno.ENOENT, "there is no such file, or .dockerignore leaves it out", pattern)
        if len(found) > 1 and not self.target.endswith("/"):
            raise ValueError(f"{pattern} is {len(found)} files: the target must end with a slash")
        self.sources += [Source(root, way, posixpath.basename(path), ignore, owners) for path, way in found.items()]

    def digest(self) -> str:
        """Names, kinds, modes, owners and contents; not the times, which another checkout of the same files changes."""
        taken = hashlib.sha256(repr(self.documents).encode())
        for source in self.sources:
            links = dict[tuple[int, int], str]()
            for path, directory, name, status in source.entries():
                kind = stat.S_IFMT(status.st_mode)
                if not path and kind == stat.S_IFSOCK:
                    raise ValueError(f"/{source.path}: a socket: there is no way to pack one")
                first = links.setdefault((status.st_dev, status.st_ino), path)
                found = files.xattrs(files.place(directory, name))
                xattrs = sorted((key, value) for key, value in found.items() if not key.startswith(HOST))
                owner = (status.st_uid, status.st_gid) if source.owners else ()
                facts = path or source.name, first, status.st_mode, status.st_rdev, owner, xattrs
                target = os.readlink(name, dir_fd=directory) if kind == stat.S_IFLNK else b""
                # of a directory that is a source, only the content goes into the image
                taken.update(repr((facts, target) if path or kind != stat.S_IFDIR else kind).encode())
                if kind == stat.S_IFREG and first == path:
                    with open(os.open(name, files.READ, dir_fd=directory), "rb", 0) as file:
                        taken.update(hashlib.file_digest(file, "sha256").digest())
        return taken.hexdigest()

    def into(self, *jail: Isolator) -> None:
        """Put all into place; the jail's root is the image, or becomes it. Needs root."""
        carry = Isolator()
        carry.descriptors = tuple({source.root for source in self.sources})
        run(self.write, *jail, carry)

    def write(self) -> None:
        """Runs in the jail, as root."""
        os.umask(0)
        self.numbers = numbers(self.owner)
        try:
            if self.target.endswith("/"):
                self._directory(self.target)
            inside = os.path.isdir(self.target)
            for name, content in self.documents:
                self._document(posixpath.join(self.target, name) if inside else self.target, content)
            for source in self.sources:
                self._source(source, inside)
        except OSError as refused:
            raise ContainerError(f"{refused.filename or self.target}: {refused.strerror}") from None

    def _source(self, source: Source, inside: bool) -> None:
        """Names of one file stay names of one file. What is made in a directory changes its time, so that comes last."""
        links, times = dict[tuple[int, int], str](), dict[str, os.stat_result]()
        owner = self.numbers or (None if source.owners else (0, 0))
        for path, directory, name, status in source.entries():
            below = path or (source.name if inside else "")
            if stat.S_ISDIR(status.st_mode):
                new = self._directory(posixpath.join(self.target, path))
                if path:  # it looks like that of the source, also if it was there before
                    with opened(source.root, posixpath.join(source.path, path)) as like:
                        files.attributes(status, files.xattrs(like), new, owner, self.mode)
                    times[new] = status
                continue
            new = posixpath.join(self.target, below) if below else self.target
            self._make_room(new)
            if (first := links.setdefault((status.st_dev, status.st_ino), new)) != new:
                os.link(first, new, follow_symlinks=False)
            else:
                files.copy_entry(directory, name, None, new, owner=owner, mode=self.mode)
        for new, status in times.items():
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _document(self, new: str, content: bytes) -> None:
        self._make_room(new)
        with open(new, "xb") as file:
            file.write(content)
        os.chown(new, *(self.numbers or (0, 0)))
        os.chmod(new, 0o644 if self.mode is None else self.mode)
        os.utime(new, (0, 0))

    def _make_room(self, new: str) -> None:
        """For a file. It replaces a file, and never a directory, which may be full."""
        if os.path.isdir(new) and not os.path.islink(new):
            raise IsADirectoryError(errno.EISDIR, "a directory is there, and a file does not replace it", new)
        self._directory(posixpath.dirname(new))
        if os.path.lexists(new):
            os.unlink(new)

    def _directory(self, path: str) -> str:
        """Make a directory with those that are missing on the way, for the new owner; return it without links.

        A link on the way is followed, also where it leads to is what is missing.
        """
        whole = path = os.path.realpath(path)
        missing = list[str]()
        while not os.path.isdir(path):
            if os.path.lexists(path):
                raise NotADirectoryError(errno.ENOTDIR, "it is in the way: not a directory", path)
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            os.mkdir(path, 0o755)
            os.chown(path, *(self.numbers or (0, 0)))
        return whole


def numbers(owner: str) -> tuple[int, int] | None:
    """(uid, gid) of an owner, by the image's own files. A number alone is that of the user and of the group."""
    if not owner:
        return None
    name = f"{owner}:{owner}" if owner.isdecimal() else owner
    return resolve(name, records("/etc/passwd"), records("/etc/group"))[:2]

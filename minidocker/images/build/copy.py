"""Chapter 5: COPY and ADD: what they take, known by a digest, and how it gets into an image.

    copy = Copy("/srv/", owner="web")
    copy.take(context, "src/*.py", Ignore("*.log"))         # `context`: an open directory
    copy.digest()                                           # for the key of the build cache
    copy.into(lowers, upper)

Both trees may be hostile, the one that files are taken from and the image that gets them. So sources are looked up by
openat2(2) as if that open directory were the root of everything, and put into place in a jail whose root is the image.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import operator
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence

from minidocker import files, trees
from minidocker.images.inside import records, resolve
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.rootfs import PivotRoot
from minidocker.syscalls import openat2, signal
from minidocker.union import Union

BELOW = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS of <linux/openat2.h>
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
HOST = ("security.selinux", "security.ima", "security.evm")  # attributes that say something about this machine
MAGIC = frozenset("*?[\\")
CLASS = r"\[(?P<not>\^?)(?P<class>(?:\\.|[^\]\\])+)\]"
GLOB = re.compile(rf"(?P<star>\*+)|(?P<any>\?)|{CLASS}|(?P<open>\[)|\\?(?P<letter>.)", re.S)
END = r"(?=/|\Z)"
MODE = re.compile(r"[0-7]{3,4}|([ugoa]*([-+=]([ugo]|[rwxXst]*))+(,(?=.)|\Z))+")  # what chmod(1) takes
WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
MAY = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}


def component(pattern: str) -> re.Pattern[str]:
    """One part of a path, by Go's filepath.Match. Raises ValueError for a bad pattern.

    What stands between two stars is looked for once, and stays where it is first found, (?>…): if the rest does not fit
    behind that, it fits behind no later place. So no pattern takes longer than its length times that of the path.
    """
    try:
        return re.compile(f"(?>{GLOB.sub(_piece, pattern)}{END})", re.S)
    except (ValueError, re.error) as wrong:
        raise ValueError(f"{pattern!r}: {wrong}") from None


def _piece(found: re.Match[str]) -> str:
    if found["open"]:
        raise ValueError("a class [...] is not closed, or empty")
    if found["class"]:
        body = re.sub(r"\\(.)|([\[&~|])", lambda special: re.escape(special[1] or special[2]), found["class"])
        return f"[{'^/' if found['not'] else ''}{body}]"
    if found["star"]:
        return ")(?>[^/]*?"  # ends the group that `component` began, or another star, and begins one
    return "[^/]" if found["any"] else re.escape(found["letter"])


def chmod(change: str, before: int) -> int:
    """The mode of a file after chmod(1), in digits or letters. X is x for directories, and where somebody has x."""
    if change.isdecimal():
        return int(change, 8)
    mode = stat.S_IMODE(before)
    for who, actions in re.findall("([ugoa]*)([-+=][^,]*)", change):
        mask = functools.reduce(operator.or_, map(WHO.__getitem__, who or "a"))
        for sign, letters in re.findall("([-+=])([^-+=]*)", actions):
            may = MAY | {who: (mode >> shift & 7) * 0o111 for who, shift in (("u", 6), ("g", 3), ("o", 0))}
            may["X"] = 0o111 if stat.S_ISDIR(before) or mode & 0o111 else 0
            bits = mask & functools.reduce(operator.or_, map(may.__getitem__, letters), 0)
            mode = mode & ~mask if sign == "=" else mode
            mode = mode & ~bits if sign == "-" else mode | bits
    return mode


def clean(path: str) -> str:
    """The path from the root, without "." and empty parts; ".." goes no higher than the root."""
    return posixpath.normpath("/" + path).lstrip("/")


class Ignore:
    """The rules of a .dockerignore; the last one that matches a path, or a directory above it, decides."""

    def __init__(self, text: str = "") -> None:
        self.rules: list[tuple[bool, re.Pattern[str]]] = []  # (whether it ignores, what), the last one first
        for line in text.removeprefix("\ufeff").split("\n"):
            word = "" if line.startswith("#") else line.strip()
            if pattern := clean(word.removeprefix("!").strip()):
                self.rules.insert(0, (not word.startswith("!"), _regex(pattern)))
        self.exceptions = not all(ignoring for ignoring, _ in self.rules)

    def ignores(self, path: str) -> bool:
        """Whether the path, relative to the context, is left out."""
        return next((ignoring for ignoring, matching in self.rules if matching.match(f"/{path}")), False)


def _regex(pattern: str) -> re.Pattern[str]:
    """For the beginning of a path, /a/b, up to the end of a part."""
    pattern = re.sub(r"(?<![^/])\*\*(?=[^/*])", "**/*", pattern)  # **.go is meant for all directories, too
    first, *others = (  # what stands before, between and behind the **
        "".join(f"/{component(part).pattern}" for part in group.split("/")[1:])
        for group in re.split(rf"(?:/\*\*)+{END}", f"/{pattern}")
    )
    middle = "".join(f"(?>(?:/[^/]*+)*?{group})" for group in others if group)
    end = "/" if others and not others[-1] else ""  # a/** is what is in a, and not a itself
    return re.compile(first + middle + end, re.S)


NOTHING = Ignore()


@contextlib.contextmanager
def opened(root: int | None, path: str, flags: int = DIRECTORY) -> Iterator[int]:
    """Open a path for a while: of this machine, or below an open directory. There no link leads out, not one to /etc."""
    descriptor = os.open(path, flags) if root is None else openat2(root, path or ".", flags | os.O_CLOEXEC, BELOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find(root: int, pattern: str, deep: bool = False) -> list[str]:
    """The paths below the open directory that match, sorted. With `deep`, ** is any number of directories."""
    found = [""]
    for part in filter(None, clean(pattern).split("/")):
        if deep and part == "**":
            found = [posixpath.join(base, way).rstrip("/") for base in found for way in _listed(root, base, deep)]
        elif MAGIC.isdisjoint(part):
            found = [posixpath.join(base, part) for base in found]
        else:
            fits = component(part).fullmatch
            found = [posixpath.join(base, name) for base in found for name in _listed(root, base) if fits(name)]
    return found


def _listed(root: int, path: str, deep: bool = False) -> list[str]:
    """What is in a directory; with `deep`, the ways to all directories in it, and to itself."""
    with contextlib.suppress(OSError), opened(root, path) as directory:
        if not deep:
            return sorted(os.listdir(directory))
        return [os.fsdecode(way) for way, *_, status in trees.walk(directory) if stat.S_ISDIR(status.st_mode)]
    return []


def real(root: int, path: str, ignore: Ignore) -> str | None:
    """The path without links; None if nothing of it can be copied. A link must not lead to what is left out."""
    with contextlib.suppress(OSError), opened(root, path, os.O_PATH) as descriptor:
        top, whole = (os.readlink(f"/proc/self/fd/{number}") for number in (root, descriptor))
        found = whole.removeprefix(top.rstrip("/")).strip("/")
        partly = ignore.exceptions and path == found and stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if partly or not (ignore.ignores(path) or ignore.ignores(found)):
            return found
    return None


def standing(layers: Sequence[str], stack: contextlib.ExitStack) -> int:
    """The root made of layers as an open directory; a process waits in it meanwhile: proc(5), /proc/PID/root."""
    process = stack.enter_context(start(signal.pause, *_jail(layers)))
    return stack.enter_context(opened(None, f"/proc/{process.pid}/root"))


def _jail(lowers: Sequence[str], upper: str | None = None) -> list[Isolator]:
    """A root made of layers, in which our own code reads or writes: nothing is mounted there, and nothing executed."""
    union = Union(lowers, upper, held=lowers)
    return [union, PivotRoot(union.root, proc=False)]


class Source:
    """One file, or a directory whose content is meant: `path` below the open directory `root`, with no link in it.

    `name`: what it was called. `owners`: whether they are kept; those of a context say nothing, and become root.
    `above`: the way to it that is kept, and `exclude`, what is left out of what is kept: --parents and --exclude.
    """

    above, exclude = "", NOTHING

    def __init__(self, root: int, path: str, name: str, ignore: Ignore = NOTHING, owners: bool = True) -> None:
        self.root, self.path, self.name, self.ignore, self.owners = root, path, name, ignore, owners

    def below(self, path: str) -> str:
        """The way that is kept to something in it."""
        return posixpath.join(self.above, path).rstrip("/")

    def entries(self) -> Iterator[tuple[str, int, bytes, os.stat_result]]:
        """(path below, open directory, name in it, status) of the source, and of all in it that is not left out.

        A directory comes before what is in it. One that is left out can hold something that is not: then it comes, too.
        """
        held = dict[str, tuple[str, int, bytes, os.stat_result]]()
        parent, base = posixpath.split(self.path)
        with opened(self.root, parent) as above:
            skips = None if self.ignore.exceptions or self.exclude.exceptions else self._left_out
            for way, directory, name, status in trees.walk(above, base or ".", skips):
                path = os.fsdecode(way)
                if self._left_out(way, stat.S_ISDIR(status.st_mode)):
                    held[path] = path, directory, name, status
                elif not path or not stat.S_ISSOCK(status.st_mode):
                    yield from [held.pop(over) for over in [*held] if path.startswith(f"{over}/")]
                    yield path, directory, name, status

    def _left_out(self, way: bytes, directory: bool = True) -> bool:
        path = os.fsdecode(way)
        kept = self.below(path) or ("" if directory else self.name)
        ignored = path and self.ignore.ignores(posixpath.join(self.path, path))
        return bool(ignored or (kept and self.exclude.ignores(kept)))


class Copy:
    """What one COPY or ADD does. `target`: a path of the image; it ends with a slash if it must be a directory.

    `owner`: "user:group", names or numbers, in place of root; `mode`: how those of the files change, as `chmod` says.
    `exclude`: what of them is left out; `parents`: whether the way to them is kept. Without any source, the target is
    made.
    """

    def __init__(
        self, target: str, owner: str = "", mode: str = "", exclude: Sequence[str] = (), parents: bool = False
    ) -> None:
        self.target, self.owner, self.mode = target, owner, mode
        self.exclude, self.parents = Ignore("".join(f" {one}\n" for one in exclude)), parents
        self.sources: list[Source] = []

    def take(self, root: int, pattern: str, ignore: Ignore = NOTHING, owners: bool = False) -> None:
        """Add what the pattern matches below the open directory."""
        found = {path: way for path in find(root, pattern, self.parents) if (way := real(root, path, ignore)) is not None}
        if not found:
            raise ValueError(f"{pattern}: there is no such file, or .dockerignore leaves it out")
        if len(found) > 1 and not self.target.endswith("/"):
            raise ValueError(f"{pattern} is {len(found)} files: the target must end with a slash")
        pivot = len(clean(pattern.partition("/./")[0]).split("/")) if "/./" in pattern else 0
        for path, way in found.items():
            source = Source(root, way, posixpath.basename(path), ignore, owners)
            source.exclude = self.exclude
            source.above = "/".join(path.split("/")[pivot:]) if self.parents else ""
            self.sources.append(source)

    def digest(self) -> str:
        """Names, kinds, modes, owners and contents; not the times, which another checkout of the same files changes."""
        taken = hashlib.sha256()
        for source in self.sources:
            links = dict[tuple[int, int], str]()
            for path, directory, name, status in source.entries():
                kind = stat.S_IFMT(status.st_mode)
                if kind == stat.S_IFSOCK:
                    raise ValueError(f"/{source.path}: a socket: there is no way to pack one")
                first = links.setdefault((status.st_dev, status.st_ino), path)
                found = files.xattrs(files.place(directory, name))
                xattrs = sorted((key, value) for key, value in found.items() if not key.startswith(HOST))
                owner = (status.st_uid, status.st_gid) if source.owners else ()
                facts = (path or source.name, first, status.st_mode, status.st_rdev, owner, xattrs)
                target = os.readlink(name, dir_fd=directory) if kind == stat.S_IFLNK else b""
                # of a directory that is a source, only the content goes into the image
                whole = path or source.above or kind != stat.S_IFDIR
                taken.update(repr((facts, source.above, target) if whole else kind).encode())
                if kind == stat.S_IFREG and first == path:
                    with open(os.open(name, trees.READ, dir_fd=directory), "rb", 0) as file:
                        taken.update(hashlib.file_digest(file, "sha256").digest())
        return taken.hexdigest()

    def into(self, lowers: Sequence[str], upper: str) -> None:
        """Put all into place, in the image that these layers are; what changes is in `upper`. Needs root."""
        carry = Isolator()
        carry.descriptors = tuple({source.root for source in self.sources})
        run(self.write, *_jail(lowers, upper), carry)

    def write(self) -> None:
        """Runs in the jail, as root. An owner that is a number alone is that of the user and of the group."""
        os.umask(0)
        name = f"{self.owner}:{self.owner}" if self.owner.isdecimal() else self.owner
        self.numbers = resolve(name, records("/etc/passwd"), records("/etc/group"))[:2] if name else None
        try:
            if self.target.endswith("/"):
                self._directory(self.target)
            inside = os.path.isdir(self.target)
            for source in self.sources:
                self._source(source, inside)
        except OSError as refused:
            raise ContainerError(f"{refused.filename or self.target}: {refused.strerror}") from None

    def _source(self, source: Source, inside: bool) -> None:
        """Names of one file stay names of one file. What is made in a directory changes its time, so that comes last."""
        links = dict[tuple[int, int], str]()
        times = dict[str, os.stat_result]()
        owner = self.numbers or (None if source.owners else (0, 0))
        for path, directory, name, status in source.entries():
            mode = chmod(self.mode, status.st_mode) if self.mode else None
            way = source.below(path)
            if stat.S_ISDIR(status.st_mode):
                new = self._directory(posixpath.join(self.target, way))
                if way:  # it looks like that of the source, also if it was there before
                    with opened(source.root, posixpath.join(source.path, path)) as like:
                        files.attributes(status, files.xattrs(like), new, owner, mode)
                    times[new] = status
                continue
            below = way or (source.name if inside else "")
            new = posixpath.join(self.target, below) if below else self.target
            if os.path.isdir(new) and not os.path.islink(new):  # it may be full
                raise IsADirectoryError(errno.EISDIR, "a directory is there, and a file does not replace it", new)
            self._directory(posixpath.dirname(new))
            if os.path.lexists(new):
                os.unlink(new)
            if (first := links.setdefault((status.st_dev, status.st_ino), new)) != new:
                os.link(first, new, follow_symlinks=False)
            else:
                files.copy_entry(directory, name, None, new, owner=owner, mode=mode)
        for new, status in times.items():
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _directory(self, path: str) -> str:
        """Make a directory, and those that are missing on the way, links followed; return the path without links."""
        missing = [os.path.realpath(path)]
        while not os.path.isdir(missing[-1]):
            if os.path.lexists(missing[-1]):
                raise NotADirectoryError(errno.ENOTDIR, "it is in the way: not a directory", missing[-1])
            missing.append(posixpath.dirname(missing[-1]))
        for new in reversed(missing[:-1]):
            os.mkdir(new, 0o755)
            os.chown(new, *(self.numbers or (0, 0)))
        return missing[0]

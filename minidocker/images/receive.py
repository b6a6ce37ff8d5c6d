"""Chapter 5: where COPY and ADD put files: into the root of an image, in a jail made of it.

    receive([union, PivotRoot(union.root, proc=False)], "files.tar", "/srv/", owner="www-data", mode=0o644)

The image may be hostile: its /srv may be a symlink to /etc. In the jail that is the image's own /etc, and so are the
/etc/passwd and /etc/group that give names of owners their numbers.
"""

from __future__ import annotations

import errno
import os

from minidocker.images import inside, restore, tar
from minidocker.images.tar import BadTar, Entry
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO


def receive(jail: Sequence[Isolator], spool: str, target: str, owner: str = "", mode: int | None = None) -> None:
    """Put the files of the tar `spool` (see `context`) at the path `target` of the jail; if it is "", make `target`.

    If `target` ends with a slash, or is a directory, they go into it. `owner`: "user:group", names or numbers; `mode`
    in place of the modes that they have. Needs root.
    """
    with open(spool or os.devnull, "rb") as file:
        result = run(["write"], *jail, Write(target, owner, mode), stdin=file.fileno() if spool else tar.END)
    if result.exit_code:
        raise ContainerError(result.stderr or "the process that wrote the files was killed", exit_code=1)


class Write(Isolator):
    """Last in the list: it does the work, says what is wrong on descriptor 2, and ends the process."""

    def __init__(self, target: str, owner: str, mode: int | None) -> None:
        self.target, self.owner, self.mode = target, owner, mode

    def inside(self) -> None:
        """Runs in the jail, as root."""
        try:
            os.umask(0)
            _Writer(self.target, _owner(self.owner), self.mode).all()
        except OSError as refused:
            os.write(2, f"{os.fsdecode(refused.filename or self.target)}: {refused.strerror}".encode())
            os._exit(1)
        except (BadTar, ContainerError) as wrong:
            os.write(2, str(wrong).encode(errors="backslashreplace"))
            os._exit(1)
        os._exit(0)


def _owner(text: str) -> tuple[int, int] | None:
    """(uid, gid) of --chown, by the image's own files. A number alone is that of the user and of the group."""
    if not text:
        return None
    name = f"{text}:{text}" if text.isdecimal() else text
    return inside.resolve(name, inside.records("/etc/passwd"), inside.records("/etc/group"))[:2]


class _Writer:
    """Unpacks the tar on descriptor 0. The current directory is the jail's root."""

    def __init__(self, target: str, owner: tuple[int, int] | None, mode: int | None) -> None:
        self.owner, self.mode = owner, mode
        self.target = os.fsencode(target).strip(b"/")
        self.into = target.endswith("/") or os.path.isdir(target)
        self.directories: dict[bytes, Entry] = {}  # what they are to look like comes last

    def all(self) -> None:
        """Each entry in turn; a later one may replace an earlier one."""
        if self.into:
            self.parents(self.target)
        with open(0, "rb", buffering=restore.CHUNK, closefd=False) as stream:
            for entry in tar.read(stream):
                self.place(entry)
                if entry.type == tar.DIRECTORY:
                    self.directory(entry)
                else:
                    self.file(entry, stream)
        for entry in self.directories.values():
            restore.attributes(entry)

    def place(self, entry: Entry) -> None:
        """Where it goes, and whom it belongs to."""
        below = entry.name.startswith(b"./") or self.into
        entry.name = self.below(entry.name) if below else self.target
        if entry.type == tar.HARDLINK:
            entry.link = self.below(entry.link)
        if self.owner:
            entry.uid, entry.gid = self.owner
        if self.mode is not None:
            entry.mode = self.mode

    def below(self, name: bytes) -> bytes:
        """A name of the tar as a path from the root, below the target."""
        return os.path.join(self.target, restore.clean(name)).rstrip(b"/")

    def directory(self, entry: Entry) -> None:
        """One that is there stays, with all that is in it, and looks like the new one; a link to one is followed."""
        if os.path.isdir(entry.name or b"."):
            entry.name = os.path.realpath(entry.name)[1:]
        else:
            self.parents(entry.name)
        self.directories[entry.name] = entry

    def file(self, entry: Entry, stream: BinaryIO) -> None:
        """It replaces a file, and never a directory, which may be full."""
        if restore.is_directory(entry.name or b"."):
            text = "a directory is there, and a file does not replace it"
            raise IsADirectoryError(errno.EISDIR, text, b"/" + entry.name)
        self.parents(os.path.dirname(entry.name))
        if os.path.lexists(entry.name):
            os.unlink(entry.name)
        restore.make(entry, stream)

    def parents(self, directory: bytes) -> None:
        """Make the directories that are missing on the way to this one, and it; they belong to the new owner.

        A link on the way is followed, also where it leads to is what is missing.
        """
        directory, missing = os.path.realpath(directory)[1:], []
        while directory and not os.path.isdir(directory):
            if os.path.lexists(directory):
                text = "it is in the way: not a directory"
                raise NotADirectoryError(errno.ENOTDIR, text, b"/" + directory)
            missing.append(directory)
            directory = os.path.dirname(directory)
        for name in reversed(missing):
            os.mkdir(name, 0o755)
            os.chown(name, *(self.owner or (0, 0)))

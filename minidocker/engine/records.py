"""Chapter 10: what is known of a container that stays, in files that a person can read.

    records/ID/config.json    what was asked for: an image, a command, the options
    records/ID/state.json     what became of it; its monitor writes it
    records/ID/log            what it wrote, a line of JSON each
    records/ID/upper/         what it changed
    names/NAME                a link to records/ID, so that a name is taken at once, or is not

There is no daemon, and no file that all containers share. A file is replaced as a whole (`state.replace`), a directory
gets its name when all is in it. Who runs a container, its monitor, holds the lock of its directory; if it was killed,
whoever looks next finds that the lock is free, and writes down that the container has ended.
"""

from __future__ import annotations

import os
import time

from minidocker import state
from minidocker.cgroups import hierarchy
from minidocker.engine.watch import groups, now, suppress, tell, text
from minidocker.outcome import ContainerError, warn
from minidocker.state import home
from minidocker.syscalls import Any
from minidocker.trees import remove
from minidocker.volumes import store

SHORT = 12  # digits of an ID that are shown
KILLED = 137  # the exit code of what SIGKILL ended
FIRST = "able bold calm dear deft eager fair free glad kind keen lucid merry neat proud quick sunny tidy warm wise"
SECOND = "bell cerf hopper kay kildall lamport liskov lovelace perlman pike ritchie stallman thompson torvalds turing"
MARKS = dict.fromkeys(map(ord, "_.-"), "0")  # what a name may have beside letters and digits
ALIVE = ("running", "paused", "restarting")
BEFORE = {"status": "created", "pid": 0, "exit_code": 0, "started": "", "finished": "", "error": "", "restarts": 0}


class NoSuchContainer(ContainerError):
    """Nothing has this name, or an ID that begins so."""


class Record:
    """A container that stays: `id` has 64 hex digits, `path` is its directory, and all of it on the host is `short`."""

    known: dict[str, Any] | None = None

    def __init__(self, identity: str) -> None:
        self.id, self.short, self.path = identity, identity[:SHORT], f"{home()}/records/{identity}"

    @property
    def config(self) -> dict[str, Any]:
        """What was asked for, as it was when this was first read."""
        self.known = self.known or self._config()
        return self.known

    def _config(self) -> dict[str, Any]:
        if not (found := _read(f"{self.path}/config.json")):
            raise NoSuchContainer(f"no such container: {self.short}: {self.path}/config.json cannot be read")
        return found

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.config.get("name", ""))

    def state(self) -> dict[str, Any]:
        """What is known of it now. What its monitor could not write down any more is written here."""
        known = self._known()
        if known["status"] in ALIVE and (lock := state.hold(self.path)) is not None:
            try:
                known = self._known()  # it may have ended by itself meanwhile
                if known["status"] in ALIVE:
                    known |= {"status": "exited", "pid": 0, "exit_code": KILLED, "finished": now()}
                    self.write("state", known)
                    tell("die", self.config, exitCode=str(KILLED))
            finally:
                os.close(lock)
        group = groups(self).get("freezer")
        if known["status"] == "running" and group and hierarchy.frozen(group.path):
            known["status"] = "paused"
        return known

    def _known(self) -> dict[str, Any]:
        return BEFORE | (_read(f"{self.path}/state.json") or {})

    def write(self, what: str, document: dict[str, Any], sync: bool = False) -> None:
        """Replace config.json or state.json. On a full disk a state is written over the old one, which has room."""
        path, data = f"{self.path}/{what}.json", text(document)
        try:
            state.replace(path, data, sync)
        except OSError:
            if what == "config":
                raise
            with suppress(OSError), open(path, "r+b", 0) as file:  # in one piece, or one could read half
                file.write(data.ljust(os.fstat(file.fileno()).st_size))
        self.known = document if what == "config" else self.known

    def uses(self) -> list[str]:
        """Links that say of its image and its volumes that they are wanted: see `state.wanted`."""
        names = [str(self.config.get("image_id", "")).removeprefix("sha256:"), *self.config.get("volumes", [])]
        return [f"{home()}/uses/{name}/{self.id}" for name in names if name]


class Foreground(Record):
    """`run --rm`, without a monitor: there as long as its command holds its directory, with a note of what it is."""

    def __init__(self, name: str) -> None:
        self.id, self.short, self.path = name, name, state.directory(name)

    def _config(self) -> dict[str, Any]:
        """The note: words of Python, which a start writes without the module json."""
        try:
            with open(f"{self.path}/running") as file:
                literal = __import__("ast").literal_eval
                found = {"created": now(os.fstat(file.fileno()).st_mtime_ns), **literal(file.read())}
        except (OSError, ValueError, SyntaxError, TypeError):
            raise NoSuchContainer(f"no such container: {self.id}: see minidocker ps -a") from None
        return {"id": self.id, "name": self.id, **found}

    def _known(self) -> dict[str, Any]:
        with suppress(NoSuchContainer):
            known = {"status": "running", "pid": self.config["pid"], "started": self.config["created"]}
            if (free := state.hold(self.path)) is not None:
                os.close(free)  # its command was killed
            elif os.path.exists(self.path):
                return BEFORE | known
        return BEFORE

    def write(self, what: str, document: dict[str, Any], sync: bool = False) -> None:
        """There is nothing to change."""
        raise ContainerError(f"{self.id}: this container is in the foreground of its command, and leaves no record")


def _read(path: str) -> dict[str, Any] | None:
    """A document; None if it is not there, or is none: a disk may have lost it in a power cut."""
    with suppress(OSError, ValueError, TypeError), open(path, "rb") as file:
        return dict(__import__("json").load(file))
    return None


class changing:
    """Names are given and taken away by one process at a time."""

    def __enter__(self) -> None:
        for place in ("records", "names"):
            os.makedirs(f"{home()}/{place}", exist_ok=True)
        self.lock = state.hold(f"{home()}/names", wait=True)

    def __exit__(self, *_: object) -> None:
        os.close(self.lock) if self.lock is not None else None


def create(config: dict[str, Any], layer: str, name: str = "") -> Record:
    """Write down a new container; `layer` is the top one of its image, whose root the writable one looks like.

    All that leads to its directory is made before that gets its name: a link to nowhere means nothing.
    """
    record = Record(os.urandom(32).hex())
    new, top = f"{record.path}.new", os.stat(layer)
    with changing():
        _sweep()
        name = name or _invented()
        record.known = {"id": record.id, "name": name, "created": now(), **config}
        _claim(name, record)
        try:
            os.mkdir(new, 0o700)
            os.mkdir(f"{new}/upper")
            os.chmod(f"{new}/upper", top.st_mode & 0o7777)
            os.chown(f"{new}/upper", top.st_uid, top.st_gid)
            state.replace(f"{new}/state.json", text(BEFORE))  # it has room for its end, if the disk is full by then
            state.replace(f"{new}/config.json", text(record.config), sync=True)
            for link in record.uses():
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(record.path, link)
            os.rename(new, record.path)
        except BaseException:
            remove(new)
            _unlink(f"{home()}/names/{name}", *record.uses())
            raise
    tell("create", record.config)
    return record


def _unlink(*links: str) -> None:
    for link in links:
        with suppress(OSError):
            os.unlink(link)
        with suppress(OSError):
            if "/uses/" in link:
                os.rmdir(os.path.dirname(link))


def _claim(name: str, record: Record) -> None:
    """Make the link from a name to a record. The name is refused if it is taken."""
    link, rule = f"{home()}/names/{name}", "at most 128 letters, digits, _, . and -, a letter first"
    if not (name[:1].isalnum() and name.isascii() and name.translate(MARKS).isalnum() and len(name) <= 128):
        raise ContainerError(f"a container cannot be called {name[:128]!r}: {rule}")
    refuse(name)
    _unlink(link)  # what a dead process left
    os.symlink(f"../records/{record.id}", link)
    refuse(name)  # `run --rm` claims its directory, and looks for this link then


def refuse(name: str) -> None:
    """An error if a container has this name."""
    if owner := _owner(name):
        remedy = "remove or rename that one, or choose another"
        raise ContainerError(f"the name {name} is in use by container {owner.short}: {remedy}")


def _owner(name: str) -> Record | None:
    """The container that has this name. A link that leads nowhere, or to what has another name by now, is none."""
    with suppress(OSError, ValueError, NoSuchContainer):
        record = Record(os.path.basename(os.readlink(f"{home()}/names/{name}")))
        if record.name == name:
            return record
    with suppress(ContainerError):  # what cannot be the name of a directory
        record = Foreground(name)
        return record if record.state()["status"] in ALIVE else None
    return None


def _invented() -> str:
    """A name for what got none, as Docker gives one."""
    first, second = FIRST.split(), SECOND.split()
    while True:
        one, two, number = os.urandom(3)
        name = f"{first[one % len(first)]}_{second[two % len(second)]}"
        for free in (name, f"{name}{number}"):
            if not os.path.lexists(f"{home()}/names/{free}"):
                return free


def rename(record: Record, name: str) -> None:
    """Give it another name: it has that from the moment on in which config.json says so."""
    with changing():
        _claim(name, record)
        old = f"{home()}/names/{record.name}"
        record.write("config", record.config | {"name": name}, sync=True)
        _unlink(old)


def delete(record: Record, lock: int, volumes: bool = True) -> None:
    """Remove it with all that is in it, and its volumes without a name: by whoever holds its lock."""
    gone = f"{record.path}.removed"
    with changing():
        links = [f"{home()}/names/{record.name}", *record.uses()]
        os.rename(record.path, gone)
        _unlink(*links)
    state.release(gone, lock)
    tell("destroy", record.config)
    for name in record.config.get("anonymous", []) if volumes else []:
        try:
            store.remove(name)
        except ContainerError as left:
            warn(str(left))


def lock(record: Record) -> int | None:
    """The lock of a record, or None if a monitor has it. Who only looks has it for less than a moment."""
    for _ in range(1000):
        if (held := state.hold(record.path)) is not None:
            return held
        if not os.path.exists(record.path):
            raise NoSuchContainer(f"no such container: {record.short}: another command has just removed it")
        if record.state()["status"] in ALIVE:
            return None
        time.sleep(0.01)
    raise ContainerError(f"{record.name or record.short}: it is being started, or has not let go of its output yet")


def freeze(record: Record, frozen: bool) -> None:
    """Stop all its processes, or let them go on; its monitor is not told, since the kernel knows it."""
    group = groups(record).get("freezer")
    if group and os.path.isdir(group.path) and not hierarchy.freeze(group.path, frozen):
        raise ContainerError(f"{record.name}: a process of it has not stopped: it waits for a device")
    tell("pause" if frozen else "unpause", record.config)


def _kept() -> list[Record]:
    return [Record(path[-64:]) for path in state.directories(f"{home()}/records") if len(os.path.basename(path)) == 64]


def _foreground() -> list[Record]:
    found = [Foreground(os.path.basename(path)) for path in state.directories(f"{home()}/containers")]
    return [record for record in found if record.state()["status"] in ALIVE]


def records() -> list[Record]:
    """All of them, the newest first."""
    found = dict[Record, str]()
    for record in [*_kept(), *_foreground()]:
        with suppress(NoSuchContainer):  # it has just been removed, or is damaged
            found[record] = str(record.config.get("created"))
    return sorted(found, key=lambda record: found[record], reverse=True)


def find(word: str) -> Record:
    """The container of this name, or whose ID begins so."""
    if "/" not in word and (named := _owner(word)):
        return named
    begins = [one for one in [*_kept(), *_foreground()] if word and one.id.startswith(word)]
    if len(begins) > 1:
        raise ContainerError(f"{word}: {len(begins)} containers have an ID that begins so: give more digits")
    if not begins:
        raise NoSuchContainer(f"no such container: {word}: see minidocker ps -a")
    return begins[0]


def _sweep() -> list[str]:
    """Remove what a killed process left half made, or half removed; who removes one holds it."""
    left = [path for path in state.directories(f"{home()}/records") if path.endswith((".new", ".removed"))]
    for path in left:
        if (lock := state.hold(path)) is not None:
            state.release(path, lock)
    return left


def prune() -> list[str]:
    """The same, with links that lead nowhere, and containers of `run --rm` whose monitors were killed."""
    with changing():
        left = _sweep()
        links = [f"{place}/{link}" for place in state.directories(f"{home()}/uses") for link in os.listdir(place)]
        dangling = [link for link in links if not os.path.exists(link)]
        names = [name for name in os.listdir(f"{home()}/names") if _owner(name) is None]
        _unlink(*dangling, *(f"{home()}/names/{name}" for name in names))
    for record in _kept():
        with suppress(ContainerError):
            over = record.config["options"]["rm"] and record.state()["status"] not in (*ALIVE, "created")
            if over and (held := lock(record)) is not None:
                delete(record, held)
                left.append(record.path)
    return left + dangling

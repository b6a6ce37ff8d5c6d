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

import contextlib
import json
import os
import time
from collections.abc import Iterator

from minidocker import state
from minidocker.cgroups import hierarchy
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any
from minidocker.trees import remove

SHORT = 12  # digits of an ID that are shown
KILLED = 137  # the exit code of what SIGKILL ended
FIRST = "able bold calm dear deft eager fair free glad kind keen lucid merry neat proud quick sunny tidy warm wise"
SECOND = "bell cerf hopper kay kildall lamport liskov lovelace perlman pike ritchie stallman thompson torvalds turing"
ALIVE = ("running", "paused", "restarting")
BEFORE = {"status": "created", "pid": 0, "exit_code": 0, "started": "", "finished": "", "error": "", "restarts": 0}


class NoSuchContainer(ContainerError):
    """Nothing has this name, or an ID that begins so."""


class Record:
    """A container that stays: `id` has 64 hex digits; `path` is its directory."""

    def __init__(self, identity: str) -> None:
        self.id, self.path = identity, f"{home()}/records/{identity}"

    @property
    def short(self) -> str:
        """What everything that is made for it on the host is called."""
        return self.id[:SHORT]

    @property
    def config(self) -> dict[str, Any]:
        """What was asked for."""
        return dict(_read(f"{self.path}/config.json") or {})

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.config.get("name", ""))

    def state(self) -> dict[str, Any]:
        """What is known of it now. What its monitor could not write down any more is written here."""
        known = BEFORE | (_read(f"{self.path}/state.json") or {})
        if known["status"] in ALIVE and (lock := state.hold(self.path)) is not None:
            try:  # it may have ended by itself meanwhile
                known = BEFORE | (_read(f"{self.path}/state.json") or {})
                if known["status"] in ALIVE:
                    known |= {"status": "exited", "pid": 0, "exit_code": KILLED, "finished": now()}
                    self.write("state", known)
            finally:
                os.close(lock)
        if known["status"] == "running" and any(map(hierarchy.frozen, _freezers(self))):
            known["status"] = "paused"
        return known

    def write(self, what: str, document: dict[str, Any], sync: bool = False) -> None:
        """Replace config.json or state.json."""
        state.replace(f"{self.path}/{what}.json", json.dumps(document, indent=1).encode() + b"\n", sync)

    def uses(self) -> list[str]:
        """Links that say of its image and its volumes that they are wanted: see `state.wanted`."""
        config = self.config
        names = [str(config.get("image_id", "")).removeprefix("sha256:"), *config.get("volumes", [])]
        return [f"{home()}/uses/{name}/{self.id}" for name in names if name]


def home() -> str:
    """Where all of it lies."""
    return state.home()


def tell(action: str, config: dict[str, Any], **more: str) -> None:
    """A line for `minidocker events`, which reads this file; a short line is appended in one piece."""
    attributes = {"name": config.get("name", ""), "image": config.get("image", ""), **more}
    line = {"time": now(), "type": "container", "action": action, "id": config.get("id", ""), "attributes": attributes}
    with contextlib.suppress(OSError):
        events = os.open(f"{home()}/events", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(events, json.dumps(line).encode() + b"\n")
        finally:
            os.close(events)


def now() -> str:
    """The time as RFC 3339 has it, in nanoseconds, as in all documents of images and containers."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09}Z"


def _read(path: str) -> Any:
    """A document; None if it is not there, or is none: a disk may have lost it in a power cut."""
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Names are given and taken away by one process at a time."""
    os.makedirs(f"{home()}/records", exist_ok=True)
    os.makedirs(f"{home()}/names", exist_ok=True)
    lock = state.hold(f"{home()}/names", wait=True)
    try:
        yield
    finally:
        os.close(lock) if lock is not None else None


def create(config: dict[str, Any], layer: str, name: str = "") -> Record:
    """Write down a new container; `layer` is the top one of its image, whose root the writable one looks like."""
    record = Record(os.urandom(32).hex())
    new, top = f"{record.path}.new", os.stat(layer)
    with changing():
        name = name or _invented()
        _claim(name)
        os.mkdir(new, 0o700)
        try:
            os.mkdir(f"{new}/upper")
            os.chmod(f"{new}/upper", top.st_mode & 0o7777)
            os.chown(f"{new}/upper", top.st_uid, top.st_gid)
            document = {"id": record.id, "name": name, "created": now(), **config}
            state.replace(f"{new}/config.json", json.dumps(document, indent=1).encode() + b"\n", sync=True)
            os.symlink(f"../records/{record.id}", f"{home()}/names/{name}")
            os.rename(new, record.path)
            for link in record.uses():
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(record.path, link)
        except BaseException:
            remove(new if os.path.exists(new) else record.path)
            _unlink(f"{home()}/names/{name}")
            raise
    tell("create", document)
    return record


def _unlink(*links: str) -> None:
    for link in links:
        with contextlib.suppress(OSError):
            os.unlink(link)
        with contextlib.suppress(OSError):
            if "/uses/" in link:
                os.rmdir(os.path.dirname(link))


def _claim(name: str) -> None:
    """Refuse a name that is taken. A link that leads nowhere is what a dead process left."""
    link = f"{home()}/names/{name}"
    if not (name[0].isalnum() and name.isascii() and all(one.isalnum() or one in "_.-" for one in name)):
        raise ContainerError(f"a container cannot be called {name!r}: letters, digits, _, . and -, a letter first")
    if os.path.exists(link):
        owner = os.path.basename(os.readlink(link))[:SHORT]
        raise ContainerError(
            f"the name {name} is in use by container {owner}: remove or rename that one, or choose another"
        )
    if os.path.lexists(link):
        os.unlink(link)


def _invented() -> str:
    """A name for what got none, as Docker gives one."""
    first, second, tail = FIRST.split(), SECOND.split(), ""
    while True:
        one, two, number = os.urandom(3)
        name = f"{first[one % len(first)]}_{second[two % len(second)]}{tail}"
        if not os.path.lexists(f"{home()}/names/{name}"):
            return name
        tail = str(number)


def rename(record: Record, name: str) -> None:
    """Give it another name."""
    with changing():
        _claim(name)
        config = record.config
        os.symlink(f"../records/{record.id}", f"{home()}/names/{name}")
        old = f"{home()}/names/{config['name']}"
        record.write("config", config | {"name": name}, sync=True)
        os.unlink(old)


def delete(record: Record, lock: int) -> None:
    """Remove it with all that is in it: by whoever holds its lock."""
    config, gone = record.config, f"{record.path}.removed"
    with changing():
        _unlink(f"{home()}/names/{config.get('name')}", *record.uses())
        os.rename(record.path, gone)
    state.release(gone, lock)
    tell("destroy", config)


def lock(record: Record) -> int | None:
    """The lock of a record, or None if a monitor has it. Who only looks has it for less than a moment."""
    for _ in range(200):
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
    for path in _freezers(record):
        if not hierarchy.freeze(path, frozen):
            raise ContainerError(f"{record.name}: a process of it has not stopped: it waits for a device")
    tell("pause" if frozen else "unpause", record.config)


def _freezers(record: Record) -> list[str]:
    places = [f"{one.parent}/{record.short}" for one in hierarchy.hierarchies()[:1]]
    return [path for path in places if os.path.isdir(path)]


def records() -> list[Record]:
    """All that stay, the newest first."""
    try:
        names = [name for name in os.listdir(f"{home()}/records") if len(name) == 64]
    except FileNotFoundError:
        return []
    return sorted(map(Record, names), key=lambda record: record.config.get("created", ""), reverse=True)


def find(word: str) -> Record:
    """The container of this name, or whose ID begins so."""
    link = f"{home()}/names/{word}"
    if "/" not in word and word not in ("", ".", "..") and os.path.exists(link):
        return Record(os.path.basename(os.readlink(link)))
    begins = [record for record in records() if word and record.id.startswith(word)]
    if len(begins) > 1:
        raise ContainerError(f"{word}: {len(begins)} containers have an ID that begins so: give more digits")
    if not begins:
        raise NoSuchContainer(f"no such container: {word}: see minidocker ps -a")
    return begins[0]


def prune() -> list[str]:
    """Remove what a killed process left half made or half removed."""
    with changing():
        left = [path for path in state.directories(f"{home()}/records") if path.endswith((".new", ".removed"))]
        for path in left:
            remove(path)
        return left

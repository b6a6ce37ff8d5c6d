"""Chapter 6: named volumes, kept in the state directory until somebody removes them.

    volumes/pages/_data       what containers see
    volumes/pages/config      a line for each option of the driver and each label: "opt type=tmpfs", "label site=blog"

Each user of a volume holds a shared lock, flock(2), on its directory; who removes it needs the lock alone. The kernel
drops locks with their holders, so a volume is in use exactly as long as somebody lives who uses it. Host side, as root.
"""

from __future__ import annotations

import os
import time

from minidocker import state
from minidocker.outcome import ContainerError
from minidocker.state import hold

ANONYMOUS = "com.docker.volume.anonymous"  # Docker's label of those that were made without a name
OPTIONS = ("type", "o", "device")  # of the driver `local`; Docker has `size`, too, for file systems with quotas
PATIENCE = 10.0  # seconds for the mounts of the last user to go (see keeper), or for the one who is removing it

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def parent() -> str:
    """The directory of all volumes; only root may look into it, since there may be setuid files in volumes."""
    return os.path.join(state.home(), "volumes")


def directory(name: str) -> str:
    """Where the volume is. A name that is none is an error, and so cannot be a path to somewhere else."""
    if len(name) < 2 or name[0] not in LETTERS or not set(name) <= LETTERS | set("_.-"):
        text = "two or more of a-z, A-Z, 0-9, _, . and -, beginning with a letter or digit"
        raise ContainerError(f"volume {name!r}: a name is {text}; for a directory of the host give an absolute path")
    return os.path.join(parent(), name)


def create(name: str = "", options: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None) -> str:
    """Make a volume and return its name, by default 64 random hex digits. One that is there with these options is fine.

    It is made under another name and renamed: nobody ever sees half of one.
    """
    labels = dict(labels or {}) | ({} if name else {ANONYMOUS: ""})
    name = name or os.urandom(32).hex()
    path, lines = directory(name), _lines(name, dict(options or {}), labels)
    os.makedirs(parent(), 0o700, exist_ok=True)
    new = os.path.join(parent(), f".new-{os.urandom(6).hex()}")
    os.mkdir(new, 0o700)
    lock = hold(new, exclusive=False)  # prune leaves it alone while we live
    if lock is None:
        return create(name, options, labels)  # prune was faster
    try:
        os.mkdir(f"{new}/_data")
        os.chmod(f"{new}/_data", 0o755)  # mkdir(2) has left out what our umask forbids
        with open(f"{new}/config", "w") as file:
            file.write(lines)
        os.rename(new, path)
    except OSError:
        state.remove_tree(new)
        if not os.path.isdir(path):
            raise
        if options and read(name, "opt") != options:
            raise ContainerError(f"volume {name}: there is one with other options: minidocker volume inspect") from None
    finally:
        os.close(lock)
    return name


def _lines(name: str, options: dict[str, str], labels: dict[str, str]) -> str:
    """The text of `config`; what the driver does not know, and what is no line, is refused."""
    for key in options:
        if key not in OPTIONS:
            raise ContainerError(
                f"volume {name}: the driver local has no option {key!r}: there are {' '.join(OPTIONS)}"
            )
    for key in ("device", "type") if options else ():
        if not options.get(key):
            raise ContainerError(f"volume {name}: with options, the driver local needs {key}: --opt {key}=...")
    pairs = [("opt", *pair) for pair in options.items()] + [("label", *pair) for pair in labels.items()]
    for _, key, value in pairs:
        if not key or "=" in key or "\n" in key + value or "\0" in key + value:
            raise ContainerError(
                f"volume {name}: {key!r}: {value!r} cannot be kept: a key has no =, and both are one line"
            )
    return "".join(f"{kind} {key}={value}\n" for kind, key, value in pairs)


def read(name: str, kind: str) -> dict[str, str]:
    """The options (`kind` "opt") or labels ("label") of a volume; an error if there is no such volume."""
    try:
        with open(f"{directory(name)}/config") as file:
            lines = [line.rstrip("\n").partition(" ") for line in file]
    except FileNotFoundError:
        raise ContainerError(
            f"volume {name}: no such volume: minidocker volume ls shows those that there are"
        ) from None
    return dict(pair.partition("=")[::2] for word, _, pair in lines if word == kind)


def use(name: str) -> int:
    """Hold the volume: the descriptor of a shared lock; it is made if it is not there, as Docker does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lock = hold(directory(name), exclusive=False)
        if lock is not None:
            return lock
        if not os.path.exists(directory(name)):
            create(name)
        elif time.monotonic() > deadline:
            raise ContainerError(f"volume {name}: somebody has been removing it for {PATIENCE:.0f} s")
        else:
            time.sleep(0.001)


def users(name: str) -> list[int]:
    """The processes that hold it: /proc/locks, proc(5), lists every lock of the machine, with the file's number."""
    inode = str(os.stat(directory(name)).st_ino)
    with open("/proc/locks") as file:
        fields = [line.split() for line in file]
    held = [field for field in fields if field[1] != "->" and field[5].split(":")[-1] == inode]
    return sorted(int(field[4]) for field in held if field[3] == "READ")


def names() -> list[str]:
    """All volumes, sorted."""
    found = os.listdir(parent()) if os.path.isdir(parent()) else []
    return sorted(name for name in found if not name.startswith("."))


def inspect(name: str) -> dict[str, Any]:
    """What `docker volume inspect` says of it."""
    labels, options = read(name, "label"), read(name, "opt")
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.stat(f"{directory(name)}/config").st_mtime))
    place = f"{directory(name)}/_data"
    fields = {"CreatedAt": made, "Driver": "local", "Labels": labels, "Mountpoint": place, "Name": name}
    return {**fields, "Options": options, "Scope": "local"}


def usage(name: str) -> int | None:
    """Bytes on the host's disk, as du(1) counts them; None for a volume that is mounted from somewhere else."""
    import subprocess

    if read(name, "opt"):
        return None
    command = ["du", "--summarize", "--block-size=1", "--one-file-system", f"{directory(name)}/_data"]
    answer = subprocess.run(command, capture_output=True, text=True)  # a file that vanishes meanwhile: exit status 1
    return int(answer.stdout.split()[0])


def remove(name: str, force: bool = False) -> None:
    """Remove a volume with its data; an error while somebody uses it. With `force` one that is not there is no error.

    It is renamed first, so that nobody finds half of it.
    """
    path = directory(name)
    if not os.path.exists(path) and force:
        return
    read(name, "opt")
    lock = _alone(name)
    gone = os.path.join(parent(), f".gone-{os.urandom(6).hex()}")
    try:
        os.rename(path, gone)
        state.remove_tree(gone)
    finally:
        os.close(lock)


def _alone(name: str) -> int:
    """The exclusive lock. If only the keeper of its mounts has it, who leaves with the last user, wait for that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lock = hold(directory(name))
        if lock is not None:
            return lock
        using = users(name) if os.path.exists(directory(name)) else []
        if using or time.monotonic() > deadline:
            who = ", ".join(str(pid) for pid in using) or "unknown"
            raise ContainerError(f"volume {name}: in use: end its containers first (their host sides: process {who})")
        time.sleep(0.001)


def prune(everything: bool = False) -> list[str]:
    """Remove the volumes that nobody uses: those without a name of their own, or with `everything` all; return names.

    And what is left of those that somebody was about to make or remove when they were killed.
    """
    for name in os.listdir(parent()) if os.path.isdir(parent()) else []:
        litter = os.path.join(parent(), name)
        lock = hold(litter) if name.startswith(".") else None
        if lock is not None:
            state.remove_tree(litter)
            os.close(lock)
    return [name for name in names() if _pruned(name, everything)]


def _pruned(name: str, everything: bool) -> bool:
    """Whether it was to be removed, and could be."""
    try:
        wanted = everything or ANONYMOUS in read(name, "label")
        if wanted:
            remove(name)
    except ContainerError:
        return False  # in use, or another prune was faster
    return wanted

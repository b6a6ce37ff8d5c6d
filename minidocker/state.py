"""Chapter 4: what a container owns on the host's disk, and how it is found again after its owner was killed.

    lock = claim("web1")          # containers/web1 is made, and is this process's
    ...
    release("web1", lock)         # and gone
    prune()                       # removes those whose owners are dead

Mounts, processes and namespaces end by themselves. A directory does not: it is named after its container, and its
owner holds a lock on it, flock(2), as long as it lives. The kernel lets go of a lock when the process that took it
dies, however it dies; so a directory that can be locked belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import time

from minidocker.outcome import ContainerError


def home() -> str:
    """Where minidocker keeps its files: MINIDOCKER_HOME, or /var/lib/minidocker; for who is not root, in their home."""
    if os.geteuid() == 0:
        default = "/var/lib/minidocker"
    else:
        default = os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "minidocker")
    return os.path.abspath(os.environ.get("MINIDOCKER_HOME") or default)


def directory(name: str) -> str:
    """The directory of the container `name`. Nobody but its owner may look into it: there may be setuid files below."""
    if name in ("", ".", "..") or "/" in name:
        raise ContainerError(f"a container cannot be called {name!r}: it is the name of a directory")
    return os.path.join(home(), "containers", name)


def claim(name: str) -> int:
    """Make the container's directory and return the descriptor that locks it. Host side, the owner.

    Between the two steps a `prune` may take it for a dead one and remove it: then try again. What a dead owner of the
    same name left is removed; while an owner lives, the name is refused.
    """
    path = directory(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for _ in range(100):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            dead = _lock(path)
            if dead is not None:
                _remove_locked(path, dead)
            else:
                time.sleep(0.001)  # its owner lives, or a prune is about to remove it
            continue
        lock = _lock(path)
        if lock is not None:
            return lock
    raise ContainerError(f"{name}: a container of this name is running, or is being removed: choose another", path=path)


def _lock(path: str) -> int | None:
    """A descriptor that locks the directory; None if a living owner has it, or if it is not there any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except OSError:
        pass  # locked by another, or removed before we had the lock
    os.close(descriptor)
    return None


def release(name: str, lock: int) -> None:
    """Remove the container's directory with all that is in it. Host side, the owner."""
    _remove_locked(directory(name), lock)


def _remove_locked(path: str, lock: int) -> None:
    try:
        remove_tree(path)
    finally:
        os.close(lock)


def prune() -> list[str]:
    """Remove the directories of all dead owners; return their paths. Those of the living are locked, and left alone."""
    parent = os.path.join(home(), "containers")
    removed = []
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        path = os.path.join(parent, name)
        lock = _lock(path)
        if lock is not None:
            _remove_locked(path, lock)
            removed.append(path)
    return removed


def remove_tree(top: str) -> None:
    """Remove the directory `top` and everything in it, however deep: a container may nest until no path is long enough.

    So each directory that lies deeper is first moved up to `top`; no path gets longer and nothing recurses. Links are
    removed and not followed. Raises OSError for what cannot be removed, e.g. after chattr +i.
    """
    if not os.path.isdir(top):
        return
    moved = os.path.join(top, f".removing-{os.urandom(6).hex()}-")
    waiting, count = [top], 0
    while waiting:
        current = waiting.pop()
        with os.scandir(current) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                _movable(entry.path)
                count += 1
                waiting.append(entry.path if current == top else f"{moved}{count}")
                if current != top:
                    os.rename(entry.path, waiting[-1])
        if current != top:
            os.rmdir(current)
    os.rmdir(top)


def _movable(path: str) -> None:
    """To move or read a directory needs rights in it, and OverlayFS leaves one without any; root does not mind."""
    if os.geteuid() != 0:
        os.chmod(path, 0o700)

"""Chapter 4: what a container owns on the host's disk, and how it is found again after its owner was killed.

    lock = claim(directory("web1"))       # containers/web1 is made, and is this process's
    ...
    release(directory("web1"), lock)      # and gone
    prune()                               # removes those whose owners are dead

Mounts, processes and namespaces end by themselves. A directory does not: it is named after its container, and its
owner holds a lock on it, flock(2), as long as it lives. The kernel lets go of a lock when the process that took it
dies, however it dies; so a directory that can be locked belongs to nobody. Control groups are kept in the same way.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import time
from _collections_abc import Callable

from minidocker.outcome import ContainerError
from minidocker.syscalls import Any
from minidocker.trees import NotRemoved, remove

HOME = "/var/lib/minidocker"  # root's, unless MINIDOCKER_HOME names another

Remove = Callable[[str], object]


def home() -> str:
    """Where minidocker keeps its files: MINIDOCKER_HOME, or /var/lib/minidocker; for who is not root, in their home."""
    user = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    default = HOME if os.geteuid() == 0 else os.path.join(user, "minidocker")
    return os.path.abspath(os.environ.get("MINIDOCKER_HOME") or default)


def directory(name: str, parent: str = "") -> str:
    """The directory of the container `name`. Nobody but its owner may look into it: there may be setuid files below."""
    if name in ("", ".", "..") or "/" in name:
        rule = "it is the name of a directory: without a /, and not . or .."
        raise ContainerError(f"a container cannot be called {name!r}: {rule}")
    return os.path.join(parent or os.path.join(home(), "containers"), name)


def hold(path: str, exclusive: bool = True, wait: bool = False) -> int | None:
    """Lock a file or directory; the descriptor that holds the lock, or None if it is gone, or (without `wait`) taken.

    Between open(2) and flock(2) it may be removed, and even made anew: then that is the one to lock.
    """
    how = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = held = -1
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            fcntl.flock(descriptor, how)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                held = descriptor
                return held
        except (FileNotFoundError, BlockingIOError):
            return None
        finally:
            if descriptor != held:
                os.close(descriptor)


def claim(path: str, remove: Remove = remove, make: Callable[[str, int], object] = os.mkdir) -> int:
    """Make the directory and return the descriptor that holds it: it is the caller's. Host side, the owner.

    What a dead owner left there is removed; while one lives, the name is refused. Between the two steps a `prune` may
    take the directory for a dead one's: then try again.
    """
    for _ in range(500):
        try:
            make(path, 0o700)
            if (lock := hold(path)) is not None:
                return lock
        except FileExistsError:
            if (dead := hold(path)) is not None:
                release(path, dead, remove)
            else:
                time.sleep(0.001)  # its owner lives, or a prune is about to remove it
        except (OSError, ContainerError) as gone:
            if gone.errno not in (errno.ENOENT, errno.ENODEV):  # ENODEV: a control group that was removed meanwhile
                raise
            os.makedirs(os.path.dirname(path), exist_ok=True)  # the first of all, or after a prune
    raise ContainerError(f"{path}: a container of this name is running, or is being removed: choose another", path=path)


def release(path: str, lock: int, remove: Remove = remove) -> None:
    """Remove it with all that is in it: by whoever holds it."""
    try:
        remove(path)
    finally:
        os.close(lock)


def prune(*parents: str, remove: Remove = remove) -> list[str]:
    """Remove the directories below `parents` (containers/) whose owners are dead; return their paths.

    Those of the living are locked, and left alone. What resists does not keep the rest: `NotRemoved` at the end.
    """
    removed, failures = list[str](), list[Exception]()
    for path in [path for parent in parents or [f"{home()}/containers"] for path in directories(parent)]:
        if (lock := hold(path)) is not None:
            try:
                release(path, lock, remove)
                removed.append(path)
            except (OSError, ContainerError) as refused:
                failures += getattr(refused, "failures", [refused])
    if failures:
        raise NotRemoved(failures, removed)
    return removed


def directories(parent: str) -> list[str]:
    """The paths of those in it, sorted; none where it is missing."""
    try:
        return sorted(entry.path for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def wanted(name: str) -> list[str]:
    """Who does not run, and will want this image or volume again: chapter 10 makes links to them, in uses/NAME."""
    try:
        links = os.listdir(f"{home()}/uses/{name}")
    except FileNotFoundError:
        return []
    return [link for link in links if os.path.exists(f"{home()}/uses/{name}/{link}")]


def replace(path: str, data: bytes, sync: bool = False) -> None:
    """Write a file so that everybody sees the old content or the new one: the disk may be full, or we be killed.

    With `sync` it is on the disk before it has its name, so that this is true after a power cut as well.
    """
    new = f"{path}.{os.urandom(6).hex()}.new"
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(new, path)
    except BaseException:
        if os.path.exists(new):
            os.unlink(new)
        raise


def remembered(path: str, stamp: Any, make: Callable[[], Any]) -> Any:
    """What `make` returned when the stamp was the same: we keep it in this file, like Python its byte code."""
    value, made_from = None, None
    try:
        with open(path, "rb") as file:
            made_from, value = marshal.loads(file.read())
    except (OSError, ValueError, EOFError, TypeError):
        pass  # never made, or by another version of Python, or of a name that no file can have
    if made_from != stamp or stamp is None:
        value = make()
        try:
            replace(path, marshal.dumps((stamp, value)))
        except OSError:
            pass  # a full disk is no reason not to start
    return value

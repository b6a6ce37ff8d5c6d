"""Chapter 6: named volumes, kept in the state directory until somebody removes them.

    volumes/pages/_data       what containers see
    volumes/pages/config      a line for each option of the driver, "opt type=tmpfs", and one if it has no name

Each user of a volume holds a shared lock, flock(2), on its directory; who removes it needs the lock alone. The kernel
drops locks with their holders, so a volume is in use exactly as long as somebody lives who uses it. Host side, as root.

A volume with options is a file system from somewhere else, mounted once for all containers of this host that use it, as
Docker does it, but not where the host sees it: a *keeper*, a process in mount and PID namespaces of its own, mounts it
there, and waits for the exclusive lock. So it gets that when the last user has gone, also if that was killed, or gave
up while mount(8) waits for a server. Then it ends, and all of its own with it.
"""

from __future__ import annotations

import errno
import os
import time

from minidocker import state, trees
from minidocker.outcome import ContainerError
from minidocker.state import hold
from minidocker.syscalls import signal

ANONYMOUS = "com.docker.volume.anonymous"  # Docker's label of those that were made without a name
OPTIONS = ("type", "o", "device")  # of the driver `local`; Docker has `size`, too, for file systems with quotas
PATIENCE = 10.0  # seconds for the keeper to leave with the last user
ANSWER = 60  # seconds for mount(8): a server may be asleep
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def parent() -> str:
    """The directory of all volumes; only root may look into it, since there may be setuid files in volumes."""
    return os.path.join(state.home(), "volumes")


def directory(name: str) -> str:
    """Where the volume is. A name that is none is an error, and so cannot be a path to somewhere else."""
    if len(name) < 2 or name[0] not in LETTERS or not set(name) <= LETTERS | set("_.-"):
        text = "two or more of a-z, A-Z, 0-9, _, . and -, beginning with a letter or digit"
        raise ContainerError(f"volume {name!r}: a name is {text}; for a directory of the host give an absolute path")
    return os.path.join(parent(), name)


def create(name: str = "", options: dict[str, str] | None = None, labels: dict[str, str] | None = None) -> str:
    """Make a volume, or find it with these options; return its name, by default 64 random hex digits. It is made under
    another name and renamed: nobody ever sees half of one.
    """
    labels = (labels or {}) | ({} if name else {ANONYMOUS: ""})
    lines = _lines(name, options or {}, labels)
    name = name or os.urandom(32).hex()
    path, new = directory(name), os.path.join(parent(), f".new-{os.urandom(6).hex()}")
    os.makedirs(parent(), 0o700, exist_ok=True)
    lock = state.claim(new)  # prune leaves it alone while we live
    try:
        os.mkdir(f"{new}/_data")
        os.chmod(f"{new}/_data", 0o755)  # mkdir(2) has left out what our umask forbids
        state.replace(f"{new}/config", lines.encode())
        os.rename(new, path)
    except OSError as refused:
        trees.remove(new)
        if not os.path.isdir(path):
            if refused.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return create(name, options, labels)  # one of this name was there, and is removed: begin again
        if options and read(name, "opt") != options:
            raise ContainerError(f"volume {name}: there is one with other options: minidocker volume inspect") from None
    finally:
        os.close(lock)
    return name


def _lines(name: str, options: dict[str, str], labels: dict[str, str]) -> str:
    """The text of `config`; what the driver does not know, and what is no line, is refused."""
    if "\n" in "".join(labels) + "".join(labels.values()):
        raise ContainerError(f"volume {name}: a label is one line")
    for key, value in options.items():
        if key not in OPTIONS or "\n" in value or "\0" in value:
            text = f"the driver local has no option {key!r}: there are {' '.join(OPTIONS)}, of one line each"
            raise ContainerError(f"volume {name}: {text}")
    if options and not (options.get("type") and options.get("device")):
        raise ContainerError(f"volume {name}: with options, the driver local needs --opt type=... and --opt device=...")
    found = [f"opt {key}={value}\n" for key, value in options.items()]
    return "".join([*found, *(f"label {key}={value}\n" for key, value in labels.items())])


def read(name: str, kind: str) -> dict[str, str]:
    """The options (`kind` "opt") or labels ("label") of a volume; an error if there is no such volume."""
    try:
        with open(f"{directory(name)}/config") as file:
            lines = [line.rstrip("\n").partition(" ") for line in file]
    except FileNotFoundError:
        raise ContainerError(f"volume {name}: no such volume: minidocker volume ls shows what there is") from None
    return dict(pair.partition("=")[::2] for word, _, pair in lines if word == kind)


def use(name: str) -> int:
    """Hold the volume: the descriptor of a shared lock; it is made if it is not there, as Docker does."""
    while (lock := hold(directory(name), exclusive=False, wait=True)) is None:
        create(name)
    return lock


def users(name: str) -> list[int]:
    """The processes that hold it: /proc/locks, proc(5), lists every lock of the machine, with the file's number."""
    inode = str(os.stat(directory(name)).st_ino)
    with open("/proc/locks") as file:
        locks = [line.split() for line in file]
    return sorted(int(lock[4]) for lock in locks if lock[3] == "READ" and lock[5].split(":")[-1] == inode)


def names() -> list[str]:
    """All volumes, sorted."""
    return sorted(name for name in os.listdir(parent()) if name[0] != ".") if os.path.isdir(parent()) else []


def inspect(name: str) -> dict[str, object]:
    """What `docker volume inspect` says of it."""
    labels, options, path = read(name, "label"), read(name, "opt"), directory(name)
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.stat(f"{path}/config").st_mtime))
    fields = {"CreatedAt": made, "Driver": "local", "Labels": labels, "Mountpoint": f"{path}/_data", "Name": name}
    return {**fields, "Options": options, "Scope": "local"}


def remove(name: str) -> None:
    """Remove a volume with its data; an error while somebody uses it, but wait for a keeper, who leaves with the last
    user.
    """
    path, deadline = directory(name), time.monotonic() + PATIENCE
    if owners := state.wanted(name):
        raise ContainerError(f"volume {name}: in use by container {owners[0][:12]}: remove that first")
    while (lock := hold(path)) is None:
        read(name, "opt")  # or it is not there
        using = users(name) if os.path.exists(path) else []
        if using or time.monotonic() > deadline:
            who = ", ".join(str(pid) for pid in using) or "unknown"
            raise ContainerError(f"volume {name}: in use: end its containers first (their host sides: process {who})")
        time.sleep(0.001)
    state.release(path, lock, _remove)


def _remove(path: str) -> None:
    """For who holds it: rename it, so that nobody finds half of it. What resists is then found by the next prune."""
    gone = os.path.join(parent(), f".gone-{os.urandom(6).hex()}")
    os.rename(path, gone)
    trees.remove(gone)


def prune(everything: bool = False) -> list[str]:
    """Remove the volumes that nobody uses: those without a name of their own, or with `everything` all, and what was
    about to be made or removed. Return their names. What resists is a `NotRemoved` at the end.
    """
    pruned = list[str]()

    def remove(path: str) -> None:
        name = os.path.basename(path)
        if name.startswith("."):
            trees.remove(path)
        elif (everything or ANONYMOUS in read(name, "label")) and not state.wanted(name):
            _remove(path)
            pruned.append(name)

    try:
        state.prune(parent(), remove=remove)
    except trees.NotRemoved as left:
        raise trees.NotRemoved(left.failures, pruned) from None
    return pruned


# $1 is the volume's directory, the rest are mount's arguments. Descriptor 8 holds the lock that says that there is a
# keeper, 9 is where it waits; the file system's own processes get neither. The file `keeper` says whose mount namespace
# it is, and then that it has mounted. A keeper that leaves takes the file away while nobody can hold the volume: the
# kernel lets go of a dying process's locks in any order, and the next user must not wait for this one.
OUTER = """
echo $$ >"$1/keeper" && exec >"$1/log" 2>&1 9<"$1" && cd / || exit
exec unshare --mount --propagation private --pid --fork --kill-child sh -c "$0" keeper "$@"
"""
INNER = """
directory=$1; shift
(flock 9; rm "$directory/keeper"; kill -s KILL -- -1) &
mount "$@" "$directory/_data" 8<&- 9<&- || exit
echo mounted >>"$directory/keeper"
wait
"""


def mounted(name: str, directory: str, options: dict[str, str]) -> int:
    """A descriptor of the mount namespace where the volume is mounted on its _data. Host side, as root, by somebody who
    holds a shared lock on `directory`. Raises `ContainerError` with the words of mount(8).
    """
    arguments = ["-t", options["type"], *(["-o", options["o"]] if options.get("o") else []), "--", options["device"]]
    _start(directory, arguments)
    deadline, pause = time.monotonic() + ANSWER, 0.001
    while (absent := hold(f"{directory}/keeper")) is None and time.monotonic() < deadline:
        with open(f"{directory}/keeper") as file:  # what a keeper has written counts while it lives
            pid, *said = file.read().split() or ["0"]
        if said:
            return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        time.sleep(pause := min(pause * 1.2, 0.1))
    why = f"no answer for {ANSWER} s"
    if absent is not None:
        os.close(absent)
        with open(f"{directory}/log", errors="replace") as file:
            why = " ".join(file.read().split()) or "failed without a word"
    raise ContainerError(f"volume {name}: mount {' '.join(arguments)}: {why}")


def _start(directory: str, arguments: list[str]) -> None:
    """Start the keeper if there is none: detached, with no signal blocked or ignored, and the lock as its own."""
    os.close(os.open(f"{directory}/keeper", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    held = [hold(f"{directory}/config", wait=True)]  # of several users that come at once, one starts it
    try:
        held.append(lock := hold(f"{directory}/keeper"))
        if lock is not None:
            os.truncate(f"{directory}/keeper", 0)
            places = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, lock, 8)]
            command = ["setsid", "--fork", "sh", "-c", OUTER, INNER, directory, *arguments]
            env, signals = {**os.environ, "LC_ALL": "C.UTF-8"}, signal.valid_signals()
            pid = os.posix_spawnp(command[0], command, env, file_actions=places, setsigmask=(), setsigdef=signals)
            os.waitpid(pid, 0)
    finally:
        for descriptor in held:
            if descriptor is not None:
                os.close(descriptor)

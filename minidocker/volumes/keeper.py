"""Chapter 6: volumes that come from somewhere else: any file system that mount(8) can mount.

    minidocker volume create --opt type=fuse.sshfs --opt device=web@nas:/pages --opt o=reconnect pages

Such a file system is mounted once for all containers of this host that use the volume, as Docker does it, but not where
the host sees it: a *keeper*, a process in mount and PID namespaces of its own, mounts it there, and waits for the
exclusive lock on the volume's directory. The users hold shared ones, so the keeper gets it when the last user has gone,
also if that was killed, or gave up while mount(8) waits for a server. Then it ends, and all of its own with it.
"""

from __future__ import annotations

import os
import time

from minidocker.outcome import ContainerError
from minidocker.state import hold
from minidocker.syscalls import signal

PATIENCE = 60  # seconds for mount(8): a server may be asleep

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
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while (absent := hold(f"{directory}/keeper")) is None and time.monotonic() < deadline:
        with open(f"{directory}/keeper") as file:  # what a keeper has written counts while it lives
            pid, *said = file.read().split() or ["0"]
        if said:
            return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        time.sleep(pause := min(pause * 1.2, 0.1))
    why = f"no answer for {PATIENCE} s"
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

"""Chapter 6: volumes that come from somewhere else: any file system that mount(8) can mount.

    minidocker volume create --opt type=fuse.sshfs --opt device=web@nas:/pages --opt o=reconnect pages

Such a file system is mounted once for all containers of this host that use the volume, as Docker does it, but not where
the host sees it: a *keeper*, a process in mount and PID namespaces of its own, mounts it there, and waits for the
exclusive lock on the volume's directory. The users hold shared ones, so the keeper gets it when the last user has gone,
also if that was killed; then it ends, and the kernel unmounts and ends what belonged to it. Nothing can be left.

    containers          shared locks ──► volumes/pages ◄── waits for the exclusive lock          keeper
    clone the mount     ◄───────────────────────────────────────────────── its mount namespace, sshfs, ssh
"""

from __future__ import annotations

import os
import select
import time

from minidocker.outcome import ContainerError
from minidocker.state import hold
from minidocker.syscalls import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 60  # seconds for mount(8): a server may be asleep

# $1 is the volume's directory, the rest are mount's arguments. Descriptor 8 says that there is a keeper, and its file
# whose namespace it is; 9 is the lock that it waits for. The file system's own processes get neither of them.
OUTER = """
exec 2>"$1/log" 8<>"$1/keeper" 9<"$1"
flock --nonblock 8 && echo $$ >"$1/keeper" || exit
exec unshare --mount --propagation private --pid --fork --kill-child sh -c "$0" keeper "$@"
"""
INNER = """
directory=$1; shift
mount "$@" "$directory/_data" 8<&- 9<&- </dev/null >"$directory/log" 2>&1 || exit
echo mounted; exec >/dev/null 2>&1
flock 9
"""


def mounted(name: str, directory: str, options: Mapping[str, str]) -> int:
    """A descriptor of the mount namespace where the volume is mounted on its _data. Host side, as root, by somebody who
    holds a shared lock on `directory`. Raises `ContainerError` with the words of mount(8).
    """
    os.close(os.open(f"{directory}/keeper", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    turn = hold(f"{directory}/config", wait=True)  # of several users that come at once, one starts it
    assert turn is not None  # the file stays as long as the volume has users
    try:
        if _absent(directory):
            _start(name, directory, options)
        return os.open(f"/proc/{_pid(directory)}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(turn)


def _absent(directory: str) -> bool:
    """Whether there is no keeper: its lock is free."""
    lock = hold(f"{directory}/keeper")
    if lock is not None:
        os.close(lock)
    return lock is not None


def _pid(directory: str) -> int:
    """The keeper, which has written its own number."""
    with open(f"{directory}/keeper") as file:
        return int(file.read())


def _start(name: str, directory: str, options: Mapping[str, str]) -> None:
    """Start it, detached from us, and wait until it says that it has mounted, or ends without a word."""
    import subprocess

    arguments = ["-t", options["type"], *(["-o", options["o"]] if options.get("o") else []), "--", options["device"]]
    command = ["setsid", "--fork", "sh", "-c", OUTER, INNER, directory, *arguments]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, cwd="/") as process:
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout)
        ended = poll.poll(PATIENCE * 1000)
        if ended and process.stdout.readline():
            return
    if not ended:
        os.kill(_pid(directory), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while not _absent(directory) and time.monotonic() < deadline:
        time.sleep(0.001)  # until it is gone, the next user would take it for one that has mounted
    with open(f"{directory}/log") as file:
        said = " ".join(file.read().split()) if ended else f"no answer for {PATIENCE} s"
    raise ContainerError(f"volume {name}: mount {' '.join(arguments)}: {said or 'failed without a word'}")

"""Chapter 9: without root. The command becomes root of a user namespace of its own, and the engine works as it is.

enter()                             # from now on os.geteuid() is 0, with rights that end where the namespace does
"""

from __future__ import annotations

import os
import pwd
import subprocess

from minidocker import state
from minidocker.cgroups import hierarchy
from minidocker.cgroups.hierarchy import Hierarchy, read
from minidocker.namespaces import Namespaces
from minidocker.outcome import ContainerError
from minidocker.syscalls import CLONE_NEWUSER, call


def enter(verb: str) -> None:
    """This process, which has one thread, goes in. A helper stays outside, waits, and has newuidmap(1), which is
    set-user-ID, write the maps: with one number alone, a user's own, there were no other users in images.
    """
    if verb == "network create":
        raise ContainerError(f"this needs root: sudo minidocker {verb}")
    os.environ["MINIDOCKER_HOME"] = state.home()  # the user's, and not root's
    uids, gids = ranges("/etc/subuid", os.geteuid()), ranges("/etc/subgid", os.getegid())
    script = f"read go && newuidmap {os.getpid()} {uids} && newgidmap {os.getpid()} {gids}"
    walls = Namespaces("user", uid_map=uids, gid_map=gids)
    with subprocess.Popen(["sh", "-c", script], stdin=-1, stderr=-1, text=True) as helper:
        try:
            call("unshare", CLONE_NEWUSER)
        except OSError:
            remedy = "sysctl -w user.max_user_namespaces=9999, or kernel.unprivileged_userns_clone=1"
            raise ContainerError(f"this needs root, or a user namespace, and there is none: {remedy}") from None
        problem = helper.communicate("go\n")[1]
    if helper.returncode:
        raise ContainerError(f"{' '.join(problem.split())}: newuidmap is of the package uidmap")
    walls.inside()
    hierarchy._found = delegated()


def ranges(path: str, own: int) -> str:
    """A map "inside outside count ...", user_namespaces(7): root is this number, all others those of subuid(5)."""
    found, inside, user = f"0 {own} 1", 1, str(os.geteuid())
    names = (user, *(known.pw_name for known in pwd.getpwall() if known.pw_uid == os.geteuid()))
    for name, first, count in (line.split(":") for line in read(path).splitlines() if line.count(":") == 2):
        if name in names:
            found += f" {inside} {first} {count}"
            inside += int(count)
    if inside == 1:
        remedy = f"use sudo, or usermod -v 100000-165535 -w 100000-165535 {names[-1]}"
        raise ContainerError(f"{path} has no numbers for {names[-1]}, and images have many users: {remedy}")
    return found


def delegated() -> list[Hierarchy]:
    """The topmost group of version 2 above this process that the user may divide; it must hold no process itself."""
    top, own = "", f"\n{read('/proc/self/cgroup')}".rpartition("\n0::")[2].strip()
    for mounted in (one.path for one in hierarchy.hierarchies() if one.version == 2):
        while len(own) > 1 and os.access(f"{mounted}{own}/cgroup.subtree_control", os.W_OK):
            top, own = mounted + own, os.path.dirname(own)
    usable = top and not read(f"{top}/cgroup.procs")
    return [Hierarchy(2, top, {*read(f"{top}/cgroup.controllers").split(), "freezer"})] if usable else []

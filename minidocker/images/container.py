"""Chapter 5: from an image to a container: the list of isolators, the command and its environment.

    image = ready("debian")
    argv, isolators, options = container(image, ["sh", "-c", "id"], user="nobody")
    run(argv, *isolators, **options)

To start a container is to read three JSON documents, each time the same ones; like Python with its byte code, we keep
what came of it: ready/NAME, valid as long as index.json is the one it was made from.
"""

from __future__ import annotations

import os
from _collections_abc import Callable, Mapping, Sequence

from minidocker import state
from minidocker.cgroups import Cgroup, hierarchies
from minidocker.child import DEFAULT_PATH
from minidocker.images.inside import DEVICES, Filesystems, User, home_of
from minidocker.isolator import Isolator
from minidocker.namespaces import Init, Namespaces
from minidocker.outcome import ContainerError
from minidocker.rootfs import PivotRoot
from minidocker.security.capabilities import Bounding, Capabilities, capabilities
from minidocker.security.devices import NoDevices
from minidocker.security.paths import Masked
from minidocker.security.seccomp import Seccomp
from minidocker.syscalls import Any
from minidocker.union import Union, initial

Ready = dict[str, Any]  # id, layers: directories, the top one first; config: the inner one, with Env, Cmd, ...


def ready(name: str, home: str | None = None) -> Ready:
    """What a container needs to know of the image of this name, or of this ID; unpacks its layers if need be."""
    home = home or state.home()

    def found() -> Ready:
        from minidocker.images.image import find
        from minidocker.images.store import Store

        return find(Store(home), name).ready()

    try:
        status = os.stat(f"{home}/images/index.json")  # before reading: a change meanwhile makes it outdated, not wrong
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
    except FileNotFoundError:
        stamp = None
    return state.remembered(f"{home}/ready/{name.replace('/', '%')}", stamp, found)  # type: ignore[no-any-return]


def container(
    image: Ready,
    command: Sequence[str] = (),
    *,
    entrypoint: Sequence[str] | None = None,
    env: Sequence[str] = (),
    defaults: Mapping[str, str] | None = None,
    cwd: str = "",
    user: str = "",
    hostname: str = "",
    network: str | Callable[[str], Isolator] = "none",
    limits: dict[str, Any] | None = None,
    init: bool = False,
    upper: str | None = None,
    mounts: Callable[[str], Sequence[Isolator]] = lambda root: (),
    kept: frozenset[int] | None = None,
    privileged: bool = False,
    seccomp: str = "",
    covered: bool = True,
    walls: Sequence[Isolator] = (),
    files: Mapping[str, str] | None = None,
    terminal: Sequence[Isolator] = (),
) -> tuple[list[str], list[Isolator], dict[str, Any]]:
    """(command, isolators, options of `start`) for a container of the image. Needs root.

    What is given wins over the image's config, as with `docker run`: `command` over Cmd, `entrypoint` over both, `env`
    ("NAME=value", or "NAME" to remove it) over Env, and that over `defaults`. `upper` keeps what the container changes.
    `mounts` is told where the union is, and makes the isolators that go there. `network`: "none" has lo alone, "host"
    is the host's; or what makes an isolator of chapter 7. `limits` are those of `Cgroup`. `kept`: its capabilities,
    see `security`; `privileged`: all, any device and system call, and a /sys to write to. `seccomp`: the profile of
    system calls; `covered`: some of /proc; `walls`, and a `terminal`: more isolators. `files`: what files of /etc hold.
    """
    config = image["config"]
    cwd = cwd or config.get("WorkingDir") or "/"
    user = user or config.get("User") or ""
    kept = capabilities(privileged=privileged) if kept is None else kept
    union = Union(image["layers"], upper, image.get("held") or image["layers"])
    isolators = [  # a user who has no control groups may go without, if no limit is asked for; root may not
        Namespaces(f"pid mount uts ipc {'net' if network == 'none' else ''}", hostname=hostname),
        *([Cgroup(**(limits or {}))] if initial() or hierarchies() or any((limits or {}).values()) else []),
        Namespaces("cgroup"),
        union,
        *([] if isinstance(network, str) else [network(union.root)]),
        Filesystems(union.root, privileged, files),
        *([Masked(union.root)] if covered and not privileged else []),
        *(placed := mounts(union.root)),  # on top of /dev and its like
        PivotRoot(union.root, proc=False),
        *terminal,  # on /dev, which is the container's from now on
        *([] if privileged else [NoDevices(DEVICES.values(), *(wall.own for wall in placed if hasattr(wall, "own")))]),
        *walls,
        Seccomp(kept, seccomp or ("unconfined" if privileged else "")),
        Bounding(kept),
        User(user, cwd),
        Capabilities(kept),
        *([Init()] if init else []),
    ]
    environment = _environment(defaults, [*(config.get("Env") or []), *env])
    environment.setdefault("HOME", home_of(image["layers"], user))
    if entrypoint is None:
        entrypoint, command = config.get("Entrypoint") or [], command or config.get("Cmd") or []
    if not [*entrypoint, *command]:
        raise ContainerError("no command: the image has none, so give one after its name")
    return [*entrypoint, *command], isolators, {"env": environment, "cwd": cwd}


def _environment(defaults: Mapping[str, str] | None, settings: Sequence[str]) -> dict[str, str]:
    """A later setting wins; a name alone takes the variable away. One without a name is the image's mistake."""
    environment = {"PATH": DEFAULT_PATH, **(defaults or {})}
    for setting in settings:
        name, equals, value = setting.partition("=")
        environment.pop(name, None)
        if equals and name:
            environment[name] = value
    return environment

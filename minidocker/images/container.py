"""Chapter 5: from an image to a container: the list of isolators, the command and its environment.

    image = ready("debian")
    argv, isolators, options = container(image, ["sh", "-c", "id"], user="nobody")
    run(argv, *isolators, **options)

To start a container is to read three JSON documents, each time the same ones; like Python with its byte code, we keep
what came of it: ready/NAME, valid as long as index.json is the one it was made from.
"""

from __future__ import annotations

import fcntl
import marshal
import os

from minidocker import state
from minidocker.cgroups import Cgroup
from minidocker.child import DEFAULT_PATH
from minidocker.images.inside import Filesystems, User
from minidocker.namespaces import Init, Namespaces
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.rootfs import PivotRoot
from minidocker.union import Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from minidocker.images.image import Image

    Ready = dict[str, Any]  # id, layers: directories, the top one first; config: the inner one, with Env, Cmd, ...

NETWORKS = {"none": "net ", "host": ""}  # what the network is called -> the namespace that it takes


def ready(name: str, home: str | None = None) -> Ready:
    """What a container needs to know of the image of this name, or of this ID; unpacks its layers if need be."""
    home = home or state.home()
    path = f"{home}/ready/{name.replace('/', '%')}"
    try:
        status = os.stat(f"{home}/images/index.json")
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        with open(path, "rb") as file:
            made_from, image = marshal.loads(file.read())
        if made_from == stamp:
            return image  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError, TypeError):
        pass  # never made, or by another version of Python, or of a name that no file can have: `find` judges that
    return _keep(path, home, name)


def _keep(path: str, home: str, name: str) -> Ready:
    """Read the image's documents, and write down what came of them."""
    from minidocker.images.image import find
    from minidocker.images.store import Store

    store = Store(home)
    status = os.stat(f"{home}/images/index.json")  # before reading: a change meanwhile makes it outdated, not wrong
    image = prepare(find(store, name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        marshal.dump(((status.st_mtime_ns, status.st_ino, status.st_size), image), file)
    os.replace(temporary, path)
    return image


def prepare(image: Image) -> Ready:
    """The same of an image that has no name, e.g. one that a build has just made."""
    from minidocker.images.manifest import check_platform

    check_platform(image.config)
    return {"id": image.id, "layers": image.layers(), "config": image.config["config"]}


class Layers(Isolator):
    """Hold the unpacked layers while a container runs on them: what removes unused ones leaves locked ones alone."""

    def __init__(self, directories: Sequence[str]) -> None:
        self.directories = list(directories)
        self._locks: list[int] = []

    def __enter__(self) -> Isolator:
        """flock(2), shared by all containers of the layer. Host side."""
        try:
            for path in self.directories:
                self._locks.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                fcntl.flock(self._locks[-1], fcntl.LOCK_SH)
                if not os.path.samestat(os.fstat(self._locks[-1]), os.stat(path)):
                    raise FileNotFoundError
        except FileNotFoundError:
            self.__exit__()
            raise ContainerError("a layer of the image has just been removed: pull or build it again") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Closing lets go."""
        while self._locks:
            os.close(self._locks.pop())


def container(
    image: Ready,
    command: Sequence[str] = (),
    *,
    entrypoint: Sequence[str] | None = None,
    env: Sequence[str] = (),
    cwd: str = "",
    user: str = "",
    hostname: str = "",
    network: str = "none",
    limits: dict[str, Any] | None = None,
    init: bool = False,
    upper: str | None = None,
    mounts: Callable[[str], Sequence[Isolator]] = lambda root: (),
) -> tuple[list[str], list[Isolator], dict[str, Any]]:
    """(command, isolators, options of `start`) for a container of the image. Needs root.

    What is given wins over the image's config, as with `docker run`: `command` over Cmd, `entrypoint` over both, `env`
    ("NAME=value") adds to Env. `upper` keeps what the container changes. `mounts` is told where the union is, and makes
    the isolators that go between it and the change of root. `network`: "none" has lo alone; "host" is the host's.
    `limits` are those of `Cgroup`.
    """
    config = image["config"]
    cwd = cwd or config.get("WorkingDir") or "/"
    user = user or config.get("User") or ""
    union = Union(image["layers"], upper)
    isolators = [
        Namespaces(f"pid mount uts ipc {NETWORKS[network]}", hostname=hostname),
        Cgroup(**(limits or {})),
        Namespaces("cgroup"),
        Layers(image["layers"]),
        union,
        *mounts(union.root),
        PivotRoot(union.root, proc=False),
        Filesystems(),
        User(user, cwd),
        *([Init()] if init else []),
    ]
    environment = _environment(image, user, [*(config.get("Env") or []), *env])
    return _command(config, command, entrypoint), isolators, {"env": environment, "cwd": cwd}


def _command(config: dict[str, Any], command: Sequence[str], entrypoint: Sequence[str] | None) -> list[str]:
    """The words to execute. Who brings an entrypoint of their own does not want the image's arguments for its own."""
    if entrypoint is None:
        argv = [*(config.get("Entrypoint") or []), *(command or config.get("Cmd") or [])]
    else:
        argv = [*entrypoint, *command]
    if not argv:
        raise ContainerError("no command: the image has none, so give one after its name")
    return argv


def _environment(image: Ready, user: str, settings: Sequence[str]) -> dict[str, str]:
    """PATH and HOME are there whatever the image says; a later setting wins."""
    environment = {"PATH": DEFAULT_PATH}
    for setting in settings:
        name, _, value = setting.partition("=")
        environment[name] = value
    environment.setdefault("HOME", "/root" if user in ("", "0", "root") else _home(image["layers"], user))
    return environment


def _home(layers: Sequence[str], user: str) -> str:
    """The user's home in the image's own passwd(5). Read from outside, so no symlink of the image is followed."""
    name = user.partition(":")[0]
    for layer in layers:
        path = os.path.join(layer, "etc", "passwd")
        if os.path.realpath(path) == os.path.realpath(layer) + "/etc/passwd" and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                records = (line.rstrip("\n").split(":") for line in file)
                return next((line[5] for line in records if len(line) > 5 and name in (line[0], line[2])), "/")
    return "/"

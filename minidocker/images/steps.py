"""Chapter 5: what a step of a build does to the file system, each time in a container whose changes become a layer.

    with upper_of(store, layers) as (lowers, upper):
        execute(...)                       # RUN: the image's own programs, behind the walls of `minidocker run`
        copy(...)                          # COPY, ADD, WORKDIR: our code, in a jail that is the image's root
        store.add_layer(upper)

The union of the layers below and an empty directory, which keeps what the step changes: that directory is the layer.
"""

from __future__ import annotations

import codecs
import contextlib
import os

from minidocker.images.container import Layers, container
from minidocker.images.inside import User
from minidocker.images.receive import receive
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, start
from minidocker.rootfs import PivotRoot
from minidocker.syscalls import MS_BIND, mount
from minidocker.union import Union

MOUNT_POINTS = ("proc", "dev", "sys", "etc")
RESOLVER = ("resolv.conf", "hosts")  # files of /etc that a program needs to reach others by name
SCRIPT = "/dev/script"
TAIL = 64 << 10  # bytes: how much of a step's output an error remembers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from minidocker.images.store import Store


@contextlib.contextmanager
def upper_of(store: Store, layers: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """(directories below, the top one first; the one for the changes), on the host. Both are gone afterwards.

    The upper directory covers the root of what is below, so it looks like that. `scratch` is an empty directory.
    """
    with store.place() as place:
        empty, upper = os.path.join(place, "scratch"), os.path.join(place, "upper")
        os.chmod(place, 0o700)  # nobody of this machine may look in: there may be setuid files
        os.mkdir(empty, 0o755)
        os.mkdir(upper)
        lowers = [*layers] or [empty]
        root = os.stat(lowers[0])
        os.chmod(upper, root.st_mode & 0o7777)
        os.chown(upper, root.st_uid, root.st_gid)
        yield lowers, upper


def jail_of(lowers: Sequence[str], upper: str | None = None) -> list[Isolator]:
    """A root made of layers, in which our own code reads or writes: nothing is mounted there, and nothing executed."""
    union = Union(lowers, upper)
    return [Layers(lowers), union, PivotRoot(union.root, proc=False)]


def copy(lowers: Sequence[str], upper: str, spool: str, target: str, owner: str = "", mode: int | None = None) -> None:
    """Unpack what `context.read` has read at the path `target`; if `spool` is "", make that directory."""
    receive(jail_of(lowers, upper), spool, target, owner, mode)


def execute(
    store: Store,
    lowers: Sequence[str],
    upper: str,
    argv: Sequence[str],
    config: dict[str, Any],
    variables: Sequence[str],
    network: str,
    show: Callable[[str], object],
    script: str = "",
) -> tuple[int, str]:
    """RUN: (exit code, the end of its output), while `show` is told of all output as it comes.

    `config` is the inner config of the image, `variables` are added to its Env. With a `script`, which begins with #!,
    that is executed, and not `argv`. Mount points that the image lacks are in a directory below all layers, so that
    they are there for the step, and never in its own layer.
    """
    with store.place() as skeleton:
        _mount_points(skeleton)
        image = {"id": "", "layers": [*lowers, skeleton], "config": config}
        words, isolators, options = container(
            image,
            [SCRIPT] if script else argv,
            entrypoint=[],
            env=variables,
            hostname="build",
            network=network,
            upper=upper,
            init=True,
        )
        user = next(at for at, wall in enumerate(isolators) if isinstance(wall, User))
        isolators[user:user] = [*([Resolver()] if network == "host" else []), *([Script(script)] if script else [])]
        return _shown(words, isolators, options, show)


def _mount_points(directory: str) -> None:
    for name in MOUNT_POINTS:
        os.mkdir(os.path.join(directory, name), 0o755)
    for name in RESOLVER:
        os.close(os.open(os.path.join(directory, "etc", name), os.O_CREAT | os.O_WRONLY, 0o644))


def _shown(
    argv: list[str], isolators: list[Isolator], options: dict[str, Any], show: Callable[[str], object]
) -> tuple[int, str]:
    """Run it, with one pipe for both outputs, so that their lines stay in order."""
    ours, theirs = os.pipe()
    decoder, tail = codecs.getincrementaldecoder("utf-8")("backslashreplace"), ""
    try:
        with start(argv, *isolators, stdout=theirs, stderr=theirs, **options) as process:
            os.close(theirs)
            theirs = -1
            while data := os.read(ours, 65536):
                text = decoder.decode(data)
                tail = (tail + text)[-TAIL:]
                show(text)
            return process.wait().exit_code, tail
    finally:
        for descriptor in {ours, theirs} - {-1}:
            os.close(descriptor)


class Resolver(Isolator):
    """With the host's network, the host's /etc/resolv.conf and /etc/hosts, for the time of the step.

    They are written to the container's /dev, which is in memory, and mounted over the image's own from there: what is
    mounted is not part of the layer. After Filesystems, in the jail, where every link leads to the image's own files.
    """

    def __enter__(self) -> Isolator:
        """Host side: read them."""
        self.texts = {}
        for name in RESOLVER:
            with contextlib.suppress(OSError), open(f"/etc/{name}", "rb") as file:
                self.texts[name] = file.read(16 << 10)
        return self

    def inside(self) -> None:
        """An image in which the file is a link to nothing has no place for it: then it goes without."""
        for name, text in self.texts.items():
            target = os.path.realpath(f"/etc/{name}")
            if os.path.isfile(target):
                with open(f"/dev/{name}", "wb") as file:
                    file.write(text)
                mount(f"/dev/{name}", target, flags=MS_BIND)
                os.unlink(f"/dev/{name}")


class Script(Isolator):
    """The text of a here-document as a program, in the container's /dev: execve(2) wants a file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def inside(self) -> None:
        """After Filesystems; whoever USER is may execute it."""
        with open(SCRIPT, "w") as file:
            file.write(self.text)
        os.chmod(SCRIPT, 0o755)


class BuildFailed(ContainerError):
    """A RUN whose command ended with another exit code than 0; `output`: the end of what it wrote."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message, exit_code=1)
        self.output = output

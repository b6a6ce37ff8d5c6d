"""Chapter 6: volumes, directories that several containers see at the same time, and that outlive them.

    Bind("/home/me/site", "/var/www", root)               # docker run -v /home/me/site:/var/www
    Named("pages", "/var/www", root, readonly=True)       # docker run -v pages:/var/www:ro
    Tmpfs("/run", root, size="64m")                       # docker run --tmpfs /run:size=64m

They come before `PivotRoot(root)` in the list, since the source is a path of the host, and after `Union`, as the target
is a path below `root`, the same that PivotRoot gets. Each mounts in the container's own mount namespace.
"""

from __future__ import annotations

import os
import stat

from minidocker import files
from minidocker.cgroups.limits import size as bytes_of
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError, warn
from minidocker.rootfs import make_mounts_private
from minidocker.state import hold
from minidocker.syscalls import CLONE_NEWNS, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, mount, setns
from minidocker.volumes import store
from minidocker.volumes.keeper import mounted
from minidocker.volumes.mounts import NOT_THERE, attach, clone, landing, read_only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Root = str | os.PathLike[str]
    Options = Mapping[str, str] | None


class Volume(Isolator):
    """Something of the host, or of nobody else, at the absolute path `target` of the container with this `root`.

    A target that is missing is made in the root; in a union, that is in the container's own upper directory. With
    `readonly` nobody inside can write to it, nor to any file system that is mounted below it.
    """

    clone_flags = CLONE_NEWNS

    def __init__(self, target: str, root: Root, readonly: bool = False) -> None:
        if not target.startswith("/"):
            raise ContainerError(f"{type(self).__name__}: {target!r}: the path in the container must begin with /")
        self.target, self.readonly = "/" + os.path.normpath(target).strip("/"), readonly
        self.root = os.path.abspath(root)
        if self.target == "/" or self.target.split("/")[1] == "proc":
            raise ContainerError(f"{type(self).__name__}: {self.target}: {NOT_THERE}")

    def inside(self) -> None:
        """Open the source, find the place, and put one on the other. Needs CAP_SYS_ADMIN in its mount namespace."""
        make_mounts_private()
        tree = self.tree()
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        place, there = landing(root, self.target, stat.S_ISDIR(os.fstat(tree).st_mode))
        if there:
            self.fill(place, tree)
        if self.readonly:
            read_only(tree)
        attach(tree, place)
        for descriptor in (tree, root, place):
            os.close(descriptor)

    def tree(self) -> int:
        """The mount, attached nowhere yet."""
        return -1

    def fill(self, place: int, tree: int) -> None:
        """Before the place is covered: what is there may be wanted in the volume."""


class Bind(Volume):
    """A file or directory of the host. It must exist, unless it may be made (`create`), as Docker's -v does it."""

    def __init__(self, source: str, target: str, root: Root, readonly: bool = False, create: bool = False) -> None:
        super().__init__(target, root, readonly)
        self.source, self.create = os.path.abspath(source), create

    def __enter__(self) -> Isolator:
        """Look whether it is there; what is made stays, since it is the user's from now on."""
        if self.create and not os.path.lexists(self.source):
            os.makedirs(self.source, exist_ok=True)
        if not os.path.exists(self.source):
            raise ContainerError(f"Bind: {self.source}: no such file or directory on the host: make it first")
        return self

    def tree(self) -> int:
        """With what is mounted below it."""
        return clone(self.source)


class Named(Volume):
    """The volume `name` of `store`, made at its first use, then with these `options`; "" makes one that goes with the
    container. If it is empty it takes what the root has at the target (but `nocopy`).
    """

    def __init__(
        self, name: str, target: str, root: Root, readonly: bool = False, nocopy: bool = False, options: Options = None
    ) -> None:
        super().__init__(target, root, readonly)
        self.name, self.nocopy, self.options = name, nocopy, dict(options or {})
        self.directory = store.directory(name) if name else ""

    def __enter__(self) -> Isolator:
        """Hold the volume as long as the container lives; if it comes from elsewhere, see that it is mounted."""
        self._used = self.name if self.name and not self.options else store.create(self.name, self.options)
        self._lock, self.directory = store.use(self._used), store.directory(self._used)
        try:
            options = store.read(self._used, "opt")
            self.descriptors = (mounted(self._used, self.directory, options),) if options else ()
        except BaseException:
            self.__exit__()
            raise
        return self

    def tree(self) -> int:
        """The volume's data; from the mount namespace of its keeper, if it has one."""
        if not self.descriptors:
            return clone(f"{self.directory}/_data")
        home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        setns(self.descriptors[0], CLONE_NEWNS)
        tree = clone(f"{self.directory}/_data")
        setns(home, CLONE_NEWNS)
        os.close(home)
        return tree

    def fill(self, place: int, tree: int) -> None:
        """Docker's copy-up: an empty volume takes what the image has there, one container at a time. The file `filling`
        says that somebody has begun; found under the lock, that they died: begin again.
        """
        lock, mark = hold(f"{self.directory}/config", wait=True), f"{self.directory}/filling"
        image, data = (os.open(".", files.READ | os.O_DIRECTORY, dir_fd=here) for here in (place, tree))
        there = os.listdir(data)
        if os.path.exists(mark) or not (there or self.nocopy):
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            for name in there:
                files.remove(name, data)
            files.copy(image, data)
            os.unlink(mark)
        for descriptor in (image, data, lock):
            if descriptor is not None:
                os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        """Let it go. One without a name goes, too, unless somebody has found it and uses it: then `prune` is later."""
        for descriptor in (*self.descriptors, self._lock):
            os.close(descriptor)
        self.descriptors = ()
        try:
            if not self.name:
                store.remove(self._used, force=True)
        except files.NotRemoved as left:
            warn(str(left))
        except ContainerError:
            pass


class Tmpfs(Volume):
    """An empty file system in memory, which ends with the container; tmpfs(5) has more `options`. As with Docker, no
    set-user-id programs, devices or programs at all, unless `flags` says otherwise.
    """

    def __init__(
        self,
        target: str,
        root: Root,
        readonly: bool = False,
        size: int | str = 0,
        mode: int = 0o1777,
        flags: int = MS_NOSUID | MS_NODEV | MS_NOEXEC,
        options: str = "",
    ) -> None:
        super().__init__(target, root, readonly)
        self.flags = flags
        try:
            sized = f",size={bytes_of(size)}" if size else ""
        except ContainerError:
            raise ContainerError(f"Tmpfs: size {size!r}: write bytes, or a number with k, m or g, as in 64m") from None
        self.options = f"mode={mode:o}{sized}" + (f",{options}" if options else "")

    def inside(self) -> None:
        """mount(2) on the descriptor's own name in /proc. A new file system is made read-only by this one call."""
        make_mounts_private()
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        place, _ = landing(root, self.target, directory=True)
        flags = self.flags | (MS_RDONLY if self.readonly else 0)
        mount("tmpfs", f"/proc/self/fd/{place}", "tmpfs", flags, self.options)
        os.close(root)
        os.close(place)


def ordered(volumes: Sequence[Volume]) -> list[Volume]:
    """Parents before what is mounted below them; two on the same path are an error."""
    targets = [volume.target for volume in volumes]
    if double := [target for target in targets if targets.count(target) > 1]:
        raise ContainerError(f"{double[0]}: two volumes are to be mounted on it: leave out one")
    return sorted(volumes, key=lambda volume: volume.target.count("/"))

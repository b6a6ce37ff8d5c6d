"""Chapter 6: volumes, directories that several containers see at the same time, and that outlive them.

    Bind("/home/me/site", "/var/www", root)               # docker run -v /home/me/site:/var/www
    Named("pages", "/var/www", root, readonly=True)       # docker run -v pages:/var/www:ro
    Tmpfs("/run", root, size="64m")                       # docker run --tmpfs /run:size=64m

They come before `PivotRoot(root)` in the list, since the source is a path of the host, and after `Union`, as the target
is a path below `root`, the same that PivotRoot gets. Each mounts in the container's own mount namespace.

What a path leads to can change between two uses (CVE-2021-30465). So a path is used once, to open a descriptor, and the
rest is done with that: in the new process, with CAP_SYS_ADMIN over its mount namespace, before the root changes.
"""

from __future__ import annotations

import errno
import os
import stat

from minidocker import files, syscalls, trees
from minidocker.cgroups.limits import size as bytes_of
from minidocker.isolator import Isolator
from minidocker.outcome import ContainerError, warn
from minidocker.rootfs import make_mounts_private
from minidocker.state import hold
from minidocker.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, call, mount, mount_setattr, openat2
from minidocker.volumes import store

BELOW = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS of <linux/openat2.h>: links of /proc lead anywhere
OPEN_TREE_CLONE, MOUNT_ATTR_RDONLY, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 1, 1, 0x04, 0x40
NOT_THERE = "nothing can be mounted on the root, nor on or below /proc"

Root = str | os.PathLike[str]
Options = dict[str, str] | None


class Volume(Isolator):
    """Something of the host, or of nobody else, at the absolute path `target` of the container with this `root`.

    A target that is missing is made in the root; in a union, that is in the container's own upper directory. With
    `readonly` nobody inside can write to it, nor to any file system that is mounted below it.
    """

    clone_flags = syscalls.CLONE_NEWNS
    source = ""

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
        if self.readonly:  # with all that is mounted below it, which mount(2) would leave writable
            mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, MOUNT_ATTR_RDONLY)
        # from one descriptor to another: no path is looked up, so none can be changed
        call("move_mount", tree, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH, path=name_of(place))
        for descriptor in (tree, root, place):
            os.close(descriptor)

    def tree(self) -> int:
        """open_tree(2): a copy of the mount, with what is mounted below it, attached nowhere. Closing it ends it."""
        return call("open_tree", AT_FDCWD, self.source, OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC, path=self.source)

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


class Named(Volume):
    """The volume `name` of `store`, made at its first use, then with these `options`; "" makes one that goes with the
    container. If it is empty it takes what the root has at the target (but `nocopy`).
    """

    def __init__(
        self, name: str, target: str, root: Root, readonly: bool = False, nocopy: bool = False, options: Options = None
    ) -> None:
        super().__init__(target, root, readonly)
        self.name, self.nocopy, self.options = name, nocopy, options or {}
        self.directory = store.directory(name) if name else ""

    def __enter__(self) -> Isolator:
        """Hold the volume as long as the container lives; if it comes from elsewhere, see that it is mounted."""
        self._used = self.name if self.name and not self.options else store.create(self.name, self.options)
        self._lock, self.directory = store.use(self._used), store.directory(self._used)
        self.source = f"{self.directory}/_data"
        try:
            options = store.read(self._used, "opt")
            self.descriptors = (store.mounted(self._used, self.directory, options),) if options else ()
        except BaseException:
            self.__exit__()
            raise
        return self

    def tree(self) -> int:
        """The volume's data; from the mount namespace of its keeper, if it has one."""
        if not self.descriptors:
            return super().tree()
        home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        call("setns", self.descriptors[0], syscalls.CLONE_NEWNS)
        tree = super().tree()
        call("setns", home, syscalls.CLONE_NEWNS)
        os.close(home)
        return tree

    def fill(self, place: int, tree: int) -> None:
        """Docker's copy-up: an empty volume takes what the image has there, one container at a time. The file `filling`
        says that somebody has begun; found under the lock, that they died: begin again.
        """
        lock, mark = hold(f"{self.directory}/config", wait=True), f"{self.directory}/filling"
        image, data = (os.open(".", trees.READ | os.O_DIRECTORY, dir_fd=here) for here in (place, tree))
        there = os.listdir(data)
        if os.path.exists(mark) or not (there or self.nocopy):
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            for name in there:
                trees.remove(name, data)
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
                store.remove(self._used)
        except trees.NotRemoved as left:
            warn(str(left))
        except ContainerError:
            pass


class Tmpfs(Volume):
    """An empty file system in memory, which ends with the container. Its `options` are those of tmpfs(5); its `flags`,
    as with Docker, allow no set-user-id programs, no devices and no programs at all. Both may be changed.
    """

    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC

    def __init__(
        self, target: str, root: Root, readonly: bool = False, size: int | str = 0, mode: int = 0o1777
    ) -> None:
        super().__init__(target, root, readonly)
        try:
            sized = f",size={bytes_of(size)}" if size else ""
        except ContainerError:
            raise ContainerError(f"Tmpfs: size {size!r}: write bytes, or a number with k, m or g, as in 64m") from None
        self.options = f"mode={mode:o}{sized}"

    def inside(self) -> None:
        """mount(2) on the descriptor's own name in /proc. A new file system is made read-only by this one call."""
        make_mounts_private()
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        place, _ = landing(root, self.target, directory=True)
        flags = self.flags | (syscalls.MS_RDONLY if self.readonly else 0)
        mount("tmpfs", f"/proc/self/fd/{place}", "tmpfs", flags, self.options)
        os.close(root)
        os.close(place)


def ordered(volumes: list[Volume]) -> list[Volume]:
    """Parents before what is mounted below them; two on the same path are an error."""
    targets = [volume.target for volume in volumes]
    if double := [target for target in targets if targets.count(target) > 1]:
        raise ContainerError(f"{double[0]}: two volumes are to be mounted on it: leave out one")
    return sorted(volumes, key=lambda volume: volume.target.count("/"))


def landing(root: int, target: str, directory: bool, proc: bool = False) -> tuple[int, bool]:
    """A descriptor of the target, and whether it was there; what is missing is made, at the end a file unless it is to
    be a `directory`. Each part is looked up as if `root` were the root of everything, for links and `..` as well, or
    made in the one before it. What must not be covered is an error, without `proc`: programs trust what /proc says.
    """
    place, there, path = os.dup(root), True, ""
    for part in target.strip("/").split("/"):
        parent, path = place, f"{path}/{part}"
        try:
            place = openat2(root, path, os.O_PATH | os.O_CLOEXEC, BELOW)
        except FileNotFoundError:
            place, there = _make(parent, part, directory or path != target), False
        finally:
            os.close(parent)
    inside = name_of(place).removeprefix(name_of(root).rstrip("/"))
    if not proc and (inside in ("", "/") or inside.split("/")[1] == "proc"):
        raise OSError(errno.EPERM, NOT_THERE, target)
    if stat.S_ISDIR(os.fstat(place).st_mode) != directory:
        kinds = ("a directory", "a file") if directory else ("a file", "a directory")
        raise OSError(errno.ENOTDIR, f"{kinds[0]} cannot be mounted on {kinds[1]}, which the root has here", target)
    return place, there


def _make(parent: int, name: str, directory: bool) -> int:
    """A new directory or file, and a descriptor of it. A link of that name leads nowhere, and is not followed."""
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        pass  # another container was faster, or it is a link
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    if stat.S_ISLNK(os.fstat(made).st_mode):
        os.close(made)
        raise OSError(errno.ENOENT, "a symbolic link on the way to the target leads nowhere", name)
    return made


def name_of(descriptor: int) -> str:
    """The path that the kernel knows for it, now."""
    return os.readlink(f"/proc/self/fd/{descriptor}")

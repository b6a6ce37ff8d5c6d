"""Chapter 5: RUN --mount: what a step has as long as it runs, and its layer has not.

    RUN --mount=type=cache,target=/root/.cache pip install flask
    RUN --mount=type=secret,id=token curl -H "Authorization: $(cat /run/secrets/token)" https://example.org

They are chapter 6's volumes, which whoever builds has to bring, since this chapter comes before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidocker.images.build.copy import Copy, Ignore, Source, clean, real
from minidocker.images.build.dockerfile import expand
from minidocker.images.store import Store
from minidocker.isolator import Isolator
from minidocker.rootfs import NO_SURPRISES, make_mounts_private
from minidocker.syscalls import CLONE_NEWNS, MS_NODEV, MS_NOSUID, mount

VALUES = {"mode": "[0-7]{1,4}", "uid": r"\d{1,9}", "gid": r"\d{1,9}", "sharing": "shared|private|locked"}
VALUES |= dict.fromkeys(("readonly", "readwrite", "required"), "true|false")


class Memory(Isolator):
    """Files in memory, on a directory of the host that only the container sees so; they end with it."""

    clone_flags = CLONE_NEWNS

    def __init__(self, place: str) -> None:
        self.place, self.files = place, dict[str, tuple[bytes, int, int, int]]()

    def inside(self) -> None:
        """Before what mounts them elsewhere."""
        make_mounts_private()
        mount("tmpfs", self.place, "tmpfs", NO_SURPRISES, "mode=700")
        for path, (content, mode, uid, gid) in self.files.items():
            with open(path, "xb") as file:
                file.write(content)
                os.fchown(file.fileno(), uid, gid)
                os.fchmod(file.fileno(), mode)


class Mounts:
    """Those of one step, `wanted`: as they are written, with variables replaced, and of a bind the digest of its files.

    So the key of the cache has no secret, and nothing of a cache. `volumes`: chapter 6; `tree`: the open directory for
    a `from`, what of it is left out, and whether owners count.
    """

    def __init__(
        self,
        wanted: Sequence[Mapping[str, str]],
        variables: Mapping[str, str],
        directory: str,
        tree: Callable[[str], tuple[int, Ignore, bool]],
        volumes: Any = None,
        secrets: Mapping[str, bytes] | None = None,
    ) -> None:
        self.volumes, self.secrets, self.copies = volumes, secrets or {}, dict[int, Copy]()
        self.wanted = [{key: expand(value, variables) for key, value in one.items()} for one in wanted]
        for number, one in enumerate(self.wanted):
            for key, value in one.items():
                if not re.fullmatch(VALUES.get(key, ".*"), value, re.S):
                    raise ValueError(f"--mount: {key}={value}: {VALUES[key]} is expected")
            if one["type"] == "bind":
                root, ignore, owners = tree(one.get("from", ""))
                path = clean(one.get("source", ""))
                if (way := real(root, path, ignore)) is None:
                    raise ValueError(f"--mount: {path}: there is no such file, or .dockerignore leaves it out")
                self.copies[number] = Copy("/tree")
                self.copies[number].sources = [Source(root, way, "", ignore, owners)]
                one["digest"] = self.copies[number].digest()
            one["path"] = "/" + clean(posixpath.join(directory, one.get("target", f"/run/secrets/{one.get('id')}")))
            one.setdefault("id", one["path"] if one["type"] == "cache" else posixpath.basename(one["path"]))

    def made(
        self, store: Store, stack: contextlib.ExitStack
    ) -> tuple[list[str], Callable[[str], list[Isolator]], list[str]]:
        """(layers below all others, with the mount points; what to mount; more of the environment) for `container`,
        until the stack is closed."""
        if not self.wanted:
            return [], lambda root: [], []
        place = stack.enter_context(store.place())
        memory, points = Memory(f"{place}/memory"), f"{place}/points"
        placed, env, caches = list[tuple[dict[str, str], str]](), list[str](), dict[str, str]()
        for path in (memory.place, points):
            os.mkdir(path)
        for number, one in sorted(enumerate(self.wanted), key=lambda item: item[1]["id"]):  # so no two builds wait
            source, mode = f"{place}/{number}", one.get("mode", "755" if one["type"] == "cache" else "400")
            attributes = int(mode, 8), int(one.get("uid", 0)), int(one.get("gid", 0))
            if one["type"] == "secret":
                source, content = f"{memory.place}/{number}", self.secrets.get(one["id"])
                if content is None and one.get("required") == "true":
                    raise ValueError(f"no secret {one['id']}: build --secret id={one['id']},src=FILE brings it")
                if content is not None and "env" in one:
                    env.append(f"{one['env']}={os.fsdecode(content)}")
                if content is None or ("env" in one and "target" not in one):
                    continue
                memory.files[source] = content, *attributes
                os.mknod(source)  # to be seen before the memory is there
            elif one["type"] == "cache":
                name = repr((one["id"], attributes))
                if name not in caches:
                    caches[name] = stack.enter_context(store.cache(name, one.get("sharing", "shared") == "shared"))
                source = caches[name]
                os.chown(source, *attributes[1:])
                os.chmod(source, attributes[0])
            elif one["type"] == "bind":
                os.mkdir(source)
                self.copies[number].into([store.empty], source)
                if self.copies[number].digest() != one["digest"]:
                    raise ValueError("the files changed while they were read: build again")
                source = f"{source}/tree"
            point = f"{points}{one['path']}"
            if one["type"] == "tmpfs" or os.path.isdir(source):
                os.makedirs(point, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(point), exist_ok=True)
                os.mknod(point)
            placed.append((one, source))
        return [points], lambda root: [memory, *self._volumes(placed, root)], env

    def _volumes(self, placed: list[tuple[dict[str, str], str]], root: str) -> list[Isolator]:
        """In the order in which they lie on each other. On one in memory, programs may be executed, as in BuildKit."""
        made = list[Any]()
        for one, source in placed:
            if one["type"] == "tmpfs":
                made.append(self.volumes.Tmpfs(one["path"], root, size=one.get("size", 0)))
                made[-1].flags = MS_NOSUID | MS_NODEV
            else:
                usual = "false" if one["type"] == "cache" or one.get("readwrite") == "true" else "true"
                made.append(self.volumes.Bind(source, one["path"], root, one.get("readonly", usual) == "true"))
        return self.volumes.ordered(made) # type: ignore[no-any-return]

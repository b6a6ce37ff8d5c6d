"""Chapter 6: Docker's spellings. Each function turns the text behind a flag into a `Volume`, or says what is wrong.

from_v("pages:/var/www:ro", root)                            # -v, --volume
from_mount("type=bind,source=/srv,target=/srv,readonly", root)   # --mount
from_tmpfs("/run:size=64m,mode=700", root)                   # --tmpfs
"""

from __future__ import annotations

import os

from minidocker.outcome import ContainerError
from minidocker.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID
from minidocker.volumes import Bind, Named, Tmpfs, Volume

# One word of each group. z and Z are for SELinux, the last group is for Docker Desktop: they change nothing here
V_OPTIONS = (("ro", "rw"), ("nocopy",), ("rprivate", "private"), ("z", "Z"), ("consistent", "cached", "delegated"))
KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
TYPES = {  # what --mount takes with each type, beside source, target, readonly and consistency
    "bind": ("bind-create-src", "bind-propagation"),
    "volume": ("volume-nocopy", "volume-driver", "volume-opt"),
    "tmpfs": ("tmpfs-size", "tmpfs-mode"),
}
SWITCHES, TRUE = ("readonly", "volume-nocopy", "bind-create-src"), {"": 1, "true": 1, "1": 1, "false": 0, "0": 0}
TMPFS_FLAGS = {"suid": MS_NOSUID, "dev": MS_NODEV, "exec": MS_NOEXEC}  # what allows it -> the flag that does not
TMPFS_OPTIONS = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def from_v(text: str, root: str) -> Volume:
    """[SOURCE:]TARGET[:OPTIONS]. A source with / or . in front is a path of the host, and made if it is missing."""
    source, target, *rest = text.split(":") if ":" in text else ("", text)
    words, known = rest[0].split(",") if rest else [], " ".join("|".join(group) for group in V_OPTIONS)
    strange = [word for word in words if word not in sum(V_OPTIONS, ())]
    several = [group for group in V_OPTIONS if sum(word in group for word in words) > 1]
    host, empty = source.startswith(("/", ".")), not all([source or text == target, *rest]) or rest[1:]
    _refuse(
        f"-v {text}",
        (empty, "it is [SOURCE:]TARGET[:OPTIONS], and no part may be empty"),
        (not target.startswith("/"), f"the path in the container, {target!r}, must begin with /"),
        (strange, f"there is no option {' '.join(map(repr, strange))}: there are {known}"),
        (several, f"of each group one word, since they exclude each other: {known}"),
        (host and "nocopy" in words, "nocopy is for named volumes: nothing is copied into a directory of the host"),
    )
    if host:
        return Bind(source, target, root, "ro" in words, create=True)
    return Named(source, target, root, "ro" in words, "nocopy" in words)


def from_mount(text: str, root: str) -> Volume:
    """KEY=VALUE, separated by commas; nothing is guessed, and nothing is made on the host but named volumes."""
    fields = _fields(text)
    kind, source, target = fields.pop("type", "volume"), fields.pop("source", ""), fields.pop("target", "")
    readonly, _ = bool(fields.pop("readonly", 0)), fields.pop("consistency", "")
    bind, create = kind == "bind", bool(fields.get("bind-create-src"))
    foreign = [key for key in fields if key not in TYPES.get(kind, ())]
    _refuse(
        f"--mount {text}",
        (foreign, f"{' '.join(foreign)} does not belong to type={kind}"),
        (kind not in TYPES, f"there is no type {kind!r}: there are {', '.join(TYPES)}"),
        (not target.startswith("/"), "it needs target=PATH, the path in the container, which begins with /"),
        (bind and not source.startswith(("/", ".")), "type=bind needs source=PATH, of the host, which begins with /"),
        (bind and not create and not os.path.exists(source), f"{source}: make it first, or add bind-create-src"),
        (fields.get("bind-propagation", "private") not in ("private", "rprivate"), "bind-propagation is rprivate here"),
        (
            fields.get("volume-driver", "local") != "local",
            f"the only driver is local, not {fields.get('volume-driver')}",
        ),
        (kind == "tmpfs" and source, "a tmpfs has no source: it is empty, and in memory"),
    )
    if bind:
        return Bind(source, target, root, readonly, create)
    if kind == "volume":
        return Named(source, target, root, readonly, bool(fields.get("volume-nocopy")), fields.get("volume-opt"))
    mode = _mode(f"--mount {text}", fields.get("tmpfs-mode", "1777"))
    return Tmpfs(target, root, readonly, fields.get("tmpfs-size", 0), mode)


def _fields(text: str) -> dict[str, Any]:
    """The keys in their long form; `volume-opt` may come again. A field in quotes may hold commas, as in a CSV file."""
    import csv

    fields: dict[str, Any] = {"volume-opt": {}}
    try:
        words = next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise ContainerError(f"--mount {text}: a quote is not closed") from None
    for word in words:
        key, equals, value = word.partition("=")
        key = KEYS.get(key.lower(), key.lower())
        switch = key in SWITCHES
        _refuse(
            f"--mount {text}",
            (switch and value.lower() not in TRUE, f"{key} is true or false, and not {value!r}"),
            (not switch and not equals, f"{key!r} is no key, or needs a value: {key}=..."),
        )
        if key == "volume-opt":
            fields[key].__setitem__(*value.partition("=")[::2])
        else:
            fields[key] = TRUE[value.lower()] if switch else value
    return {key: value for key, value in fields.items() if value != {}}


def from_tmpfs(text: str, root: str) -> Volume:
    """TARGET[:OPTIONS]: ro, rw, [no]exec, [no]suid, [no]dev, size, mode, and what else tmpfs(5) has, e.g. uid."""
    target, _, rest = text.partition(":")
    flags, words, values = MS_NOSUID | MS_NODEV | MS_NOEXEC, [*filter(None, rest.split(","))], {}
    for word in words:
        key, _, value = word.partition("=")
        if flag := TMPFS_FLAGS.get(word.removeprefix("no")):
            flags = flags | flag if word.startswith("no") else flags & ~flag
        elif key in TMPFS_OPTIONS and value:
            values[key] = value
        elif word not in ("ro", "rw"):
            raise ContainerError(f"--tmpfs {text}: there is no option {word!r}: see tmpfs(5)")
    size, mode = values.pop("size", 0), _mode(f"--tmpfs {text}", values.pop("mode", "1777"))
    others = ",".join(f"{key}={value}" for key, value in values.items())
    return Tmpfs(target, root, "ro" in words, size, mode, flags, others)


def _mode(flag: str, text: str) -> int:
    _refuse(
        flag, (not text or set(text) - set("01234567") or len(text) > 4, f"mode {text!r} is not octal, such as 1777")
    )
    return int(text, 8)


def _refuse(flag: str, *checks: tuple[object, str]) -> None:
    """The first check that is true is an error."""
    for wrong, why in checks:
        if wrong:
            raise ContainerError(f"{flag}: {why}")

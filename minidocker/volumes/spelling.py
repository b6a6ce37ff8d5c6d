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

V_OPTIONS = ("ro", "rw", "nocopy")
KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
# What --mount takes with each type, beside type, source, target and readonly
TYPES = {
    "bind": ("bind-create-src",),
    "volume": ("volume-nocopy", "volume-driver", "volume-opt", "volume-label"),
    "tmpfs": ("tmpfs-size", "tmpfs-mode"),
}
SWITCHES = ("readonly", "volume-nocopy", "bind-create-src")
MANY = ("volume-opt", "volume-label")
TMPFS_FLAGS = {"suid": MS_NOSUID, "dev": MS_NODEV, "exec": MS_NOEXEC}  # what allows it -> the flag that does not

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def from_v(text: str, root: str) -> Volume:
    """[SOURCE:]TARGET[:OPTIONS]. A source with / or . in front is a path of the host, and made if it is missing."""
    source, target, options = _three(text)
    for word in options:
        if word not in V_OPTIONS:
            raise ContainerError(f"-v {text}: there is no option {word!r}: there are {', '.join(V_OPTIONS)}")
    if {"ro", "rw"} <= {*options}:
        raise ContainerError(f"-v {text}: ro and rw exclude each other")
    readonly, nocopy = "ro" in options, "nocopy" in options
    if not source.startswith(("/", ".")):
        return Named(source, target, root, readonly, nocopy)
    if nocopy:
        raise ContainerError(f"-v {text}: nocopy is for named volumes: nothing is copied into a directory of the host")
    return Bind(source, target, root, readonly, create=True)


def _three(text: str) -> tuple[str, str, list[str]]:
    """Source ("" for a volume without a name), target and the list of options."""
    parts = text.split(":")
    if len(parts) == 1:
        parts.insert(0, "")
    elif len(parts) > 3 or not all(parts):
        raise ContainerError(f"-v {text}: it is [SOURCE:]TARGET[:OPTIONS], with no part empty")
    if not parts[1].startswith("/"):
        raise ContainerError(f"-v {text}: the path in the container, {parts[1]!r}, must begin with /")
    return parts[0], parts[1], parts[2].split(",") if parts[2:] else []


def from_mount(text: str, root: str) -> Volume:
    """KEY=VALUE, separated by commas; nothing is guessed, and nothing is made on the host but named volumes."""
    fields = _fields(text)
    kind = fields.pop("type", "volume")
    if kind not in TYPES:
        raise ContainerError(f"--mount {text}: there is no type {kind!r}: there are {', '.join(TYPES)}")
    for key in fields:
        if key not in ("source", "target", "readonly", *TYPES[kind]):
            raise ContainerError(f"--mount {text}: {key} does not belong to type={kind}")
    source, target = fields.get("source", ""), fields.get("target", "")
    if not target.startswith("/"):
        raise ContainerError(f"--mount {text}: it needs target=PATH, the path in the container, which begins with /")
    make = {"bind": _bind, "volume": _named, "tmpfs": _tmpfs}[kind]
    return make(text, source, target, root, fields)


def _fields(text: str) -> dict[str, Any]:
    """The keys in their long form, switches as bool, and those that may come again as dictionaries."""
    fields: dict[str, Any] = {}
    for word in _comma_separated(text):
        key, equals, value = word.partition("=")
        key = KEYS.get(key.lower(), key.lower())
        if key in SWITCHES:
            if value.lower() not in ("", "true", "false", "1", "0"):
                raise ContainerError(f"--mount {text}: {key} is true or false, and not {value!r}")
            fields[key] = value.lower() not in ("false", "0")
        elif key not in ("type", "source", "target", *sum(TYPES.values(), ())):
            raise ContainerError(f"--mount {text}: there is no key {key!r}")
        elif not equals:
            raise ContainerError(f"--mount {text}: {key} needs a value: {key}=...")
        elif key in MANY:
            fields.setdefault(key, {}).__setitem__(*value.partition("=")[::2])
        else:
            fields[key] = value
    return fields


def _comma_separated(text: str) -> list[str]:
    """As in a CSV file: a field in quotes may hold commas, "volume-opt=o=size=1m,uid=5", and quotes doubled."""
    words, quoted = [""], False
    for character in text:
        quoted ^= character == '"'
        if character == "," and not quoted:
            words.append("")
        else:
            words[-1] += character
    if quoted:
        raise ContainerError(f"--mount {text}: a quote is not closed")
    return [word[1:-1].replace('""', '"') if word.startswith('"') else word for word in words]


def _bind(text: str, source: str, target: str, root: str, fields: dict[str, Any]) -> Volume:
    """The source must be there, unless bind-create-src is given; with a . in front it is below this directory."""
    if not source.startswith(("/", ".")):
        raise ContainerError(f"--mount {text}: type=bind needs source=PATH, a path of the host that begins with /")
    create = fields.get("bind-create-src", False)
    if not create and not os.path.exists(source):
        raise ContainerError(f"--mount {text}: {source} is not on the host: make it first, or add bind-create-src")
    return Bind(source, target, root, fields.get("readonly", False), create)


def _named(text: str, source: str, target: str, root: str, fields: dict[str, Any]) -> Volume:
    """One driver is here; the options are its own."""
    driver = fields.get("volume-driver", "local")
    if driver != "local":
        raise ContainerError(f"--mount {text}: there is no volume driver {driver!r}: the only one is local")
    options, labels = fields.get("volume-opt"), fields.get("volume-label")
    return Named(
        source, target, root, fields.get("readonly", False), fields.get("volume-nocopy", False), options, labels
    )


def _tmpfs(text: str, source: str, target: str, root: str, fields: dict[str, Any]) -> Volume:
    """Size as in 64m, mode in octal."""
    if source:
        raise ContainerError(f"--mount {text}: a tmpfs has no source: it is empty, and in memory")
    mode = _mode(f"--mount {text}", fields.get("tmpfs-mode", "1777"))
    return Tmpfs(target, root, fields.get("readonly", False), fields.get("tmpfs-size", 0), mode)


def _mode(flag: str, text: str) -> int:
    """Permissions in octal digits."""
    if not text or not set(text) <= set("01234567") or int(text, 8) > 0o7777:
        raise ContainerError(f"{flag}: mode {text!r} is not octal digits, such as 1777")
    return int(text, 8)


def from_tmpfs(text: str, root: str) -> Volume:
    """TARGET[:OPTIONS]: ro, rw, [no]exec, [no]suid, [no]dev, size, mode, and what else tmpfs(5) has, e.g. uid."""
    target, _, rest = text.partition(":")
    flags, settings, others = MS_NOSUID | MS_NODEV | MS_NOEXEC, {"size": "0", "mode": "1777", "ro": ""}, []
    for word in rest.split(",") if rest else []:
        key, equals, value = word.partition("=")
        name = key.removeprefix("no")
        if key in ("ro", "rw"):
            settings["ro"] = "" if key == "rw" else "ro"
        elif name in TMPFS_FLAGS and not equals:
            flags = flags & ~TMPFS_FLAGS[name] | (TMPFS_FLAGS[name] if key != name else 0)
        elif key in settings and equals:
            settings[key] = value
        elif key in ("uid", "gid", "nr_inodes", "nr_blocks", "huge") and value:
            others.append(word)
        else:
            raise ContainerError(f"--tmpfs {text}: there is no option {word!r}: see tmpfs(5)")
    size, mode = settings["size"] if settings["size"] != "0" else 0, _mode(f"--tmpfs {text}", settings["mode"])
    return Tmpfs(target, root, bool(settings["ro"]), size, mode, flags, ",".join(others))

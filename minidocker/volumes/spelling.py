"""Chapter 6: Docker's spellings. Each function turns the text behind a flag into a `Volume`, or says what is wrong.

from_v("pages:/var/www:ro", root)                            # -v, --volume
from_mount("type=bind,source=/srv,target=/srv,readonly", root)   # --mount
from_tmpfs("/run:size=64m,mode=700", root)                   # --tmpfs
"""

from __future__ import annotations

from minidocker.outcome import ContainerError
from minidocker.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID
from minidocker.volumes import Bind, Named, Tmpfs, Volume

# One word of each group. z and Z are for SELinux, the last group is for Docker Desktop: they change nothing here
V_OPTIONS = (("ro", "rw"), ("nocopy",), ("rprivate", "private"), ("z", "Z"), ("consistent", "cached", "delegated"))
KEYS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
TYPES = {  # what --mount takes with each type, beside source, target and readonly
    "bind": ("bind-create-src", "bind-propagation", "consistency"),
    "volume": ("volume-nocopy", "volume-driver", "volume-opt", "consistency"),
    "tmpfs": ("tmpfs-size", "tmpfs-mode", "consistency"),
}
SWITCHES = ("readonly", "volume-nocopy", "bind-create-src")
TRUE = {"": "true", "true": "true", "1": "true", "false": "", "0": ""}
ONLY = {"volume-driver": ("local",), "bind-propagation": ("rprivate", "private")}
TMPFS_FLAGS = {"suid": MS_NOSUID, "dev": MS_NODEV, "exec": MS_NOEXEC}  # what allows it -> the flag that does not
TMPFS_OPTIONS = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge")


def from_v(text: str, root: str) -> Volume:
    """[SOURCE:]TARGET[:OPTIONS]. A source with / or . in front is a path of the host, and made if it is missing."""
    source, target, *rest = text.split(":") if ":" in text else ("", text)
    words, known = rest[0].split(",") if rest else [], " ".join("|".join(group) for group in V_OPTIONS)
    strange = " ".join(repr(word) for word in words if word not in sum(V_OPTIONS, ()))
    several = [group for group in V_OPTIONS if sum(word in group for word in words) > 1]
    host, empty = source.startswith(("/", ".")), not all([source or text == target, *rest]) or rest[1:]
    _refuse(f"-v {text}", empty, "it is [SOURCE:]TARGET[:OPTIONS], and no part may be empty")
    _refuse(f"-v {text}", strange, f"there is no option {strange}: there are {known}")
    _refuse(f"-v {text}", several, f"of each group one word, since they exclude each other: {known}")
    _refuse(f"-v {text}", host and "nocopy" in words, "nocopy is for named volumes: no directory of the host is filled")
    if host:
        return Bind(source, target, root, "ro" in words, create=True)
    return Named(source, target, root, "ro" in words, "nocopy" in words)


def from_mount(text: str, root: str) -> Volume:
    """KEY=VALUE, separated by commas; nothing is guessed, and nothing is made on the host but named volumes."""
    flag, (fields, options) = f"--mount {text}", _fields(text)
    kind, source, target = fields.pop("type", "volume"), fields.pop("source", ""), fields.pop("target", "")
    readonly, relative = bool(fields.pop("readonly", "")), not source.startswith(("/", "."))
    _refuse(flag, kind not in TYPES, f"there is no type {kind!r}: there are {', '.join(TYPES)}")
    for key, value in fields.items():
        _refuse(flag, key not in TYPES[kind], f"{key} does not belong to type={kind}")
        _refuse(flag, key in ONLY and value not in ONLY[key], f"{key} can be {' or '.join(ONLY.get(key, ()))} here")
    _refuse(flag, not target, "it needs target=PATH, the path in the container")
    if kind == "bind":
        _refuse(flag, relative, "type=bind needs source=PATH, a path of the host that begins with /")
        return Bind(source, target, root, readonly, bool(fields.get("bind-create-src")))
    if kind == "volume":
        return Named(source, target, root, readonly, bool(fields.get("volume-nocopy")), options)
    _refuse(flag, source, "a tmpfs has no source: it is empty, and in memory")
    return Tmpfs(target, root, readonly, fields.get("tmpfs-size", 0), _mode(flag, fields.get("tmpfs-mode", "1777")))


def _fields(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """What the keys say, in their long form, and what each volume-opt says. A field in quotes may hold commas: CSV."""
    import csv

    fields, options = dict[str, str](), dict[str, str]()
    try:
        words = next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise ContainerError(f"--mount {text}: a quote is not closed") from None
    for key, equals, value in (word.partition("=") for word in words):
        key = KEYS.get(key.lower(), key.lower())
        if key in SWITCHES:
            _refuse(f"--mount {text}", value.lower() not in TRUE, f"{key} is true or false, and not {value!r}")
            value = TRUE[value.lower()]
        else:
            _refuse(f"--mount {text}", not equals, f"{key!r} is no key, or needs a value: {key}=...")
        if key == "volume-opt":
            name, _, options[name] = value.partition("=")
        fields[key] = value
    return fields, options


def from_tmpfs(text: str, root: str) -> Volume:
    """TARGET[:OPTIONS]: ro, rw, [no]exec, [no]suid, [no]dev, size, mode, and what else tmpfs(5) has, e.g. uid."""
    target, _, rest = text.partition(":")
    words, values, flags = [*filter(None, rest.split(","))], dict[str, str](), Tmpfs.flags
    for word in words:
        key, _, value = word.partition("=")
        if flag := TMPFS_FLAGS.get(word.removeprefix("no")):
            flags = flags | flag if word.startswith("no") else flags & ~flag
        elif key in TMPFS_OPTIONS and value:
            values[key] = value
        else:
            _refuse(f"--tmpfs {text}", word not in ("ro", "rw"), f"there is no option {word!r}: see tmpfs(5)")
    size, mode = values.pop("size", 0), _mode(f"--tmpfs {text}", values.pop("mode", "1777"))
    made = Tmpfs(target, root, "ro" in words, size, mode)
    made.flags, made.options = flags, ",".join([made.options, *(f"{key}={value}" for key, value in values.items())])
    return made


def _mode(flag: str, text: str) -> int:
    _refuse(flag, not text or set(text) - set("01234567") or len(text) > 4, f"mode {text!r} is not octal, such as 1777")
    return int(text, 8)


def _refuse(flag: str, wrong: object, why: str) -> None:
    if wrong:
        raise ContainerError(f"{flag}: {why}")

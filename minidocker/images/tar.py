"""Chapter 5: the tar format, as far as layers use it: ustar headers, pax records, and what GNU tar adds.

A list of entries: a header of 512 bytes with the fields as octal text, then the content, filled up to the next 512.
What does not fit into a field comes in an entry before it: pax records (type x), or GNU's long names (types L and K).
Ours, since tarfile takes three times as long, and drops setuid bits or refuses honest layers. See pax(1) and tar(5).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator

from minidocker.outcome import ContainerError

BLOCK = 512
# name, mode, owner, group, size, time, checksum, type, link, magic; skips two names; device, and the name's first part
HEADER = struct.Struct("100s 8s 8s 8s 12s 12s 8s c 100s 8s 64x 8s 8s 155s 12x")
REGULAR, HARDLINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
KINDS = stat.S_IFREG, 0, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFIFO  # the same for st_mode
XATTR = b"SCHILY.xattr."  # the prefix of pax records that hold extended attributes; every container tool uses it
END = bytes(2 * BLOCK)
CHUNK = 1 << 20  # bytes of a content that are in memory at a time
# AUFS's marks, which the OCI's layer.md kept: NAME is gone; so is all below this directory; AUFS's own bookkeeping
WHITEOUT, OPAQUE, AUFS_PRIVATE = b".wh.", b".wh..wh..opq", b".wh..wh."
MAX_RECORDS = 1 << 20  # bytes of extra headers of one entry: Go's tar, and so every container tool, has this limit too
MAX_EXTRA = 1 << 32  # bytes of extra headers of an archive: two million entries with 2 KB each
LARGEST = 1 << 62  # no file is larger, and no file system keeps times beyond


class BadTar(ContainerError):
    """The archive is not what it claims to be; the message says where."""


class Entry:
    """One file of an archive. Names are bytes, as the kernel's are; `mtime` is in nanoseconds."""

    __slots__ = ("gid", "link", "major", "minor", "mode", "mtime", "name", "size", "type", "uid", "xattrs")

    def __init__(self, name: bytes, type: bytes = REGULAR, mode: int = 0o644, size: int = 0, link: bytes = b"") -> None:
        self.name, self.type, self.mode, self.size, self.link = name, type, mode, size, link
        self.uid = self.gid = self.mtime = self.major = self.minor = 0
        self.xattrs: dict[bytes, bytes] = {}


def read(read: Callable[[int], bytes]) -> Iterator[Entry]:
    """Yield the entries; the caller takes the whole `content` of one before it asks for the next.

    Many writers leave out the two blocks of zeros: the end of the file is one as well, where a header could begin.
    """
    records: dict[bytes, bytes] = {}
    extra = total = 0  # bytes of extra headers: of this entry, and of all
    while (header := read(BLOCK)) and header != bytes(BLOCK):
        if len(header) < BLOCK:
            raise BadTar("the archive ends in the middle of a header")
        entry = _entry(header)
        if entry.type in b"xgLK":
            extra, total = extra + entry.size, total + entry.size + BLOCK
            if entry.size < 0 or extra > MAX_RECORDS or total > MAX_EXTRA:
                raise BadTar(f"{extra} bytes of extra headers: {MAX_RECORDS} at most for an entry, {MAX_EXTRA} for all")
            records.update(_records(entry.type, content(read, entry.size, "an extra header")))
        else:
            if records:
                _apply(records, entry)
            _check(entry)
            yield entry
            records, extra = {}, 0


def content(read: Callable[[int], bytes], size: int, what: str = "a file") -> bytes:
    """The next piece of a content; what fills up the last one is taken as well."""
    data = read(padded(size))
    if len(data) != padded(size):
        raise BadTar(f"the archive ends in the middle of {what}")
    return data[:size]


def padded(size: int) -> int:
    """The length of a content in the archive: filled up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _entry(header: bytes) -> Entry:
    """What the fields say. Of names there is the part before a NUL; device numbers elsewhere may be anything."""
    name, mode, uid, gid, size, mtime, checksum, kind, link, magic, major, minor, prefix = HEADER.unpack(header)
    total = sum(header.translate(None, b"\0"))  # most of it is NULs, which add nothing
    if not checksum.strip(b" \0").isdigit() or total - sum(checksum) + 8 * 32 != _number(checksum):
        raise BadTar("a header's checksum is wrong: this is not a tar archive, or it is damaged")
    entry = Entry(name.partition(b"\0")[0], kind, _number(mode) & 0o7777, _number(size), link.partition(b"\0")[0])
    entry.uid, entry.gid, entry.mtime = _number(uid), _number(gid), _number(mtime) * 10**9
    if kind in CHARACTER + DEVICE:
        entry.major, entry.minor = _number(major), _number(minor)
    if prefix[0] and magic.startswith(b"ustar\0"):
        entry.name = prefix.partition(b"\0")[0] + b"/" + entry.name
    return entry


def _number(field: bytes) -> int:
    """Octal digits, after and before blanks or NULs; or, if the first bit is set (GNU), a big-endian number."""
    if field[0] >= 0x80:
        return int.from_bytes(field[1:] if field[0] == 0x80 else field, "big", signed=field[0] == 0xFF)
    return _digits(field.lstrip(b"\0 ").partition(b"\0")[0].rstrip(b" ") or b"0", 8)


def _digits(text: bytes, base: int = 10) -> int:
    """A number of nothing but digits: int() itself would take "-1", "0o7", "1_0" and " 1" as well."""
    try:
        return int(text if text.isdigit() else b"x", base)
    except ValueError:
        raise BadTar(f"not a number: {text[:40]!r}") from None


def _records(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """pax records, "LENGTH KEY=VALUE\\n"; GNU's long names under the keys that pax has; global ones (g) say nothing."""
    if kind in b"LK":
        return {b"path" if kind == b"L" else b"linkpath": data.partition(b"\0")[0]}
    records, start = {}, 0
    while start < len(data) and kind == b"x":
        length = data[start : start + 9].partition(b" ")[0]  # it counts the whole record
        end = start + int(length) if length.isdigit() else 0
        key, equals, value = data[start + len(length) + 1 : max(end - 1, 0)].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise BadTar("a broken pax record")
        records[key] = value
        start = end
    return records


def _apply(records: dict[bytes, bytes], entry: Entry) -> None:
    """What pax records say wins over the header's fields, unless they say nothing."""
    for key, data in records.items():
        if key.startswith(b"GNU.sparse"):
            raise BadTar(f"{entry.name!r}: a sparse file in GNU's own format: make the archive without tar --sparse")
        if key.startswith(XATTR):  # an equals sign would have ended the key: as GNU tar writes it
            entry.xattrs[key[len(XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")] = data
    entry.name = records.get(b"path") or entry.name
    entry.link = records.get(b"linkpath") or entry.link
    for field in ("size", "uid", "gid"):
        if value := records.get(field.encode()):
            setattr(entry, field, _digits(value))
    if value := records.get(b"mtime"):  # seconds with a fraction, "-1.5"
        seconds, _, fraction = value.removeprefix(b"-").partition(b".")
        time = _digits(seconds) * 10**9 + _digits(fraction[:9].ljust(9, b"0"))
        entry.mtime = -time if value.startswith(b"-") else time


def _check(entry: Entry) -> None:
    """What no honest archive says, and what the kernel would misunderstand: an owner 2**32-1 is "do not change it"."""
    if entry.type in b"07\0":
        entry.type = DIRECTORY if entry.name.endswith(b"/") else REGULAR  # before ustar there was no type for it
    if entry.type != REGULAR:
        entry.size = 0  # some archivers write the size of what a link points to, and no content
    if entry.type not in b"0123456":
        sparse = "; if it is a sparse file: make the archive without tar --sparse" if entry.type == b"S" else ""
        raise BadTar(f"{entry.name!r}: entries of type {entry.type!r} are not part of the layer format{sparse}")
    if not entry.name or b"\0" in entry.name + entry.link:
        raise BadTar(f"{entry.name!r}: an entry without a name, or with a zero in a name")
    numbers = entry.uid < 2**32 - 1 and entry.gid < 2**32 - 1 and entry.major < 2**12 and entry.minor < 2**20
    if not numbers or min(entry.uid, entry.gid, entry.size, entry.major, entry.minor) < 0:
        raise BadTar(f"{entry.name!r}: an owner, size or device number that cannot be")
    if entry.size > LARGEST or abs(entry.mtime) // 10**9 > LARGEST:
        raise BadTar(f"{entry.name!r}: a size or time that cannot be")


def write(entry: Entry) -> bytes:
    """The header of an entry, after its pax records where fields are too small. The same entry gives the same bytes."""
    records = {}
    for key, value in sorted(entry.xattrs.items()):
        records[XATTR + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    for record, text in ((b"path", entry.name), (b"linkpath", entry.link)):
        if len(text) > 100:
            records[record] = text
    for field, limit in (("size", 8**11), ("uid", 8**7), ("gid", 8**7)):
        if getattr(entry, field) >= limit:
            records[field.encode()] = b"%d" % getattr(entry, field)
    if entry.mtime % 10**9 or not 0 <= entry.mtime < 8**11 * 10**9:
        time = b"%d.%09d" % divmod(abs(entry.mtime), 10**9)
        records[b"mtime"] = (b"-" if entry.mtime < 0 else b"") + time.rstrip(b"0").rstrip(b".")
    data = b"".join(_record(*record) for record in records.items())
    if len(data) > MAX_RECORDS:
        raise BadTar(f"{entry.name!r}: more than {MAX_RECORDS} bytes of extended attributes")
    if not data:
        return _header(entry)
    before = _header(Entry(b"PaxHeaders/" + entry.name[:80], b"x", size=len(data)))
    return before + data.ljust(padded(len(data)), b"\0") + _header(entry)


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record: its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % (rest + len(b"%d" % rest)))
    return b"%d %s=%s\n" % (length, key, value)


def _header(entry: Entry) -> bytes:
    """512 bytes, with 0 for a number that does not fit. No user and group names: those are the writing machine's."""
    numbers = ((entry.mode, 7), (entry.uid, 7), (entry.gid, 7), (entry.size, 11), (entry.mtime // 10**9, 11))
    octal = [b"%0*o" % (digits, number if 0 <= number < 8**digits else 0) for number, digits in numbers]
    device = b"%07o" % entry.major, b"%07o" % entry.minor
    fields = [entry.name, *octal, b" " * 8, entry.type, entry.link, b"ustar\x0000", *device, b""]
    fields[6] = b"%06o\0 " % sum(HEADER.pack(*fields))
    return HEADER.pack(*fields)

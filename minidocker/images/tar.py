"""Chapter 5: the tar format, as far as layers use it: ustar headers, pax records, and what GNU tar adds.

A tar archive is a list of entries: a header of 512 bytes with the fields as octal text, then the content, filled up to
the next 512. What does not fit into a field (long names, large numbers, extended attributes, parts of a second)
comes in an entry before it: pax records (type x), or GNU's long names (types L and K). The end is two blocks of zeros.

The standard library's tarfile could do it. It takes several times as long for each entry, its filters drop setuid bits
or refuse honest layers, and it hides what this chapter shows. pax(1) is the standard, tar(5) describes all variants.
"""

from __future__ import annotations

BLOCK = 512
REGULAR, HARDLINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
XATTR = b"SCHILY.xattr."  # the prefix of pax records that hold extended attributes; every container tool uses it
END = bytes(2 * BLOCK)
MAX_RECORDS = 1 << 20  # bytes of pax records of one entry: enough for any xattrs, too little to fill the memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


class BadTar(Exception):
    """The archive is not what it claims to be; the message says where."""


class Entry:
    """One file of an archive. Names are bytes, as the kernel's are; `mtime` is in nanoseconds."""

    __slots__ = ("gid", "link", "major", "minor", "mode", "mtime", "name", "size", "type", "uid", "xattrs")

    def __init__(self, name: bytes, type: bytes = REGULAR, mode: int = 0o644, size: int = 0, link: bytes = b"") -> None:
        self.name, self.type, self.mode, self.size, self.link = name, type, mode, size, link
        self.uid = self.gid = self.mtime = self.major = self.minor = 0
        self.xattrs: dict[bytes, bytes] = {}


def read(stream: BinaryIO) -> Iterator[Entry]:
    """Yield the entries; the caller reads `padded(entry.size)` bytes of content before it asks for the next one."""
    records: dict[bytes, bytes] = {}
    while True:
        header = stream.read(BLOCK)
        if len(header) < BLOCK:
            raise BadTar("the archive ends in the middle of a header" if header else "the archive has no end mark")
        if not header[0]:
            if header.count(0) != BLOCK:
                raise BadTar("an entry without a name")
            return
        _verify(header)
        kind = header[156:157]
        if kind in b"xgLK":
            records.update(_extra(kind, _content(stream, header)))
        else:
            yield _entry(header, kind, records)
            records = {}


def padded(size: int) -> int:
    """The length of a content in the archive: filled up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _verify(header: bytes) -> None:
    """The header's own checksum: the sum of its bytes, with its field taken as spaces."""
    if sum(header) - sum(header[148:156]) + 8 * 32 != _number(header[148:156]):
        raise BadTar("a header's checksum is wrong: this is not a tar archive, or it is damaged")


def _number(field: bytes) -> int:
    """Octal text; or, if the first bit is set (GNU), a big-endian number in the rest."""
    if field[0] >= 0x80:
        return int.from_bytes(field[1:] if field[0] == 0x80 else field, "big", signed=field[0] == 0xFF)
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise BadTar(f"not an octal number: {field!r}") from None


def _content(stream: BinaryIO, header: bytes) -> bytes:
    """The content of an entry that only says something about the next one."""
    size = _number(header[124:136])
    if not 0 <= size <= MAX_RECORDS:
        raise BadTar(f"{size} bytes of extra header: the limit is {MAX_RECORDS}")
    data = stream.read(padded(size))
    if len(data) != padded(size):
        raise BadTar("the archive ends in the middle of an extra header")
    return data[:size]


def _extra(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """pax records by key; GNU's long names under the keys that pax has for them. Global ones (type g) say nothing."""
    if kind == b"L":
        return {b"path": data.rstrip(b"\0")}
    if kind == b"K":
        return {b"linkpath": data.rstrip(b"\0")}
    return _records(data) if kind == b"x" else {}


def _records(data: bytes) -> dict[bytes, bytes]:
    """"LENGTH KEY=VALUE\\n", where LENGTH counts the whole record."""
    records = {}
    while data:
        try:
            length = int(data[: data.index(b" ")])
            key, value = data[data.index(b" ") + 1 : length - 1].split(b"=", 1)
        except ValueError:
            raise BadTar("a broken pax record") from None
        if length < 5 or data[length - 1 : length] != b"\n":
            raise BadTar("a broken pax record")
        records[key] = value
        data = data[length:]
    return records


def _entry(header: bytes, kind: bytes, records: dict[bytes, bytes]) -> Entry:
    """The entry of a header, with what the records before it say better."""
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    entry = Entry(name, REGULAR if kind in b"\0007" else kind, _number(header[100:108]) & 0o7777)
    entry.link = header[157:257].split(b"\0", 1)[0]
    entry.uid, entry.gid = _number(header[108:116]), _number(header[116:124])
    entry.size, entry.mtime = _number(header[124:136]), _number(header[136:148]) * 10**9
    if kind in b"34":
        entry.major, entry.minor = _number(header[329:337]), _number(header[337:345])
    if records:
        _apply_records(entry, records)
    if entry.type not in b"0123456":
        raise BadTar(f"{entry.name!r}: entries of type {kind!r} are not part of the layer format")
    if entry.type != REGULAR:
        entry.size = 0  # some archivers write the size of what a link points to, and no content
    if entry.size < 0:
        raise BadTar(f"{entry.name!r}: a size below zero")
    return entry


def _apply_records(entry: Entry, records: dict[bytes, bytes]) -> None:
    """What pax records say wins over the header's fields."""
    if any(key.startswith(b"GNU.sparse") for key in records):
        raise BadTar(f"{entry.name!r}: GNU's sparse files are not part of the layer format")
    entry.name = records.get(b"path", entry.name)
    entry.link = records.get(b"linkpath", entry.link)
    try:
        entry.size = int(records.get(b"size", entry.size))
        entry.uid, entry.gid = int(records.get(b"uid", entry.uid)), int(records.get(b"gid", entry.gid))
        if b"mtime" in records:
            seconds, _, fraction = records[b"mtime"].partition(b".")
            nanoseconds = int(fraction[:9].ljust(9, b"0") or 0)
            entry.mtime = int(seconds) * 10**9 + (-nanoseconds if seconds.startswith(b"-") else nanoseconds)
    except ValueError:
        raise BadTar(f"{entry.name!r}: a pax record is not a number") from None
    entry.xattrs = {key[len(XATTR) :]: value for key, value in records.items() if key.startswith(XATTR)}


def write(entry: Entry) -> bytes:
    """The header of an entry, after its pax records where fields are too small. The same entry gives the same bytes."""
    records = {XATTR + key: value for key, value in sorted(entry.xattrs.items())}
    name = _short(entry.name, 100, b"path", records)
    link = _short(entry.link, 100, b"linkpath", records)
    size = _small(entry.size, 8**11, b"size", records)
    uid = _small(entry.uid, 8**7, b"uid", records)
    gid = _small(entry.gid, 8**7, b"gid", records)
    seconds, nanoseconds = divmod(entry.mtime, 10**9)
    if nanoseconds or not 0 <= seconds < 8**11:
        records[b"mtime"] = _decimal(entry.mtime)
    mtime = seconds if 0 <= seconds < 8**11 else 0
    header = _header(name, entry.type, entry.mode, uid, gid, size, mtime, link, entry.major, entry.minor)
    if not records:
        return header
    data = b"".join(_record(key, value) for key, value in records.items())
    return _header(b"PaxHeaders/" + name[:80], b"x", 0o644, 0, 0, len(data), 0) + fill(data) + header


def fill(data: bytes) -> bytes:
    """The content, filled up to whole blocks."""
    return data + bytes(padded(len(data)) - len(data))


def _short(text: bytes, limit: int, key: bytes, records: dict[bytes, bytes]) -> bytes:
    """The text if it fits into its field; else it goes to the records, and what fits stays for readers without them."""
    if len(text) > limit:
        records[key] = text
    return text[:limit]


def _small(number: int, limit: int, key: bytes, records: dict[bytes, bytes]) -> int:
    """The number if its octal digits fit into its field; else 0, and the records have it."""
    if number < limit:
        return number
    records[key] = b"%d" % number
    return 0


def _decimal(mtime: int) -> bytes:
    """Nanoseconds as seconds with a fraction, "-1.5" for one and a half seconds before 1970."""
    seconds, nanoseconds = divmod(abs(mtime), 10**9)
    sign = b"-" if mtime < 0 else b""
    return sign + (b"%d.%09d" % (seconds, nanoseconds)).rstrip(b"0").rstrip(b".")


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record: its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %s=%s\n" % (length, key, value)


def _header(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes = b"", *device: int
) -> bytes:
    """512 bytes. No user and group names: those are the writing machine's, and the numbers are what counts."""
    major, minor = device or (0, 0)
    fields = (name, b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % mtime)
    widths = (100, 8, 8, 8, 12, 12)
    start = b"".join(field.ljust(width, b"\0") for field, width in zip(fields, widths, strict=True))
    end = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (major, minor) + bytes(167)
    checksum = sum(start) + 8 * 32 + sum(end)
    return start + b"%06o\0 " % checksum + end

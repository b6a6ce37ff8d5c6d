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
MAX_RECORDS = 1 << 20  # bytes of extra headers of one entry: Go's tar, and so every container tool, has this limit too
MAX_EXTRA = 1 << 32  # bytes of extra headers of an archive: two million entries with 2 KB each
LARGEST = 1 << 62  # no file is larger, and no file system keeps times beyond

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
    extra = total = 0  # bytes of extra headers: of this entry, and of all
    while True:
        header = stream.read(BLOCK)
        if len(header) < BLOCK:
            raise BadTar("the archive ends in the middle of a header" if header else "the archive has no end mark")
        if not header[0] and header.count(0) == BLOCK:
            return
        _verify(header)
        kind = header[156:157]
        if kind in b"xgLK":
            data = _content(stream, header)
            extra, total = extra + len(data), total + len(data) + BLOCK
            if extra > MAX_RECORDS or total > MAX_EXTRA:
                raise BadTar(f"more than {MAX_RECORDS} bytes of extra headers for one entry, or {MAX_EXTRA} for all")
            records.update(_extra(kind, data))
        else:
            yield _entry(header, kind, records)
            records, extra = {}, 0


def padded(size: int) -> int:
    """The length of a content in the archive: filled up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _verify(header: bytes) -> None:
    """The header's own checksum: the sum of its bytes, with its field taken as spaces."""
    field = header[148:156]
    if not field.strip(b" \0").isdigit() or sum(header) - sum(field) + 8 * 32 != _number(field):
        raise BadTar("a header's checksum is wrong: this is not a tar archive, or it is damaged")


def _number(field: bytes) -> int:
    """Octal digits; or, if the first bit is set (GNU), a big-endian number in the rest."""
    if field[0] >= 0x80:
        return int.from_bytes(field[1:] if field[0] == 0x80 else field, "big", signed=field[0] == 0xFF)
    digits = field.partition(b"\0")[0].strip(b" ")
    return _digits(digits, 8) if digits else 0


def _digits(text: bytes, base: int = 10) -> int:
    """A number of nothing but digits: int() itself would take "-1", "0o7", "1_0" and " 1" as well."""
    try:
        return int(text if text.isdigit() else b"x", base)
    except ValueError:
        raise BadTar(f"not a number: {text[:40]!r}") from None


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
    if kind in b"LK":
        return {b"path" if kind == b"L" else b"linkpath": data.partition(b"\0")[0]}
    return _records(data) if kind == b"x" else {}


def _records(data: bytes) -> dict[bytes, bytes]:
    """ "LENGTH KEY=VALUE\\n", where LENGTH counts the whole record."""
    records, start = {}, 0
    while start < len(data):
        blank = data.find(b" ", start)
        length = data[start : max(blank, start)]
        end = start + int(length) if length.isdigit() and len(length) < 9 else 0
        key, equals, value = data[blank + 1 : max(end - 1, 0)].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise BadTar("a broken pax record")
        records[key] = value
        start = end
    return records


def _entry(header: bytes, kind: bytes, records: dict[bytes, bytes]) -> Entry:
    """The entry of a header, with what the records before it say better."""
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    entry = Entry(name, REGULAR if kind in (b"\0", b"7") else kind, _number(header[100:108]) & 0o7777)
    entry.link = header[157:257].partition(b"\0")[0]
    entry.uid, entry.gid = _number(header[108:116]), _number(header[116:124])
    entry.size, entry.mtime = _number(header[124:136]), _number(header[136:148]) * 10**9
    if kind in b"34":
        entry.major, entry.minor = _number(header[329:337]), _number(header[337:345])
    if records:
        _apply_records(entry, records)
    if entry.type == REGULAR and entry.name.endswith(b"/"):
        entry.type = DIRECTORY  # before ustar there was no type for it
    if entry.type != REGULAR:
        entry.size = 0  # some archivers write the size of what a link points to, and no content
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    """What no honest archive says, and what the kernel would misunderstand: an owner 2**32-1 is "do not change it"."""
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


def _apply_records(entry: Entry, records: dict[bytes, bytes]) -> None:
    """What pax records say wins over the header's fields, unless they say nothing."""
    if any(key.startswith(b"GNU.sparse") for key in records):
        raise BadTar(f"{entry.name!r}: a sparse file in GNU's own format: make the archive without tar --sparse")
    for key, data in records.items():
        if key.startswith(XATTR):  # an equals sign would have ended the key: as GNU tar writes it
            entry.xattrs[key[len(XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")] = data
    entry.name = records.get(b"path") or entry.name
    entry.link = records.get(b"linkpath") or entry.link
    for field in ("size", "uid", "gid"):
        if value := records.get(field.encode()):
            setattr(entry, field, _digits(value))
    if value := records.get(b"mtime"):
        entry.mtime = _nanoseconds(value)


def _nanoseconds(text: bytes) -> int:
    """Seconds with a fraction, "-1.5"; what the fraction has beyond nanoseconds is cut off."""
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    time = _digits(seconds) * 10**9 + _digits(fraction[:9].ljust(9, b"0"))
    return -time if text.startswith(b"-") else time


def write(entry: Entry) -> bytes:
    """The header of an entry, after its pax records where fields are too small. The same entry gives the same bytes."""
    records = {}
    for key, value in sorted(entry.xattrs.items()):
        records[XATTR + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    name, link = _short(entry.name, b"path", records), _short(entry.link, b"linkpath", records)
    size = _small(entry.size, 8**11, b"size", records)
    uid, gid = _small(entry.uid, 8**7, b"uid", records), _small(entry.gid, 8**7, b"gid", records)
    seconds, nanoseconds = divmod(entry.mtime, 10**9)
    if nanoseconds or not 0 <= seconds < 8**11:
        records[b"mtime"] = _decimal(entry.mtime)
    mtime = seconds if 0 <= seconds < 8**11 else 0
    header = _header(name, entry.type, entry.mode, uid, gid, size, mtime, link, entry.major, entry.minor)
    if not records:
        return header
    data = b"".join(_record(*record) for record in records.items())
    if len(data) > MAX_RECORDS:
        raise BadTar(f"{entry.name!r}: more than {MAX_RECORDS} bytes of extended attributes")
    return _header(b"PaxHeaders/" + name[:80], b"x", 0o644, 0, 0, len(data), 0) + fill(data) + header


def fill(data: bytes) -> bytes:
    """The content, filled up to whole blocks."""
    return data + bytes(padded(len(data)) - len(data))


def _short(text: bytes, key: bytes, records: dict[bytes, bytes]) -> bytes:
    """The text if it fits into its field; else it goes to the records, and what fits stays for readers without them."""
    if len(text) > 100:
        records[key] = text
    return text[:100]


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

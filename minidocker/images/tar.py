"""Chapter 5: the tar format, as far as layers use it: ustar headers, pax records, and what GNU tar adds.

A tar archive is a list of entries: a header of 512 bytes with the fields as octal text, then the content, filled up to
the next 512. What does not fit into a field (long names, large numbers, extended attributes, parts of a second)
comes in an entry before it: pax records (type x), or GNU's long names (types L and K). Two blocks of zeros are the end.

Ours, since tarfile takes three times as long for each entry, and drops setuid bits or refuses honest layers: pax(1),
tar(5).
"""

from __future__ import annotations

from minidocker.outcome import ContainerError

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


class BadTar(ContainerError):
    """The archive is not what it claims to be; the message says where."""


class Entry:
    """One file of an archive. Names are bytes, as the kernel's are; `mtime` is in nanoseconds."""

    __slots__ = ("gid", "link", "major", "minor", "mode", "mtime", "name", "size", "type", "uid", "xattrs")

    def __init__(self, name: bytes, type: bytes = REGULAR, mode: int = 0o644, size: int = 0, link: bytes = b"") -> None:
        self.name, self.type, self.mode, self.size, self.link = name, type, mode, size, link
        self.uid = self.gid = self.mtime = self.major = self.minor = 0
        self.xattrs: dict[bytes, bytes] = {}


def read(stream: BinaryIO) -> Iterator[Entry]:
    """Yield the entries; the caller reads `padded(entry.size)` bytes of content before it asks for the next one.

    Many writers leave out the two blocks of zeros: the end of the file is one as well, where a header could begin.
    """
    records: dict[bytes, bytes] = {}
    extra = total = 0  # bytes of extra headers: of this entry, and of all
    while header := stream.read(BLOCK):
        if len(header) < BLOCK:
            raise BadTar("the archive ends in the middle of a header")
        if not header[0] and header.count(0) == BLOCK:
            break
        field, kind = header[148:156], header[156:157]
        if not field.strip(b" \0").isdigit() or sum(header) - sum(field) + 8 * 32 != _number(field):
            raise BadTar("a header's checksum is wrong: this is not a tar archive, or it is damaged")
        if kind in b"xgLK":
            data = _content(stream, _number(header[124:136]))
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


def fill(data: bytes) -> bytes:
    """The content, filled up to whole blocks."""
    return data + bytes(padded(len(data)) - len(data))


def _number(field: bytes) -> int:
    """Octal digits, after and before blanks or NULs; or, if the first bit is set (GNU), a big-endian number."""
    if field[0] >= 0x80:
        return int.from_bytes(field[1:] if field[0] == 0x80 else field, "big", signed=field[0] == 0xFF)
    digits = field.lstrip(b"\0 ").partition(b"\0")[0].rstrip(b" ")
    return _digits(digits, 8) if digits else 0


def _digits(text: bytes, base: int = 10) -> int:
    """A number of nothing but digits: int() itself would take "-1", "0o7", "1_0" and " 1" as well."""
    try:
        return int(text if text.isdigit() else b"x", base)
    except ValueError:
        raise BadTar(f"not a number: {text[:40]!r}") from None


def _content(stream: BinaryIO, size: int) -> bytes:
    """The content of an entry that only says something about the next one."""
    if not 0 <= size <= MAX_RECORDS:
        raise BadTar(f"{size} bytes of extra header: the limit is {MAX_RECORDS}")
    data = stream.read(padded(size))
    if len(data) != padded(size):
        raise BadTar("the archive ends in the middle of an extra header")
    return data[:size]


def _extra(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """pax records, "LENGTH KEY=VALUE\\n"; GNU's long names under the keys that pax has; global ones (g) say nothing."""
    if kind in b"LK":
        return {b"path" if kind == b"L" else b"linkpath": data.partition(b"\0")[0]}
    records, start = {}, 0
    while start < len(data) and kind == b"x":
        blank = data.find(b" ", start)
        length = data[start : max(blank, start)]  # it counts the whole record
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


def _apply_records(entry: Entry, records: dict[bytes, bytes]) -> None:
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
    records, fields = {}, {"mode": entry.mode}
    for key, value in sorted(entry.xattrs.items()):
        records[XATTR + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    for text, record in ((entry.name, b"path"), (entry.link, b"linkpath")):
        if len(text) > 100:
            records[record] = text
    for field, limit in (("size", 8**11), ("uid", 8**7), ("gid", 8**7)):
        fields[field] = number = getattr(entry, field)
        if number >= limit:
            records[field.encode()], fields[field] = b"%d" % number, 0
    seconds, nanoseconds = divmod(entry.mtime, 10**9)
    fields["mtime"] = seconds if 0 <= seconds < 8**11 else 0
    if nanoseconds or seconds != fields["mtime"]:
        seconds, nanoseconds = divmod(abs(entry.mtime), 10**9)
        records[b"mtime"] = b"-" * (entry.mtime < 0) + (b"%d.%09d" % (seconds, nanoseconds)).rstrip(b"0").rstrip(b".")
    header = _header(entry.name, entry.type, entry.link, (entry.major, entry.minor), **fields)
    data = b"".join(_record(*record) for record in records.items())
    if len(data) > MAX_RECORDS:
        raise BadTar(f"{entry.name!r}: more than {MAX_RECORDS} bytes of extended attributes")
    return (
        _header(b"PaxHeaders/" + entry.name[:80], b"x", mode=0o644, size=len(data)) + fill(data) + header
        if data
        else header
    )


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record: its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % (rest + len(b"%d" % rest)))
    return b"%d %s=%s\n" % (length, key, value)


def _header(name: bytes, kind: bytes, link: bytes = b"", device: tuple[int, int] = (0, 0), **fields: int) -> bytes:
    """512 bytes. No user and group names: those are the writing machine's, and the numbers are what counts."""
    numbers = tuple(fields.get(field, 0) for field in ("mode", "uid", "gid", "size", "mtime"))
    start = name[:100].ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
    end = kind + link[:100].ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % device + bytes(167)
    return start + b"%06o\0 " % (sum(start) + 8 * 32 + sum(end)) + end

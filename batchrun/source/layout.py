"""The layout of a Parquet file: row groups, column chunks and pages.

polars decodes a whole row group at once and does not say how large its columns are. A column of a
large row group is therefore read in small Parquet files, made in memory of a few of its pages at a
time: 114 MiB instead of 232 MiB, and 3 s instead of 12 s, for a row group of 300 MB.

Footer and page headers are Thrift structures in the compact protocol. Field numbers are those of
`parquet.thrift` of the Parquet format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

MAGIC = b"PAR1"
# A larger footer lists many row groups, so each of them is small.
MAX_FOOTER_BYTES = 16 * 1024 * 1024
HEADER_BYTES = 4 * 1024  # more if its statistics contain long values
MAX_HEADER_BYTES = 64 * 1024 * 1024
EXTENT = 0  # key of a structure's start and end; no field has this number
_REPEATED = 2
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
# Types of Thrift.
_BOOLEANS, _BYTE, _I32, _I64, _DOUBLE, _BINARY = (1, 2), 3, 5, 6, 7, 8
_LIST, _SET, _MAP, _STRUCT = 9, 10, 11, 12

# What reading a damaged file can raise.
DAMAGE_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The pages of one column in one row group.

    Attributes:
        size: uncompressed bytes.
        start: offset in the file.
        length: bytes in the file.
        facts: the ColumnMetaData, by field number.
        element: the serialized SchemaElement; None for nested and encrypted columns, whose pages
            do not say how many rows they have.
    """

    size: int
    start: int
    length: int
    facts: Mapping[int, Any]
    element: bytes | None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The number of rows of a row group, and its chunks by column name."""

    rows: int
    chunks: Mapping[str, tuple[Chunk, ...]]

    def size(self, columns: Iterable[str]) -> int:
        """Return the uncompressed bytes of these columns."""
        return sum(chunk.size for name in columns for chunk in self.chunks.get(name, ()))

    def pages_of(self, column: str) -> Chunk | None:
        """Return the chunk of a column if each of its pages contains whole rows, else None."""
        chunks = self.chunks.get(column, ())
        return chunks[0] if len(chunks) == 1 and chunks[0].element is not None else None


def row_groups(path: Path) -> list[RowGroup] | None:
    """Return the row groups of a Parquet file in order; None if its footer cannot be read."""
    try:
        content = _read_footer(path)
        return None if content is None else _groups(content)
    except DAMAGE_ERRORS:
        return None  # polars reports what is wrong with the file


def _read_footer(path: Path) -> bytes | None:
    with path.open("rb") as file:
        end = file.seek(-8, 2)
        (length,) = struct.unpack("<I4x", tail := file.read(8))
        if not tail.endswith(MAGIC) or length > min(end, MAX_FOOTER_BYTES):
            return None
        file.seek(end - length)
        return file.read(length)


def _groups(content: bytes) -> list[RowGroup]:
    facts = read_struct(content)
    flat = dict(_flat_columns(content, facts[2]))
    return [_row_group(group, flat) for group in facts[4]]


def _flat_columns(content: bytes, schema: Collection[Any]) -> Iterable[tuple[bytes, bytes]]:
    """Yield the columns that are not nested, with their serialized schema elements."""
    inside = 0
    for element in list(schema)[1:]:
        children = element.get(5, 0)
        if not inside and not children and element.get(3) != _REPEATED:
            start, end = element[EXTENT]
            yield element[4], content[start:end]
        inside = max(0, inside - 1) + children


def _row_group(group: Mapping[int, Any], flat: Mapping[bytes, bytes]) -> RowGroup:
    chunks: dict[str, tuple[Chunk, ...]] = {}
    for each in group[1]:
        facts = each[3]
        path = facts[3]
        # A chunk may be in another file, or encrypted.
        is_plain = len(path) == 1 and not each.keys() & {1, 8, 9}
        start = min(at for at in (facts[9], facts.get(11)) if at)
        element = flat.get(path[0]) if is_plain else None
        chunk = Chunk(facts[6], start, facts[7], facts, element)
        name = path[0].decode()
        chunks[name] = (*chunks.get(name, ()), chunk)
    return RowGroup(group[3], chunks)


@dataclass(frozen=True, slots=True)
class _Page:
    """A page: offset and length in the file including its header, rows, and uncompressed bytes."""

    kind: int
    start: int
    length: int
    rows: int
    size: int


def column_frames(path: Path, column: str, chunk: Chunk, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a column of a row group in order, in frames of a few pages.

    Args:
        path: the Parquet file.
        column: the name of the column.
        chunk: its pages, with the schema element.
        most_bytes: maximum of uncompressed bytes per frame; a single page may be larger.

    Raises:
        ValueError: when the pages do not match the footer.
        PolarsError: when polars cannot read the pages.
    """
    with path.open("rb") as file:
        dictionary: tuple[_Page, ...] = ()
        gathered: list[_Page] = []
        for page in _pages(file, chunk):
            if page.kind == _DICTIONARY:
                dictionary = (page,)
                continue
            if gathered and sum(each.size for each in gathered) + page.size > most_bytes:
                yield _decode(file, column, chunk, dictionary, gathered)
                gathered = []
            gathered.append(page)
        if gathered:
            yield _decode(file, column, chunk, dictionary, gathered)


def _pages(file: BinaryIO, chunk: Chunk) -> Iterator[_Page]:
    at, end = chunk.start, chunk.start + chunk.length
    while at < end:
        page = _page(file, at)
        if page.kind in (_DATA, _DATA_V2, _DICTIONARY):
            yield page
        at += page.length


def _page(file: BinaryIO, at: int) -> _Page:
    count = HEADER_BYTES
    while True:
        file.seek(at)
        content = file.read(count)
        try:
            facts = read_struct(content)
            break
        except IndexError:
            if len(content) < count or count >= MAX_HEADER_BYTES:
                raise ValueError("a page header is damaged") from None
            count *= 8
    (_, length), kind = facts[0], facts[1]
    header = facts.get({_DATA: 5, _DICTIONARY: 7}.get(kind, 8), {})
    if facts[3] < 0 or facts[2] < 0:
        raise ValueError("a page has a negative length")
    return _Page(kind, at, length + facts[3], header.get(1, 0), facts[2])


def _decode(
    file: BinaryIO, column: str, chunk: Chunk, dictionary: tuple[_Page, ...], pages: list[_Page]
) -> pl.DataFrame:
    parts = [MAGIC]
    for page in (*dictionary, *pages):
        file.seek(page.start)
        parts.append(file.read(page.length))
    footer = _file_footer(chunk, dictionary, pages)
    parts += [footer, len(footer).to_bytes(4, "little"), MAGIC]
    frame = pl.read_parquet(b"".join(parts), use_statistics=False)
    if frame.columns != [column]:
        raise ValueError(f"the pages contain {frame.columns}")
    return frame


def _file_footer(chunk: Chunk, dictionary: tuple[_Page, ...], pages: list[_Page]) -> bytes:
    """Return the footer of a file that consists of these pages."""
    assert chunk.element is not None  # noqa: S101 - checked by the caller
    rows = sum(page.rows for page in pages)
    packed = sum(page.length for page in (*dictionary, *pages))
    size = sum(page.size for page in (*dictionary, *pages))
    first = len(MAGIC) + sum(page.length for page in dictionary)
    path, encodings = chunk.facts[3], chunk.facts[2]
    meta = [
        _field(1, _I32, _integer(chunk.facts[1])),
        _field(2, _LIST, _list(_I32, [_integer(each) for each in encodings])),
        _field(3, _LIST, _list(_BINARY, [_binary(each) for each in path])),
        _field(4, _I32, _integer(chunk.facts[4])),
        *(_field(n, _I64, _integer(v)) for n, v in ((5, rows), (6, size), (7, packed), (9, first))),
        *(_field(11, _I64, _integer(len(MAGIC))) for _ in dictionary),
    ]
    column = _struct([_field(2, _I64, _integer(0)), _field(3, _STRUCT, _struct(meta))])
    group = _struct(
        [
            _field(1, _LIST, _list(_STRUCT, [column])),
            _field(2, _I64, _integer(size)),
            _field(3, _I64, _integer(rows)),
        ]
    )
    root = _struct([_field(4, _BINARY, _binary(b"root")), _field(5, _I32, _integer(1))])
    return _struct(
        [
            _field(1, _I32, _integer(1)),
            _field(2, _LIST, _list(_STRUCT, [root, chunk.element])),
            _field(3, _I64, _integer(rows)),
            _field(4, _LIST, _list(_STRUCT, [group])),
        ]
    )


# Thrift's compact protocol: reading.


def read_struct(content: bytes) -> dict[int, Any]:
    """Read a structure at the start of some bytes: values by field number, and its `EXTENT`.

    Raises:
        ValueError: when it is not a structure.
        IndexError: when the bytes end too early.
    """
    return _ThriftReader(content).struct()


class _ThriftReader:
    """A reader of the compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self) -> dict[int, Any]:
        start, number = self._at, 0
        found: dict[int, Any] = {}
        while head := self._byte():
            kind = head & 0x0F
            number = number + (head >> 4) if head >> 4 else self._integer()
            found[number] = kind == 1 if kind in _BOOLEANS else self._value(kind)
        return {**found, EXTENT: (start, self._at)}

    def _value(self, kind: int) -> Any:  # noqa: ANN401 - any type of the protocol
        if kind == _STRUCT:
            return self.struct()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 0x0F) for _ in range(count)]
        if kind == _MAP:
            return self._map()
        if kind in (*_BOOLEANS, _BYTE):
            return self._byte()
        return self._take(8) if kind == _DOUBLE else self._integer()

    def _map(self) -> list[tuple[Any, Any]]:
        count = self._varint()
        kinds = self._byte() if count else 0
        return [(self._value(kinds >> 4), self._value(kinds & 0x0F)) for _ in range(count)]

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("an integer has more than 64 bits")
        return value | byte << shift

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _take(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._content):
            raise IndexError("the bytes end too early")
        return self._content[self._at - count : self._at]


# Writing. The number of a field is always written in full: longer than necessary, but valid.


def _field(number: int, kind: int, content: bytes) -> bytes:
    return bytes([kind]) + _integer(number) + content


def _struct(parts: list[bytes]) -> bytes:
    return b"".join(parts) + b"\0"


def _list(kind: int, parts: list[bytes]) -> bytes:
    return bytes([0xF0 | kind]) + _varint(len(parts)) + b"".join(parts)


def _binary(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _integer(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])

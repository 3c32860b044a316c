"""The layout of a Parquet file, from its footer: row groups, the chunks of columns in them, pages.

Footer and page headers are Thrift structures in the compact protocol; field numbers are those of the
format's `parquet.thrift`. polars does not say how large a column of a row group is, which decides how
a file can be read in bounded memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

# A larger footer lists so many row groups that each of them is small.
MAX_FOOTER_BYTES = 16 * 1024 * 1024
MAGIC = b"PAR1"
PLACE = 0  # no field has this number: where a structure starts and ends
_BOOLEANS, _BYTE, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = (1, 2), 3, 7, 8, (9, 10), 11, 12
_REPEATED = 2

# What is read of a damaged footer is nonsense of any kind.
NONSENSE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The pages of one column in one row group.

    Attributes:
        size: their bytes without compression.
        start: where they start in the file.
        length: their bytes in the file.
        facts: the chunk's ColumnMetaData, by field number.
        element: the column's SchemaElement as it is written; None where it has parts of its own
            (lists, structures) or is encrypted, so that a page does not say how many rows it has.
    """

    size: int
    start: int
    length: int
    facts: Mapping[int, Any]
    element: bytes | None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """How many rows a row group has, and its chunks by the name of the column."""

    rows: int
    chunks: Mapping[str, tuple[Chunk, ...]]

    def size(self, columns: Iterable[str]) -> int:
        """Return the uncompressed bytes of some columns together."""
        return sum(chunk.size for name in columns for chunk in self.chunks.get(name, ()))

    def pages_of(self, column: str) -> Chunk | None:
        """Return the chunk of a column whose pages hold whole rows, None when they may not."""
        chunks = self.chunks.get(column, ())
        return chunks[0] if len(chunks) == 1 and chunks[0].element is not None else None


def row_groups(path: Path) -> list[RowGroup] | None:
    """Return the row groups of a Parquet file in order; None when its footer does not tell."""
    try:
        content = _footer(path)
        return None if content is None else _read(content)
    except (*NONSENSE, struct.error):
        return None  # whoever reads the file says what is wrong with it


def _footer(path: Path) -> bytes | None:
    with path.open("rb") as file:
        end = file.seek(-8, 2)
        (length,) = struct.unpack("<I4x", tail := file.read(8))
        if not tail.endswith(MAGIC) or length > min(end, MAX_FOOTER_BYTES):
            return None
        file.seek(end - length)
        return file.read(length)


def _read(content: bytes) -> list[RowGroup]:
    facts = read_struct(content)
    flat = dict(_flat_columns(content, facts[2]))
    return [_row_group(group, flat) for group in facts[4]]


def _flat_columns(content: bytes, schema: Collection[Any]) -> Iterable[tuple[bytes, bytes]]:
    """Yield the columns without parts of their own, with their schema elements as written."""
    inside = 0
    for element in list(schema)[1:]:
        children = element.get(5, 0)
        if not inside and not children and element.get(3) != _REPEATED:
            start, end = element[PLACE]
            yield element[4], content[start:end]
        inside = max(0, inside - 1) + children


def _row_group(group: Mapping[int, Any], flat: Mapping[bytes, bytes]) -> RowGroup:
    chunks: dict[str, tuple[Chunk, ...]] = {}
    for each in group[1]:
        facts = each[3]
        path = facts[3]
        # A chunk may lie in another file, or be encrypted.
        is_plain = len(path) == 1 and not each.keys() & {1, 8, 9}
        start = min(at for at in (facts[9], facts.get(11)) if at)
        element = flat.get(path[0]) if is_plain else None
        chunk = Chunk(facts[6], start, facts[7], facts, element)
        name = path[0].decode()
        chunks[name] = (*chunks.get(name, ()), chunk)
    return RowGroup(group[3], chunks)


def read_struct(content: bytes) -> dict[int, Any]:
    """Read the structure that some bytes start with: values by field number, and its `PLACE`.

    Raises:
        ValueError: when it is none.
        IndexError: when the bytes end too early.
    """
    return _Thrift(content).struct()


class _Thrift:
    """Reads the compact protocol."""

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
        return {**found, PLACE: (start, self._at)}

    def _value(self, kind: int) -> Any:  # noqa: ANN401 - whatever the file says
        if kind == _STRUCT:
            return self.struct()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in _LISTS:
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

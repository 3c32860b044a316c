"""Append the row groups of Parquet files to each other, as they are.

A writer of Parquet holds what it knows of each row group until the end: polars about 100 KB for each of
10,000 rows with 45 columns. Here pages are copied, and of the footers only the offsets are changed.

A footer is a Thrift structure in the compact protocol. Field numbers are those of `parquet.thrift` of the
Parquet format.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MAGIC = b"PAR1"
COPY_BYTES = 64 * 1024
# Types of Thrift.
_BOOLEANS, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY = (1, 2), 3, 4, 5, 6, 7, 8
_LIST, _SET, _MAP, _STRUCT = 9, 10, 11, 12
# Fields of FileMetaData.
_ROWS, _GROUPS, _CREATED_BY = 3, 4, 6
# Fields of RowGroup by their paths: offsets in the file, and the number of the group.
_COLUMNS, _META = 1, 3
_OFFSETS = {
    (5,),
    *((_COLUMNS, number) for number in (2, 4, 6)),
    *((_COLUMNS, _META, number) for number in (9, 10, 11, 14)),
}
_ORDINAL = (7,)
_MOST_ORDINAL = 2**15 - 1  # it has 16 bits, and readers need it for encrypted files only


def append_row_groups(path: Path, parts: Sequence[Path]) -> bool:
    """Write the row groups of Parquet files, in order, into one file.

    Args:
        path: the file.
        parts: at least one file; columns, types and metadata of all must be the same.

    Returns:
        Whether they are. Otherwise what has been written is of no use.

    Raises:
        OSError: when a file cannot be read or written, or is damaged.
    """
    first: Mapping[int, tuple[int, bytes]] = {}
    rows = groups = 0
    with path.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as listed:
        file.write(MAGIC)
        for part in parts:
            with part.open("rb") as content:
                footer, end = _footer(content)
                found = _shifted(footer, part, file.tell() - len(MAGIC), groups)
                first = first or found.fields
                if _alike(first) != _alike(found.fields):
                    return False
                rows += found.rows
                groups += found.groups
                listed.write(found.listed)
                content.seek(len(MAGIC))
                _copy(content, file, end - len(MAGIC))
        start = file.tell()
        for number in sorted({*first, _ROWS, _GROUPS}):
            if number == _ROWS:
                file.write(_head(_ROWS, _I64) + _integer(rows))
            elif number == _GROUPS:
                file.write(_head(_GROUPS, _LIST) + bytes([0xF0 | _STRUCT]) + _varint(groups))
                listed.seek(0)
                shutil.copyfileobj(listed, file, COPY_BYTES)
            else:
                kind, value = first[number]
                file.write(_head(number, kind) + value)
        file.write(b"\0")
        length = file.tell() - start
        if length >= 2**32:
            return False  # more than a footer can have
        file.write(struct.pack("<I", length) + MAGIC)
    return True


def _alike(fields: Mapping[int, tuple[int, bytes]]) -> dict[int, tuple[int, bytes]]:
    return {number: value for number, value in fields.items() if number != _CREATED_BY}


def _damaged(name: object) -> OSError:
    return OSError(f"{name}: is damaged, or not a Parquet file")


def _footer(file: BinaryIO) -> tuple[bytes, int]:
    """Return the footer of a file, and where it begins."""
    size = file.seek(0, 2)
    if size < 2 * len(MAGIC) + 4:
        raise _damaged(file.name)
    file.seek(size - 8)
    (length,), mark = struct.unpack("<I", file.read(4)), file.read(4)
    start = size - 8 - length
    if mark != MAGIC or start < len(MAGIC):
        raise _damaged(file.name)
    file.seek(start)
    return file.read(length), start


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        if not (content := source.read(min(count, COPY_BYTES))):
            raise _damaged(source.name)
        target.write(content)
        count -= len(content)


@dataclass(frozen=True, slots=True)
class _Footer:
    """What a footer says.

    Attributes:
        rows: of the file.
        groups: number of row groups.
        listed: the row groups, one after the other.
        fields: all others, with their types, by number.
    """

    rows: int
    groups: int
    listed: bytes
    fields: Mapping[int, tuple[int, bytes]]


def _shifted(footer: bytes, part: Path, shift: int, groups: int) -> _Footer:
    """Return a footer for pages in another place.

    Args:
        footer: as it is in the file.
        part: the file.
        shift: by how many bytes its pages are moved.
        groups: how many row groups come before its own.
    """

    def changed(path: tuple[int, ...], value: int) -> int:
        if path in _OFFSETS:
            return value + shift if value else 0  # some writers leave an offset at 0
        return min(value + groups, _MOST_ORDINAL) if path == _ORDINAL else value

    walker = _Walker(footer)
    fields: dict[int, tuple[int, bytes]] = {}
    rows = count = number = 0
    listed = b""
    try:
        while field := walker.field(number):
            number, kind = field
            if number == _ROWS:
                rows = walker.integer()
            elif number == _GROUPS:
                count, _ = walker.list_head()
                listed = b"".join(walker.copied(_STRUCT, (), changed) for _ in range(count))
            else:
                fields[number] = kind, walker.copied(kind, (number,), lambda _path, value: value)
    except (IndexError, ValueError, RecursionError):
        raise _damaged(part) from None
    return _Footer(rows, count, listed, fields)


class _Walker:
    """Reads the compact protocol and writes it again."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def field(self, before: int) -> tuple[int, int] | None:
        """Read the head of a field: its number and its type; None at the end of a structure."""
        head = self._byte()
        if not head:
            return None
        return (before + (head >> 4) if head >> 4 else self.integer()), head & 0x0F

    def list_head(self) -> tuple[int, int]:
        """Read how many values a list has, and their type."""
        head = self._byte()
        return (head >> 4 if head >> 4 < 15 else self._varint()), head & 0x0F

    def integer(self) -> int:
        """Read a signed integer."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def copied(
        self, kind: int, path: tuple[int, ...], changed: Callable[[tuple[int, ...], int], int]
    ) -> bytes:
        """Return a value, with its integers as `changed` gives them for their paths of field numbers."""
        if kind == _STRUCT:
            return self._copied_struct(path, changed)
        if kind in (_LIST, _SET):
            start = self._at
            count, of_values = self.list_head()
            head = self._content[start : self._at]
            return head + b"".join(self.copied(of_values, path, changed) for _ in range(count))
        if kind in (_I16, _I32, _I64):
            return _integer(changed(path, self.integer()))
        start = self._at
        if kind == _BINARY:
            length = self._varint()
            self._at += length
        elif kind == _DOUBLE:
            self._at += 8
        elif kind in (*_BOOLEANS, _BYTE):
            self._at += 1
        else:
            raise ValueError(f"a footer of Parquet has a value of type {kind}")
        if self._at > len(self._content):
            raise IndexError
        return self._content[start : self._at]

    def _copied_struct(
        self, path: tuple[int, ...], changed: Callable[[tuple[int, ...], int], int]
    ) -> bytes:
        parts, number = [], 0
        while True:
            start = self._at
            field = self.field(number)
            parts.append(self._content[start : self._at])
            if field is None:
                return b"".join(parts)
            number, kind = field
            if kind not in _BOOLEANS:  # the head of a field has its value
                parts.append(self.copied(kind, (*path, number), changed))

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("an integer of a Parquet footer has more than 64 bits")
        return value | byte << shift

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]


def _head(number: int, kind: int) -> bytes:
    """Return the head of a field; its number is written in full."""
    return bytes([kind]) + _integer(number)


def _integer(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])

"""Thrift's compact protocol, in which a Parquet file describes itself: its footer and the heads of its pages.

Field numbers are those of `parquet.thrift` of the Parquet format.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

MAGIC = b"PAR1"
# Types of values.
I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
_BOOLEANS, _BYTE, _DOUBLE, _SET, _MAP = (1, 2), 3, 7, 10, 11

# What reading a damaged file can raise.
DAMAGE_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error),
)


class ThriftStruct(dict[int, Any]):
    """The values of a structure by field number.

    Attributes:
        start: offset of its first byte.
        end: offset after its last byte.
        places: where the value of each field is, from its first byte until after its last.
    """

    __slots__ = ("end", "places", "start")

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = self.end = start
        self.places: dict[int, tuple[int, int]] = {}


def footer_place(file: BinaryIO) -> tuple[int, int]:
    """Return where the footer of a Parquet file begins, and its length.

    Raises:
        OSError: when the file is damaged, or not a Parquet file.
    """
    size = file.seek(0, 2)
    if size >= 2 * len(MAGIC) + 4:
        file.seek(size - 8)
        (length,), mark = struct.unpack("<I", file.read(4)), file.read(4)
        if mark == MAGIC and size - 8 - length >= len(MAGIC):
            return size - 8 - length, length
    raise OSError(f"{name_of(file)}: is damaged, or not a Parquet file")


def name_of(file: BinaryIO) -> str:
    """Return the name of a file for messages; it may be in memory."""
    return str(getattr(file, "name", "a table in memory"))


def read_struct(content: bytes) -> ThriftStruct:
    """Read a structure at the start of some bytes.

    Raises:
        ValueError: when it is not a structure.
        IndexError: when the bytes end too early.
    """
    return _Reader(content).struct()


class _Reader:
    """Reads values one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self) -> ThriftStruct:
        number = 0
        found = ThriftStruct(self._at)
        while head := self._byte():
            kind = head & 0x0F
            number = number + (head >> 4) if head >> 4 else self._integer()
            start = self._at
            # The head of a field has the value of a boolean.
            found[number] = kind == 1 if kind in _BOOLEANS else self._value(kind)
            found.places[number] = start, self._at
        found.end = self._at
        return found

    def _value(self, kind: int) -> Any:  # noqa: ANN401 - any type of the protocol
        if kind == STRUCT:
            return self.struct()
        if kind == BINARY:
            return self._take(self._varint())
        if kind in (LIST, _SET):
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


def field(number: int, kind: int, value: bytes) -> bytes:
    """Encode a field of a structure."""
    return bytes([kind]) + integer(number) + value


def structure(fields: list[bytes]) -> bytes:
    """Encode a structure of fields."""
    return b"".join(fields) + b"\0"


def list_head(kind: int, count: int) -> bytes:
    """Encode the head of a list, which precedes its values."""
    return bytes([0xF0 | kind]) + _unsigned(count)


def list_of(kind: int, values: list[bytes]) -> bytes:
    """Encode a list of values of one type."""
    return list_head(kind, len(values)) + b"".join(values)


def binary(content: bytes) -> bytes:
    """Encode bytes or text with their length."""
    return _unsigned(len(content)) + content


def integer(value: int) -> bytes:
    """Encode a signed integer (zigzag)."""
    return _unsigned(value << 1 if value >= 0 else (-value << 1) - 1)


def _unsigned(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])

"""One column of a row group, read a few pages at a time.

polars reads a column of a row group as a whole, however few of its rows are asked for, and most
programs write one row group for up to a million rows: a column of images is then read at once. So its
pages are cut out of the file, a few at a time, and handed to polars as a small Parquet file each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import polars as pl

from batchrun.source.footer import MAGIC, read_struct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchrun.source.footer import Chunk

HEADER_BYTES = 4 * 1024  # more where its statistics quote long values
MAX_HEADER_BYTES = 64 * 1024 * 1024
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


@dataclass(frozen=True, slots=True)
class _Page:
    """Where a page with its header stands in the file; how many rows and uncompressed bytes it has."""

    kind: int
    start: int
    length: int
    rows: int
    size: int


def column_frames(path: Path, column: str, chunk: Chunk, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a column of a row group in order, in frames of a few pages.

    Args:
        path: the Parquet file.
        column: its name.
        chunk: its pages, with their schema element.
        most_bytes: how many uncompressed bytes a frame has at most, when a page is not larger.

    Raises:
        ValueError: when the pages are not what the footer says.
        PolarsError: when polars cannot read them.
    """
    with path.open("rb") as file:
        dictionary: tuple[_Page, ...] = ()
        gathered: list[_Page] = []
        for page in _pages(file, chunk):
            if page.kind == _DICTIONARY:
                dictionary = (page,)
                continue
            if gathered and sum(each.size for each in gathered) + page.size > most_bytes:
                yield _decoded(file, column, chunk, dictionary, gathered)
                gathered = []
            gathered.append(page)
        if gathered:
            yield _decoded(file, column, chunk, dictionary, gathered)


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
                raise ValueError("a page has no header that can be read") from None
            count *= 8
    (_, length), kind = facts[0], facts[1]
    header = facts.get({_DATA: 5, _DICTIONARY: 7}.get(kind, 8), {})
    if facts[3] < 0 or facts[2] < 0:
        raise ValueError("a page has a negative length")
    return _Page(kind, at, length + facts[3], header.get(1, 0), facts[2])


def _decoded(
    file: BinaryIO, column: str, chunk: Chunk, dictionary: tuple[_Page, ...], pages: list[_Page]
) -> pl.DataFrame:
    parts = [MAGIC]
    for page in (*dictionary, *pages):
        file.seek(page.start)
        parts.append(file.read(page.length))
    footer = _footer(chunk, dictionary, pages)
    parts += [footer, len(footer).to_bytes(4, "little"), MAGIC]
    frame = pl.read_parquet(b"".join(parts), use_statistics=False)
    if frame.columns != [column]:
        raise ValueError(f"the pages are of {frame.columns}")
    return frame


def _footer(chunk: Chunk, dictionary: tuple[_Page, ...], pages: list[_Page]) -> bytes:
    """Return the footer of a file of these pages, in the order in which they are written."""
    assert chunk.element is not None  # noqa: S101 - the caller looked
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


# Thrift's compact protocol. A field's number is written in full, which is longer and always right.


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

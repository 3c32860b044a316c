"""Append the row groups of the Parquet files of parts to each other, without decoding them.

A Parquet writer keeps the metadata of each row group in memory until the end: polars about 100 KB for each of
10,000 rows with 45 columns. Here pages are copied, and only the offsets in the footers are changed.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from batchrun import output
from batchrun.source import thrift
from batchrun.source.thrift import DAMAGE_ERRORS, MAGIC, ThriftStruct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

COPY_BYTES = 64 * 1024
# Fields of FileMetaData.
_ROWS, _GROUPS, _CREATED_BY = 3, 4, 6
# Fields of RowGroup, ColumnChunk and ColumnMetaData: offsets in the file, and the number of the group.
_COLUMNS, _META = 1, 3
_GROUP_OFFSETS, _CHUNK_OFFSETS, _META_OFFSETS = (5,), (2, 4, 6), (9, 10, 11, 14)
_ORDINAL = 7
_MOST_ORDINAL = 2**15 - 1  # it has 16 bits, and readers need it for encrypted files only


def concatenate(parts: Sequence[Path], path: Path) -> None:
    """Write the rows of Parquet files with the same columns, one file after the other, into one.

    Raises:
        OutputError: when it cannot be written; the earlier file is unchanged.
    """
    with output.replacing(path) as temporary:
        if not _append(temporary, parts):
            # Files of different versions of polars: they are read and written again.
            output.write_concatenated(temporary, parts)


def _append(path: Path, parts: Sequence[Path]) -> bool:
    """Write the row groups of Parquet files, in order, into one file.

    Args:
        path: the file.
        parts: at least one file; columns, types and metadata of all must be the same.

    Returns:
        Whether they are the same. If not, the file that was written is useless.

    Raises:
        OSError: when a file cannot be read or written, or is damaged.
    """
    first: _Footer | None = None
    rows = groups = 0
    with path.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as listed:
        file.write(MAGIC)
        for part in parts:
            with part.open("rb") as content:
                found = _footer(content, file.tell() - len(MAGIC), groups)
                first = first or found
                if first.others != found.others:
                    return False
                listed.write(found.listed)
                rows += found.rows
                groups += len(found.facts[_GROUPS])
                content.seek(len(MAGIC))
                _copy(content, file, found.start - len(MAGIC))
        assert first is not None  # noqa: S101 - there is a part
        start = file.tell()
        at = 0
        for number, (begin, end) in sorted(first.facts.places.items()):
            if number in (_ROWS, _GROUPS):
                file.write(first.content[at:begin])
                at = end
            if number == _ROWS:
                file.write(thrift.integer(rows))
            elif number == _GROUPS:
                file.write(thrift.list_head(thrift.STRUCT, groups))
                listed.seek(0)
                shutil.copyfileobj(listed, file, COPY_BYTES)
        file.write(first.content[at : first.facts.end])
        length = file.tell() - start
        if length >= 2**32:
            return False  # more than a footer can have
        file.write(struct.pack("<I", length) + MAGIC)
    return True


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        if not (content := source.read(min(count, COPY_BYTES))):
            raise _damaged(source)
        target.write(content)
        count -= len(content)


def _damaged(file: BinaryIO) -> OSError:
    return OSError(f"{file.name}: is damaged, or not a Parquet file")


@dataclass(frozen=True, slots=True)
class _Footer:
    """The footer of a part.

    Attributes:
        content: its bytes in the file.
        start: its offset in the file.
        facts: fields of the FileMetaData.
        others: the fields other than those of rows, row groups and the writer.
        rows: number of rows of the part.
        listed: the serialized row groups, for pages at another offset.
    """

    content: bytes
    start: int
    facts: ThriftStruct
    others: Mapping[int, bytes]
    rows: int
    listed: bytes


def _footer(file: BinaryIO, shift: int, groups: int) -> _Footer:
    """Read the footer of a part.

    Args:
        file: the part.
        shift: number of bytes by which its pages move.
        groups: number of row groups before its own.
    """
    start, length = thrift.footer_place(file)
    file.seek(start)
    content = file.read(length)
    try:
        facts = thrift.read_struct(content)
        others = {
            number: content[begin:end]
            for number, (begin, end) in facts.places.items()
            if number not in (_ROWS, _GROUPS, _CREATED_BY)
        }
        listed = b"".join(_moved(content, group, shift, groups) for group in facts[_GROUPS])
        rows = facts[_ROWS]
    except DAMAGE_ERRORS:
        raise _damaged(file) from None
    return _Footer(content, start, facts, others, rows, listed)


def _moved(content: bytes, group: ThriftStruct, shift: int, groups: int) -> bytes:
    """Return a row group whose pages are moved, after so many other row groups."""
    written, at = [], group.start
    for begin, end, value in sorted(_changed(group, shift, groups)):
        written += [content[at:begin], thrift.integer(value)]
        at = end
    return b"".join([*written, content[at : group.end]])


def _changed(group: ThriftStruct, shift: int, groups: int) -> Iterator[tuple[int, int, int]]:
    """Yield the positions of the numbers that change, and their new values."""
    if _ORDINAL in group:
        yield *group.places[_ORDINAL], min(group[_ORDINAL] + groups, _MOST_ORDINAL)
    chunks = group[_COLUMNS]
    found = [(group, _GROUP_OFFSETS), *((chunk, _CHUNK_OFFSETS) for chunk in chunks)]
    found += [(chunk[_META], _META_OFFSETS) for chunk in chunks if _META in chunk]
    for each, offsets in found:
        for number in offsets:
            if each.get(number):  # some writers leave an offset at 0
                yield *each.places[number], each[number] + shift

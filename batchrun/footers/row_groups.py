"""Append the row groups of Parquet files to each other, without decoding them.

A Parquet writer keeps the metadata of each row group in memory until the end: polars about 100 KB for each of
10,000 rows with 45 columns. Here pages are copied, and only the offsets in the footers are changed.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from batchrun.footers import thrift
from batchrun.footers.thrift import DAMAGE_ERRORS, MAGIC, ThriftStruct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

COPY_BYTES = 64 * 1024
MOST_FOOTER_BYTES = 2**32 - 1
# Fields of FileMetaData.
_ROWS, _GROUPS, _CREATED_BY = 3, 4, 6
# Fields of RowGroup, ColumnChunk and ColumnMetaData: offsets in the file, and the number of the group.
_COLUMNS, _META = 1, 3
_GROUP_OFFSETS, _CHUNK_OFFSETS, _META_OFFSETS = (5,), (2, 4, 6), (9, 10, 11, 14)
_ORDINAL = 7
_MOST_ORDINAL = 2**15 - 1  # it has 16 bits, and readers need it for encrypted files only


class RowGroupFile:
    """A Parquet file that gets its row groups from others.

    Args:
        file: an empty file.
        listed: an empty temporary file for the descriptions of the row groups, which belong into the footer.
    """

    def __init__(self, file: BinaryIO, listed: BinaryIO) -> None:
        self._file = file
        self._listed = listed
        self._first: _Footer | None = None
        self._rows = self._groups = 0
        file.write(MAGIC)

    def append(self, content: BinaryIO) -> bool:
        """Append the row groups of a Parquet file.

        Returns:
            Whether its columns, types and metadata are those of the first one; if not, nothing is appended.

        Raises:
            OSError: when it cannot be read or is damaged, or this one cannot be written.
        """
        found = _footer(content, self._file.tell() - len(MAGIC), self._groups)
        self._first = self._first or found
        if self._first.others != found.others:
            return False
        self._listed.write(found.listed)
        self._rows += found.rows
        self._groups += len(found.facts[_GROUPS])
        content.seek(len(MAGIC))
        _copy(content, self._file, found.start - len(MAGIC))
        return True

    def finish(self) -> None:
        """Write the footer, after at least one file has been appended.

        Raises:
            OSError: when that is not possible.
        """
        file, first, start, at = self._file, self._first, self._file.tell(), 0
        if first is None:
            raise OSError("a Parquet file needs columns")
        for number, (begin, end) in sorted(first.facts.places.items()):
            if number in (_ROWS, _GROUPS):
                file.write(first.content[at:begin])
                at = end
            if number == _ROWS:
                file.write(thrift.integer(self._rows))
            elif number == _GROUPS:
                file.write(thrift.list_head(thrift.STRUCT, self._groups))
                self._listed.seek(0)
                shutil.copyfileobj(self._listed, file, COPY_BYTES)
        file.write(first.content[at : first.facts.end])
        length = file.tell() - start
        if length > MOST_FOOTER_BYTES:
            raise OSError(
                "the row groups exceed the size limit of a Parquet file; write .csv or .jsonl"
            )
        file.write(struct.pack("<I", length) + MAGIC)


@contextmanager
def row_group_file(path: Path) -> Iterator[RowGroupFile]:
    """Open a file that gets row groups; it is complete after the block."""
    with path.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as listed:
        whole = RowGroupFile(file, listed)
        yield whole
        whole.finish()


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        if not (content := source.read(min(count, COPY_BYTES))):
            raise _damaged(source)
        target.write(content)
        count -= len(content)


def _damaged(file: BinaryIO) -> OSError:
    return OSError(f"{thrift.name_of(file)}: is damaged, or not a Parquet file")


@dataclass(frozen=True, slots=True)
class _Footer:
    """The footer of a file.

    Attributes:
        content: its bytes in the file.
        start: its offset in the file.
        facts: fields of the FileMetaData.
        others: the encoded fields except those of rows, row groups and the writer.
        rows: number of rows.
        listed: the encoded row groups, with the offsets of the moved pages.
    """

    content: bytes
    start: int
    facts: ThriftStruct
    others: Mapping[int, bytes]
    rows: int
    listed: bytes


def _footer(file: BinaryIO, shift: int, groups: int) -> _Footer:
    """Read the footer of a file.

    Args:
        file: with the footer.
        shift: number of bytes by which its pages are moved.
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
    """Return an encoded row group whose pages are moved by `shift` bytes, after `groups` other row groups."""
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

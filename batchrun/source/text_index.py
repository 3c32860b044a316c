"""An index of the rows of a text file, so that a part is read without the rows before it.

One pass over the file finds blocks of a few megabytes, each of whole rows.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.source import json_lines, readers
from batchrun.source.csv_text import checked_blocks
from batchrun.source.table_faults import open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from batchrun.source.tables import TableFile


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Consecutive rows of a text file.

    Attributes:
        offset: offset of its first byte in the uncompressed text.
        size: size in bytes.
        first: number of its first row in the file, from 0.
        rows: number of rows.
    """

    offset: int
    size: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class TextIndex:
    """The blocks of a file, in order; at least one."""

    blocks: tuple[TextBlock, ...]

    @property
    def rows(self) -> int:
        """Number of rows of the file."""
        last = self.blocks[-1]
        return last.first + last.rows

    def after(self, skipped: int) -> tuple[TextBlock, ...]:
        """Return the blocks with rows at or after this row number."""
        number = bisect_right(self.blocks, skipped, key=lambda block: block.first)
        return self.blocks[max(0, number - 1) :]


def index_of(table: TableFile, columns: pl.Schema) -> TextIndex:
    """Return the index of a CSV or JSON Lines file. Reads the whole file.

    Raises:
        JobError: when it cannot be read.
    """
    blocks: list[TextBlock] = []
    offset = rows = 0
    for text in _texts(table):
        if table.dialect is None:
            found = sum(1 for line in text.split(b"\n") if line.strip())
        else:
            found = _csv_frame(table, text, columns, has_header=not blocks).height
        blocks.append(TextBlock(offset, len(text), rows, found))
        offset, rows = offset + len(text), rows + found
    return TextIndex(tuple(blocks))


def _texts(table: TableFile) -> Iterator[bytes]:
    """Yield the text of a file in blocks that end with a row."""
    if table.dialect is not None:
        yield from checked_blocks(table.place, table.dialect)
        return
    with open_text(table.place) as file:
        while lines := file.readlines(json_lines.BLOCK_BYTES):
            yield b"".join(lines)


def csv_frames(
    table: TableFile, columns: pl.Schema, index: TextIndex, skipped: int, wanted: list[str]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a CSV file in order, without the first `skipped`, in frames of a few megabytes.

    Args:
        table: the file.
        columns: all columns of the file.
        index: index of the file.
        skipped: number of rows to leave out.
        wanted: the columns to read.

    Raises:
        JobError: when it cannot be read.
    """
    with readers.errors_of(table), open_text(table.place) as file:
        for block in index.after(skipped):
            file.seek(block.offset)
            frame = _csv_frame(table, file.read(block.size), columns, has_header=not block.offset)
            yield frame.select(wanted)[max(0, skipped - block.first) :]


def _csv_frame(
    table: TableFile, text: bytes, columns: pl.Schema, *, has_header: bool
) -> pl.DataFrame:
    given = None if has_header else columns
    with readers.errors_of(table):
        return readers.scan_text(table, io.BytesIO(text), given).collect(engine="streaming")


def lines_after(path: Path, index: TextIndex, skipped: int) -> Iterator[list[bytes]]:
    """Yield the lines of a JSON Lines file that are not blank, without the first `skipped`, in blocks.

    Raises:
        JobError: when it cannot be read.
    """
    start = index.after(skipped)[0]
    unwanted = skipped - start.first
    for lines in json_lines.blocks(path, start.offset):
        yield lines[unwanted:]
        unwanted = max(0, unwanted - len(lines))

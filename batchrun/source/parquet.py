"""Parquet: the rows of a file in frames that are bounded in rows and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.source.footer import MAGIC, NONSENSE, Chunk, RowGroup, read_struct, row_groups
from batchrun.source.inputs import FileStamp, explained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


TARGET_FRAME_BYTES = 8 * 1024 * 1024
MAX_FRAME_ROWS = 50_000
# Of a row group whose columns take more than this, the long ones are read page by page.
LARGE_GROUP_BYTES = 64 * 1024 * 1024
PROBE_ROWS = 16
ROW_NUMBER = "\0row"  # no column of a Parquet file is called so


def scan(path: Path) -> pl.LazyFrame:
    """Return a file as a lazy frame; its name is not taken for a pattern."""
    return pl.scan_parquet(path, glob=False)


def count(path: Path, where: pl.Expr | None = None) -> int:
    """Return how many rows a file says that it has, or has that satisfy a condition.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        if where is not None and _is_large(path, names := where.meta.root_names()):
            return sum(frame.height for frame in frames(path, names[:1], where))
        kept = scan(path) if where is None else scan(path).filter(where)
        return int(kept.select(pl.len()).collect(engine="streaming").item())


def frames(path: Path, columns: list[str], where: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, in bounded frames; with a condition, those that satisfy it.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        if where is None:
            yield from _every_frame(path, columns)
        elif _is_large(path, needed := list({*columns, *where.meta.root_names()})):
            for frame in _every_frame(path, needed):
                yield frame.filter(where).select(columns)
        else:
            yield from _picked(path, columns, _row_numbers(path, where))


def _picked(path: Path, columns: list[str], numbers: pl.Series) -> Iterator[pl.DataFrame]:
    """Read the rows with these numbers: nothing where there is none of them."""
    lazy = scan(path).select(columns)
    done = 0
    for first, rows in _spans(_groups(path), columns):
        end = int(numbers.search_sorted(first + rows))
        if end > done:
            frame = lazy.slice(first, rows).collect(engine="streaming")
            yield frame[(numbers[done:end] - first)]
        done = end


def _row_numbers(path: Path, where: pl.Expr) -> pl.Series:
    """Return the numbers of the rows that satisfy a condition, reading no more than it needs."""
    numbered = pl.scan_parquet(path, glob=False, row_index_name=ROW_NUMBER)
    return numbered.filter(where).select(ROW_NUMBER).collect(engine="streaming").to_series()


def _every_frame(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    first = 0
    for is_large, run in groupby(_groups(path), lambda group: _is_large_group(group, columns)):
        groups = list(run)
        if is_large:
            for number, group in enumerate(groups):
                start = first + sum(each.rows for each in groups[:number])
                yield from _paged(path, columns, start, group)
        else:
            yield from _sliced(path, columns, first, groups)
        first += sum(group.rows for group in groups)


def _sliced(
    path: Path, columns: Sequence[str], first: int, groups: Sequence[RowGroup]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of consecutive row groups as polars reads them."""
    lazy = scan(path).select(columns)
    for start, rows in _spans(groups, columns):
        yield lazy.slice(first + start, rows).collect(engine="streaming")


def _paged(
    path: Path, columns: Sequence[str], first: int, group: RowGroup
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a large row group, its long texts and bytes page by page."""
    kinds = scan(path).collect_schema()
    long = [
        name
        for name in columns
        if kinds[name] in (pl.String, pl.Binary) and group.size([name]) > TARGET_FRAME_BYTES
    ]
    parts = [_Part(_column(path, name, first, group)) for name in long]
    if rest := [name for name in columns if name not in long]:
        parts.append(_Part(_sliced(path, rest, first, [group])))
    left = group.rows
    while left:
        rows = min(left, *(part.ready() for part in parts))
        yield pl.concat([part.take(rows) for part in parts], how="horizontal").select(columns)
        left -= rows


def _column(path: Path, name: str, first: int, group: RowGroup) -> Iterator[pl.DataFrame]:
    """Yield one column of a row group, by its pages as long as these can be told apart."""
    done = 0
    try:
        if (chunk := group.pages_of(name)) is not None:
            for frame in column_frames(path, name, chunk, TARGET_FRAME_BYTES):
                yield frame
                done += frame.height
    except (*NONSENSE, PolarsError, PanicException):
        pass  # polars may know better, or says what is wrong with the file
    for start, rows in _spans([group], [name]):
        if start + rows > done:
            skipped = max(0, done - start)
            lazy = scan(path).select(name).slice(first + start + skipped, rows - skipped)
            yield lazy.collect(engine="streaming")


class _Part:
    """Some columns of a row group, of which as many rows are taken as all parts have ready."""

    def __init__(self, frames: Iterator[pl.DataFrame]) -> None:
        self._frames = frames
        self._held = pl.DataFrame()

    def ready(self) -> int:
        while not self._held.height:
            found = next(self._frames, None)
            if found is None:
                raise ValueError("a column has fewer rows than its row group")
            self._held = found
        return self._held.height

    def take(self, rows: int) -> pl.DataFrame:
        taken, self._held = self._held.head(rows), self._held.slice(rows)
        return taken


def _spans(groups: Sequence[RowGroup], columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each frame: small groups joined, others cut."""
    start = end = size = 0
    for group in groups:
        added = group.size(columns)
        if size + added > TARGET_FRAME_BYTES or end - start + group.rows > MAX_FRAME_ROWS:
            yield from [(start, end - start)] if end > start else ()
            start, size = end, 0
        end, size = end + group.rows, size + added
        rows = end - start
        parts = max(math.ceil(size / TARGET_FRAME_BYTES), math.ceil(rows / MAX_FRAME_ROWS))
        if parts > 1:
            step = math.ceil(rows / min(parts, rows))
            yield from ((first, min(step, end - first)) for first in range(start, end, step))
            start, size = end, 0
    if end > start:
        yield start, end - start


def _is_large_group(group: RowGroup, columns: Sequence[str]) -> bool:
    return group.size(columns) > LARGE_GROUP_BYTES


def _is_large(path: Path, columns: Sequence[str]) -> bool:
    return any(_is_large_group(group, columns) for group in _groups(path))


def _groups(path: Path) -> Sequence[RowGroup]:
    return _groups_of(path, FileStamp.of(path))


@lru_cache(maxsize=64)
def _groups_of(path: Path, _stamp: FileStamp) -> Sequence[RowGroup]:
    """Return the row groups of a file; where they are not told, all rows as one by a few of them."""
    found = row_groups(path)
    if found is not None:
        return [group for group in found if group.rows > 0]
    total = count(path)
    probe = scan(path).slice(0, PROBE_ROWS).collect(engine="streaming")
    each = total / max(1, probe.height)
    chunks = {
        column.name: (Chunk(math.ceil(column.estimated_size() * each), 0, 0, {}, None),)
        for column in probe
    }
    return [RowGroup(total, chunks)] if total else []


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

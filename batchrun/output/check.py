"""Compares a file of the outputs with the content that would be written now: by values, chunk by chunk.

A file that another program saved again is correct if it has the same values. In text formats both sides
are read by the same reader, so that only differences count that the format can express.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from batchrun.errors import Flaw, short
from batchrun.output.file_readers import FILE_ERRORS, reader_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.output.file_readers import FileReader
    from batchrun.output.frames import FileContents

LONGEST_VALUE = 60


def differences(path: Path, contents: FileContents) -> Iterator[Flaw]:
    """Yield the flaws of a file: one for each column that differs, or one for the file.

    Raises:
        BatchrunError: when the expected content cannot be determined.
    """
    wanted = contents.frames(list(contents.schema))
    try:
        reader = reader_of(path, contents)
        if (problem := reader.schema_flaw()) is not None:
            yield Flaw(problem)
            return
    except FILE_ERRORS as error:
        yield _unreadable(error)
        return
    yield from _Comparison(reader, contents.key).flaws(wanted)


def _unreadable(error: BaseException) -> Flaw:
    lines = str(error).strip().splitlines()
    return Flaw(f"cannot be read: {lines[0] if lines else type(error).__name__}")


class _Comparison:
    """The differences between a file and its expected rows."""

    def __init__(self, reader: FileReader, key: Sequence[str]) -> None:
        self._reader = reader
        self._key = key
        self._by_column: dict[str, Flaw] = {}
        self._first: tuple[int, str] | None = None  # the first row that differs

    def flaws(self, frames: Iterator[pl.DataFrame]) -> Iterator[Flaw]:
        """Yield the differences; for a file with too few or too many rows, only that."""
        read = total = 0
        for frame in frames:
            try:
                wanted, found = self._reader.pair(frame)
            except FILE_ERRORS as error:
                yield _unreadable(error)
                return
            self._compare(total, frame, wanted.head(found.height), found)
            if found.height < frame.height and self._first is None:
                self._first = total + found.height, self._name(frame, found.height)
            total += frame.height
            read += found.height
        try:
            read += self._reader.rest()
        except FILE_ERRORS as error:
            yield _unreadable(error)
            return
        if read == total:
            yield from self._by_column.values()
        else:
            yield Flaw(f"has {read:,} rows, and there should be {total:,}; {self._where(total)}")

    def _where(self, total: int) -> str:
        row, name = self._first or (total, "")
        return f"the first that differs is row {row + 1:,}{f' ({short(name)})' if name else ''}"

    def _compare(
        self, start: int, frame: pl.DataFrame, wanted: pl.DataFrame, found: pl.DataFrame
    ) -> None:
        for name in wanted.columns:
            should, has = wanted.get_column(name), found.get_column(name)
            if not (rows := _differing(should, has)):
                continue
            row = self._name(frame, rows[0])
            if self._first is None or start + rows[0] < self._first[0]:
                self._first = start + rows[0], row
            flaw = self._by_column.get(name)
            if flaw is None:
                is_now, should_be = self._shown(has[rows[0]]), self._shown(should[rows[0]])
                problem = f"{name} is {is_now}, and the checkpoint gives {should_be}"
                flaw = Flaw(problem, row, -1)
            self._by_column[name] = Flaw(flaw.problem, flaw.row, flaw.others + len(rows))

    def _shown(self, value: object) -> str:
        if isinstance(value, pl.Series):
            value = value.to_list()
        written = str(value) if self._reader.is_written else repr(value)
        text = "empty" if value is None else written
        return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"

    def _name(self, frame: pl.DataFrame, row: int) -> str:
        parts = [str(frame.get_column(name)[row]) for name in self._key if name in frame.columns]
        return ", attempt ".join(parts)


def _differing(wanted: pl.Series, found: pl.Series) -> list[int]:
    if wanted.equals(found):
        return []
    pairs = zip(wanted.to_list(), found.to_list(), strict=True)
    # As text, NaN equals itself.
    return [n for n, (one, other) in enumerate(pairs) if repr(one) != repr(other)]

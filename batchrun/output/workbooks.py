"""Excel files of results: written row by row with xlsxwriter, read with fastexcel."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError, OutputError

if TYPE_CHECKING:
    from io import BytesIO
    from pathlib import Path

    import polars as pl

    from batchrun.output.frames import FileContents


# What a sheet holds at most: https://support.microsoft.com/office, "Excel specifications and limits".
MOST_ROWS, MOST_COLUMNS, LONGEST_CELL = 1_048_576, 16_384, 32_767
SHEET = "results"
EXACT = 2**53  # larger integers have no exact number in a sheet
CUT = "… [cut: {length:,} characters; the whole text is in the checkpoint and in other formats]"
_OPTIONS = {
    "constant_memory": True,
    "strings_to_formulas": False,
    "strings_to_numbers": False,
    "strings_to_urls": False,
}


def check_sheet(key: str, rows: int, columns: int) -> None:
    """Check that a table fits a sheet, and that the packages for it are installed.

    Raises:
        JobError: names the key, and what to do instead.
    """
    if any(importlib.util.find_spec(name) is None for name in ("xlsxwriter", "fastexcel")):
        raise JobError(
            f'{key}: Excel files need packages; install them with: pip install "batchrun[excel]"'
        )
    if rows >= MOST_ROWS or columns > MOST_COLUMNS:
        raise JobError(
            f"{key}: the table has {rows:,} rows and {columns:,} columns, and an Excel sheet holds "
            f"{MOST_ROWS - 1:,} rows and {MOST_COLUMNS:,} columns; choose .parquet or .csv"
        )


def write(target: Path | BytesIO, contents: FileContents) -> int:
    """Write a workbook with one sheet; return the number of cells that were truncated to fit.

    Texts are never written as formulas.

    Raises:
        OutputError: when there are more rows than a sheet holds.
    """
    import xlsxwriter  # noqa: PLC0415 - it is optional

    names = list(contents.schema)
    place = target if not hasattr(target, "suffix") else str(target)
    with xlsxwriter.Workbook(place, _OPTIONS) as book:
        sheet = book.add_worksheet(SHEET)
        _write_row(sheet, 0, names)
        number = cut = 0
        for frame in contents.frames(names):
            if number + frame.height >= MOST_ROWS:
                raise OutputError(f"an Excel sheet holds {MOST_ROWS - 1:,} rows; choose .parquet")
            for number, row in enumerate(frame.iter_rows(), number + 1):  # noqa: B020
                cut += _write_row(sheet, number, row)
    return cut


def _write_row(sheet: Any, number: int, row: Any) -> int:  # noqa: ANN401 - xlsxwriter is untyped
    """Write a row; return the number of truncated cells."""
    cut = 0
    for column, value in enumerate(row):
        if value is None:
            continue
        if isinstance(value, bool):
            sheet.write_boolean(number, column, value)
        elif isinstance(value, int | float) and _is_exact(value):
            sheet.write_number(number, column, value)
        else:
            text = str(value)
            fitted = _fitted(text)
            cut += fitted is not text
            sheet.write_string(number, column, fitted)
    return cut


def _is_exact(value: float) -> bool:
    return abs(value) <= EXACT if isinstance(value, int) else math.isfinite(value)


def _fitted(text: str) -> str:
    """Return a text truncated to fit a cell, whose length counts in UTF-16 units."""
    if len(text) <= LONGEST_CELL // 2 or len(text.encode("utf-16-le")) // 2 <= LONGEST_CELL:
        return text
    note = CUT.format(length=len(text))
    kept = text.encode("utf-16-le")[: 2 * (LONGEST_CELL - len(note))]
    return kept.decode("utf-16-le", errors="ignore") + note


def read(source: Path | bytes) -> pl.DataFrame:
    """Return the first sheet with its cells as text.

    Raises:
        ValueError: when it cannot be read.
    """
    import fastexcel  # noqa: PLC0415 - it is optional

    try:
        sheet = fastexcel.read_excel(source).load_sheet(0, dtypes="string")
    except fastexcel.FastExcelError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return sheet.to_polars()

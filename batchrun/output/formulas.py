"""Cells that a spreadsheet would run as formulas, made plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the common spreadsheets take for the start of a formula, at once or after leaving it out.
_STARTS = ("=", "+", "-", "@", "\t", "\r")
_FORMULA = r"^[=+\-@\t\r]"


def escaped_names(names: Iterable[str]) -> dict[str, str]:
    """Return the columns' names in the file, which are cells too, with the names they stand for.

    A name that another column has already gets one apostrophe more.
    """
    taken = set(names)
    found: dict[str, str] = {}
    for name in names:
        plain = name
        while plain.startswith(_STARTS) or (plain != name and plain in taken):
            plain = f"'{plain}"
        found[plain] = name
        taken.add(plain)
    return found


def escaped(columns: dict[str, pl.Series]) -> dict[str, pl.Series]:
    """Return columns with an apostrophe before each text that a spreadsheet would run."""
    return {name: _escaped(column) for name, column in columns.items()}


def _escaped(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return column
    return ("'" + column).zip_with(column.str.contains(_FORMULA).fill_null(value=False), column)

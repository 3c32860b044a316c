"""The spelling of ids: one text for each value of an id column, in requests and in outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from batchrun.errors import JobError, short
from batchrun.job.reader import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Sequence


_WITH_A_SPELLING = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Decimal, pl.Null)
USE_ROW_NUMBERS = "or omit [input] id to use row numbers"


def check_id_column(path: str, column: str, schema: pl.Schema) -> None:
    """Check that a column can identify rows.

    Raises:
        JobError: when it does not exist, or its values have no single spelling as text.
    """
    if column not in schema:
        raise JobError(
            f'{path}: [input] id = "{short(column)}" is not a column'
            f"{did_you_mean(column, schema)}; the columns are {listed(schema)}"
        )
    kind = schema[column]
    is_moment = kind.is_temporal() and kind != pl.Duration
    if not (kind.is_numeric() or is_moment or isinstance(kind, _WITH_A_SPELLING)):
        raise JobError(
            f'{path}: [input] id = "{short(column)}" has the type {kind}; an id must be text, a number, '
            f"true or false, a date or a time. Name another column, {USE_ROW_NUMBERS}"
        )


def spelled(values: pl.Series) -> pl.Series:
    """Return ids as text: numbers as polars writes them, dates and times in ISO 8601."""
    if values.dtype.is_temporal():
        return values.dt.to_string("iso:strict")
    return values.cast(pl.String)


def check_present(path: str, column: str, values: pl.Series, ids: pl.Series, start: int) -> None:
    """Check that every row has an id.

    Args:
        path: the input, for messages.
        column: the id column.
        values: its values in consecutive rows.
        ids: the same values as text.
        start: the ordinal of the first of these rows.

    Raises:
        JobError: names the first row whose id is empty, or not a number.
    """
    missing = ids.fill_null("") == ""
    if values.dtype.is_float():
        missing |= values.is_nan().fill_null(value=False)
    if missing.any():
        place = int(missing.arg_max() or 0)
        has = "the id NaN" if ids[place] else "no id"
        raise JobError(
            f'{path}: row {start + place + 1} has {has} in the column "{short(column)}"; add one, '
            f"{USE_ROW_NUMBERS}"
        )


def numbered(start: int, height: int) -> Sequence[str]:
    """Return the row numbers (from 1) of the rows from an ordinal on."""
    return [str(start + n + 1) for n in range(height)]

"""`[input] where`: an SQL condition that selects rows."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError, quoted
from batchrun.job.reader import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Iterator


# Expressions over several rows. Tables are read in parts, on which their values would depend.
_OVER_ROWS = frozenset(["Agg", "Len", "Over", "Range", "Rank", "Rolling", "Shift", "SubPlan"])
_LEAVES = frozenset(["Column", "Literal"])


class Where:
    """A condition for the rows of an input.

    Args:
        text: SQL, as after the word WHERE.
        schema: the columns of the input.
        path: the input, for messages.

    Raises:
        JobError: if the condition is wrong; names the input, the key, the condition and the reason.
    """

    def __init__(self, text: str, schema: pl.Schema, path: str) -> None:
        self._text = text
        self._path = path
        with self._errors_of_condition():
            self.condition = pl.sql_expr(text)
            self._check_columns(schema)
            if _is_over_rows(json.loads(self.condition.meta.serialize(format="json"))):
                raise self._wrong(
                    "uses several rows (count, sum, over …); the condition must depend on "
                    "one row only"
                )
            # Finds wrong types without reading a row.
            pl.DataFrame(schema=schema).lazy().filter(self.condition).collect()

    @contextmanager
    def _errors_of_condition(self) -> Iterator[None]:
        """Translate errors of polars about the condition into a `JobError`."""
        try:
            yield
        except (PolarsError, PanicException) as error:
            reason = str(error).strip().splitlines()[0]
            if "string with numeric" in reason or "must be of type `Boolean`" in reason:
                reason += "; in CSV every column is text: CAST(n AS BIGINT) > 3"
            raise self._wrong(reason) from error

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Add the condition to errors while reading, such as a cell that cannot be cast."""
        try:
            yield
        except JobError as error:
            if isinstance(error.__cause__, PolarsError):
                raise JobError(
                    f"{error} (read with [input] where = {quoted(self._text, 300)})"
                ) from error
            raise

    def _check_columns(self, schema: pl.Schema) -> None:
        for name in self.condition.meta.root_names():
            if name not in schema:
                hint = did_you_mean(name, schema)
                raise self._wrong(
                    f"unknown column {quoted(name)}{hint}; the columns are {listed(schema)}"
                )

    def _wrong(self, reason: str) -> JobError:
        return JobError(f"{self._path}: [input] where = {quoted(self._text, 300)}: {reason}")


def _is_over_rows(node: Any) -> bool:  # noqa: ANN401 - the expression as JSON
    if isinstance(node, dict):
        inner = {key: part for key, part in node.items() if key not in _LEAVES}
        return not _OVER_ROWS.isdisjoint(inner) or any(map(_is_over_rows, inner.values()))
    if isinstance(node, list):
        return any(map(_is_over_rows, node))
    return isinstance(node, str) and node in _OVER_ROWS

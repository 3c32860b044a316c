"""`[input] where`: a SQL condition that polars evaluates while it reads, row by row."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError
from batchrun.sections import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

# What looks at more than one row; a table is read in parts, so that would depend on the parts.
_MORE_THAN_A_ROW = frozenset(["Agg", "Len", "Over", "Range", "Rank", "Rolling", "Shift", "SubPlan"])
_NAMES_AND_VALUES = frozenset(["Column", "Literal"])


class Where:
    """The condition that the rows of an input must satisfy.

    Args:
        text: SQL, as after the word WHERE.
        schema: the input's columns.
        path: of the input, for messages.

    Raises:
        JobError: naming the input, the key, the condition, and what is wrong.
    """

    def __init__(self, text: str, schema: pl.Schema, path: str) -> None:
        self._text = text
        self._path = path
        with self._explained():
            self.condition = pl.sql_expr(text)
            self._check_columns(schema)
            if _looks_further(json.loads(self.condition.meta.serialize(format="json"))):
                raise self._wrong(
                    "looks at more than one row (count, sum, over …); it must tell of each row by "
                    "itself whether to take it"
                )
            # Types are known without any row.
            pl.DataFrame(schema=schema).lazy().filter(self.condition).collect()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what polars says about the condition into a `JobError`."""
        try:
            yield
        except (PolarsError, PanicException) as error:
            reason = str(error).strip().splitlines()[0]
            if "string with numeric" in reason or "must be of type `Boolean`" in reason:
                reason += "; in CSV every column is text: CAST(n AS BIGINT) > 3"
            raise self._wrong(reason) from error

    @contextmanager
    def mentioned(self) -> Iterator[None]:
        """Name the condition when reading fails: a cell may have been what it cannot work with."""
        try:
            yield
        except JobError as error:
            if isinstance(error.__cause__, PolarsError):
                raise JobError(
                    f"{error} (read with [input] where = {self._text!r:.300})"
                ) from error
            raise

    def _check_columns(self, schema: pl.Schema) -> None:
        for name in self.condition.meta.root_names():
            if name not in schema:
                hint = did_you_mean(name, schema)
                raise self._wrong(f"there is no column {name!r}{hint}; it has {listed(schema)}")

    def _wrong(self, reason: str) -> JobError:
        return JobError(f"{self._path}: [input] where = {self._text!r:.300}: {reason}")


def _looks_further(node: Any) -> bool:  # noqa: ANN401 - polars' own tree, as JSON
    if isinstance(node, dict):
        inner = {key: part for key, part in node.items() if key not in _NAMES_AND_VALUES}
        return not _MORE_THAN_A_ROW.isdisjoint(inner) or any(map(_looks_further, inner.values()))
    if isinstance(node, list):
        return any(map(_looks_further, node))
    return isinstance(node, str) and node in _MORE_THAN_A_ROW

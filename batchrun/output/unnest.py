"""The properties of a structured answer as columns of their own, typed by the JSON schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TYPES: dict[str, Any] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
}


def column_type(schema: object) -> Any:  # noqa: ANN401 - a polars type
    """Return the type of a property's column.

    Scalars and lists of them have their own; everything else (objects, unions) is JSON text. A
    property that may be null is a column with nulls.
    """
    kinds = schema.get("type") if isinstance(schema, dict) else None
    names = [kinds] if isinstance(kinds, str) else [k for k in kinds or () if k != "null"]
    if len(names) != 1:
        return pl.String()
    if names[0] == "array" and isinstance(schema, dict):
        return pl.List(column_type(schema.get("items")))
    return _TYPES.get(names[0], pl.String())


def unnested(
    properties: Mapping[str, Any], responses: Sequence[str | None], statuses: Sequence[str]
) -> dict[str, pl.Series]:
    """Return a column for each property; null where a row has no valid answer or no such value.

    Args:
        properties: JSON schemas by name.
        responses: the answers' texts.
        statuses: of the same rows; only what succeeded is known to be valid.
    """
    if not properties:
        return {}  # no answer has to be parsed
    answers = [
        _read(text) if status == "succeeded" else {}
        for text, status in zip(responses, statuses, strict=True)
    ]
    columns = {}
    for name, schema in properties.items():
        kind = column_type(schema)
        values = [_fitted(answer.get(name), kind) for answer in answers]
        columns[name] = pl.Series(name, values, dtype=kind, strict=False)
    return columns


def _read(text: str | None) -> dict[str, Any]:
    try:
        answer = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _fitted(value: Any, kind: Any) -> Any:  # noqa: ANN401 - JSON and polars types
    if isinstance(kind, pl.List) and isinstance(value, list):
        return [_fitted(item, kind.inner) for item in value]
    if kind == pl.String() and value is not None and not isinstance(value, str):
        return orjson.dumps(value).decode()
    return value

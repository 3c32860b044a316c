"""Types of columns in files of each format, and conversion to these types."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import polars as pl


def file_type(kind: Any, suffix: str) -> Any:  # noqa: ANN401 - polars' types, or their classes
    """Return the type of a column in a file: types that the format does not have become text.

    Bytes become base64, durations ISO 8601, and nested values JSON. In Excel, dates, times and exact
    decimals become text, too, because Excel's own types are less exact.
    """
    if suffix in (".parquet", ".arrow"):
        return pl.String() if _holds_empty_struct(kind) else kind
    if suffix == ".xlsx":
        is_own = kind in (pl.Boolean, pl.Null) or kind.is_integer() or kind.is_float()
        return kind if is_own else pl.String()
    if suffix == ".csv":
        is_text = kind.is_nested() or kind in (pl.Binary, pl.Duration, pl.Categorical, pl.Enum)
        return pl.String() if is_text else kind
    return _without_bytes(kind)


def _holds_empty_struct(kind: object) -> bool:
    if isinstance(kind, pl.Struct):
        return not kind.fields or any(_holds_empty_struct(field.dtype) for field in kind.fields)
    return isinstance(kind, pl.List | pl.Array) and _holds_empty_struct(kind.inner)


def _without_bytes(kind: Any) -> Any:  # noqa: ANN401 - as above
    if kind == pl.Binary:
        return pl.String()
    if isinstance(kind, pl.List):
        return pl.List(_without_bytes(kind.inner))
    if isinstance(kind, pl.Array):
        return pl.Array(_without_bytes(kind.inner), kind.size)
    if isinstance(kind, pl.Struct):
        return pl.Struct({field.name: _without_bytes(field.dtype) for field in kind.fields})
    return kind


def converted(column: pl.Series, kind: pl.DataType) -> pl.Series:
    """Return a column converted to its type in the file."""
    if column.dtype == kind:
        return column
    if column.dtype == pl.Binary:
        return column.bin.encode("base64")
    if column.dtype.is_temporal():
        return column.dt.to_string("iso:strict" if column.dtype != pl.Duration else "iso")
    if column.dtype in (pl.Categorical, pl.Enum, pl.Decimal):
        return column.cast(pl.String)
    convert = _json_text if kind == pl.String else _json_ready
    values = [None if value is None else convert(value) for value in column.to_list()]
    return pl.Series(column.name, values, dtype=kind)


def _json_text(value: object) -> str:
    ready = _json_ready(value)
    try:
        return orjson.dumps(ready, default=str).decode()
    except TypeError:
        return orjson.dumps(_large_written(ready), default=str).decode()


def _large_written(value: object) -> object:
    """Write integers of more than 64 bits as text, because orjson refuses them."""
    if isinstance(value, int) and value.bit_length() > 63:
        return orjson.Fragment(str(value))
    if isinstance(value, dict):
        return {name: _large_written(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_large_written(part) for part in value]
    return value


def _json_ready(value: object) -> object:
    """Replace bytes, at any depth, by base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _json_ready(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_json_ready(part) for part in value]
    return value

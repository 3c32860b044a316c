"""JSON Lines: rows as their lines spell them, and columns typed over all lines.

A later line may have a key or a type that is new. A column whose values have no type in common
becomes text in the frames (JSON, where a value is no string); the rows keep the values.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast

import polars as pl
from polars.exceptions import PolarsError

from batchrun.errors import JobError
from batchrun.source.inputs import explained, open_text, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BLOCK_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


def blocks(path: Path) -> Iterator[list[bytes]]:
    """Yield lines that are not blank, a few megabytes at a time: polars would map the whole file.

    Raises:
        JobError: when the file cannot be read.
    """
    with explained(path), open_text(path) as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        while lines := file.readlines(BLOCK_BYTES):
            if kept := [line for line in lines if line.strip()]:
                yield kept


def rows(lines: Sequence[bytes], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read lines into rows; a key that a line does not have is null.

    Raises:
        ValueError: when a line is no JSON object.
    """
    records = [record(line) for line in lines]
    return [{name: values.get(name) for name in columns} for values in records]


def frame(lines: Sequence[bytes], columns: pl.Schema | None) -> pl.DataFrame:
    """Read lines into typed columns, inferred from these lines when None."""
    return pl.read_ndjson(io.BytesIO(b"".join(lines)), schema=columns, infer_schema_length=None)


def frames(
    path: Path, columns: pl.Schema, wanted: list[str], where: pl.Expr | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, in bounded frames; with a condition, those that satisfy it.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        for lines in blocks(path):
            found = frame(lines, columns)
            yield (found if where is None else found.filter(where)).select(wanted)


def kept(lines: list[bytes], columns: pl.Schema, where: pl.Expr) -> list[bytes]:
    """Return the lines whose rows satisfy a condition."""
    marks = frame(lines, columns).select(pl.lit(value=True) & where).to_series()
    return [line for line, mark in zip(lines, marks, strict=True) if mark]


def schema(paths: Sequence[Path]) -> pl.Schema:
    """Return the columns of all lines of all files, with types that hold every value.

    Raises:
        JobError: when a file cannot be read, or there is no row.
    """
    types: dict[str, pl.DataType] = {}
    for path in paths:
        with explained(path):
            for lines in blocks(path):
                for name, kind in _types(lines).items():
                    types[name] = _common_type(types.get(name, pl.Null()), kind)
    if not types:
        raise JobError(f"{paths[0]}: holds no rows")
    return pl.Schema({name: _writable(kind) for name, kind in types.items()})


def _types(lines: list[bytes]) -> Mapping[str, pl.DataType]:
    try:
        return frame(lines, None).schema
    except PolarsError:  # it knows no type that a list and a number, or true and 1, have in common
        types: dict[str, pl.DataType] = {}
        for line in lines:
            for name, value in record(line).items():
                types[name] = _common_type(types.get(name, pl.Null()), _type_of(value))
        return types


def _type_of(value: object) -> pl.DataType:
    if isinstance(value, dict):
        return pl.Struct({name: _type_of(item) for name, item in value.items()})
    if isinstance(value, list):
        inner: pl.DataType = pl.Null()
        for item in value:
            inner = _common_type(inner, _type_of(item))
        return pl.List(inner)
    if isinstance(value, int) and not isinstance(value, bool):
        return pl.Int64() if -(2**63) <= value < 2**63 else pl.Int128()
    plain = {bool: pl.Boolean(), float: pl.Float64(), str: pl.String()}
    return plain.get(type(value), pl.Null())


def _common_type(first: Any, second: Any) -> pl.DataType:  # noqa: ANN401 - polars' own inner types
    """Return a type that holds the values of both; at worst their JSON text."""
    if second in (first, pl.Null):
        return cast("pl.DataType", first)
    if first == pl.Null:
        return cast("pl.DataType", second)
    if isinstance(first, pl.List) and isinstance(second, pl.List):
        return pl.List(_common_type(first.inner, second.inner))
    if isinstance(first, pl.Struct) and isinstance(second, pl.Struct):
        fields: dict[str, Any] = {field.name: field.dtype for field in first.fields}
        for field in second.fields:
            fields[field.name] = _common_type(fields.get(field.name, pl.Null()), field.dtype)
        return pl.Struct(fields)
    if first.is_numeric() and second.is_numeric():
        return pl.Float64() if first.is_float() or second.is_float() else pl.Int128()
    return pl.String()


def _writable(kind: Any) -> pl.DataType:  # noqa: ANN401 - as above
    """Parquet has no struct without fields; its JSON text stands in for it."""
    if isinstance(kind, pl.List):
        return pl.List(_writable(kind.inner))
    if isinstance(kind, pl.Struct):
        fields = {field.name: _writable(field.dtype) for field in kind.fields}
        return pl.Struct(fields) if fields else pl.String()
    return cast("pl.DataType", kind)

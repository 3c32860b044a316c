"""Read JSON Lines: rows with the values of their lines, and frames with one type per column.

A later line may add a key or another type. In frames, a column whose values have no common type is
text (JSON for values that are not strings); rows keep the values of their lines.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, cast

import polars as pl
from polars.exceptions import PolarsError

from batchrun.errors import JobError
from batchrun.source.table_faults import file_errors, open_text, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

BLOCK_BYTES = 4 * 1024 * 1024
# An escaped backslash, a character in two halves, or half of one.
_SURROGATES = re.compile(
    rb"(\\\\)|(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_BOM = b"\xef\xbb\xbf"


def blocks(path: Path, offset: int = 0) -> Iterator[list[bytes]]:
    """Yield the lines that are not blank in blocks of a few megabytes, from this byte of the text on.

    Raises:
        JobError: when the file cannot be read.
    """
    with file_errors(path), open_text(path) as file:
        if offset or file.read(len(_BOM)) != _BOM:
            file.seek(offset)
        while lines := file.readlines(BLOCK_BYTES):
            if kept := [_without_lone_surrogates(line) for line in lines if line.strip()]:
                yield kept


def _without_lone_surrogates(line: bytes) -> bytes:
    """Replace lone surrogates, which are not text and cannot be sent, by the replacement character."""
    if b"\\u" not in line:
        return line
    return _SURROGATES.sub(lambda match: match[1] or match[2] or rb"\ufffd", line)


def rows(lines: Sequence[bytes], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Parse lines into rows; a missing key is None.

    Raises:
        ValueError: when a line is not a JSON object.
    """
    records = [record(line) for line in lines]
    return [{name: values.get(name) for name in columns} for values in records]


def frame(lines: Sequence[bytes], columns: pl.Schema | None) -> pl.DataFrame:
    """Parse lines into typed columns; None infers the types from these lines."""
    return pl.read_ndjson(io.BytesIO(b"".join(lines)), schema=columns, infer_schema_length=None)


def frames(
    path: Path,
    blocks_of_lines: Iterable[list[bytes]],
    columns: pl.Schema,
    wanted: list[str],
    where: pl.Expr | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield lines of a file as rows, or those that satisfy a condition, in bounded frames.

    Raises:
        JobError: when they cannot be read.
    """
    with file_errors(path):
        for lines in blocks_of_lines:
            found = frame(lines, columns)
            yield (found if where is None else found.filter(where)).select(wanted)


def matching(lines: list[bytes], columns: pl.Schema, where: pl.Expr) -> list[bytes]:
    """Return the lines whose rows satisfy a condition."""
    matches = frame(lines, columns).select(pl.lit(value=True) & where).to_series()
    return [line for line, match in zip(lines, matches, strict=True) if match]


def schema(paths: Sequence[Path]) -> pl.Schema:
    """Return the columns of all lines of all files, with types that fit every value.

    Raises:
        JobError: when a file cannot be read, or there are no rows.
    """
    types: dict[str, pl.DataType] = {}
    for path in paths:
        with file_errors(path):
            for lines in blocks(path):
                for name, kind in _types(lines).items():
                    types[name] = _common_type(types.get(name, pl.Null()), kind)
    if not types:
        raise JobError(f"{paths[0]}: contains no rows")
    return pl.Schema({name: _writable(kind) for name, kind in types.items()})


def _types(lines: list[bytes]) -> Mapping[str, pl.DataType]:
    try:
        return frame(lines, None).schema
    except PolarsError:  # polars finds no common type of a list and a number, or of true and 1
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
    """Return a type that fits the values of both; at worst text (JSON)."""
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
    """Replace types that Parquet cannot store: structs without fields by text (JSON), and the type of nulls.

    A column that is empty now gets the type that it is most likely to have later.
    """
    if kind == pl.Null:
        return pl.String()
    if isinstance(kind, pl.List):
        return pl.List(_writable(kind.inner))
    if isinstance(kind, pl.Struct):
        fields = {field.name: _writable(field.dtype) for field in kind.fields}
        return pl.Struct(fields) if fields else pl.String()
    return cast("pl.DataType", kind)

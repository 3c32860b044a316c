"""The outputs: results joined to the input in input order, and the usage table.

Files appear whole or not at all: each is written beside its place and moved into it at the end.
Everything streams in bounded chunks, from the checkpoint and the input into polars' writers.
"""

from __future__ import annotations

import base64
import gc
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl
from polars.io.plugins import register_io_source

from batchrun.errors import JobError
from batchrun.job.reader import listed
from batchrun.output.check import columns_in, differences
from batchrun.output.files import (
    escaped,
    escaped_names,
    parquet_bytes,
    refuse_foreign_page,
    refuse_foreign_results,
    replacing,
    rows_called,
    scan_results,
    write_text,
)
from batchrun.output.frames import (
    CHUNK_ROWS,
    UNNESTED,
    FileContents,
    IdTable,
    InputTable,
    Results,
    Rows,
    ScoreTable,
    column_type,
    joined_frames,
    schema_of,
    usage_frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.job import OutputConfig
    from batchrun.records import Kind

# Rows of a row group of Parquet, which has fewer of them where they are large.
GROUP_ROWS = 2 * CHUNK_ROWS
GROUP_BYTES = 8 * 1024 * 1024
MOST_GROUP_BYTES = 64 * 1024 * 1024


def result_names(
    columns: Sequence[str], prefix: str, properties: Iterable[str], ours: Iterable[str]
) -> dict[str, str]:
    """Return our column names as they appear beside the input's.

    A name that the input already has gets the prefix; so does an answer's property that is named
    like one of our columns. Properties stand in the result behind an `UNNESTED` mark.

    Args:
        columns: of the input.
        prefix: `[output] prefix`.
        properties: of the answer's JSON schema, which become columns.
        ours: our columns.

    Raises:
        JobError: when names collide all the same.
    """
    taken = set(columns)
    names = {name: prefix + name if name in taken else name for name in ours}
    used = taken | set(names.values())
    unnested = {UNNESTED + name: prefix + name if name in used else name for name in properties}
    clashes = sorted(name for name in names.values() if name in taken)
    clashes += sorted(name for name in unnested.values() if name in used)
    names |= unnested
    if clashes:
        raise JobError(
            f"the input or the answer has columns that batchrun writes too: {listed(clashes)}; "
            'choose what to put before ours, such as [output] prefix = "llm_"'
        )
    return names


def write_outputs(
    config: OutputConfig, directory: Path, results: Results, attempts: Mapping[str, Kind]
) -> list[Path]:
    """Write the result files and the usage table into a directory; return their paths.

    `attempts` are the columns of the usage table.

    Raises:
        OutputError: when a file cannot be written; what was there before is untouched.
    """
    with _without_collector():
        files = [write_results(config, directory / file, results) for file in config.files]
        usage = directory / "usage.parquet"
        write_contents(usage, usage_contents(results.rows, attempts))
    return [*files, usage]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the collector of cycles, which looks through millions of values and finds none here."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_results(
    config: OutputConfig, path: Path, results: Results, *, in_run_directory: bool = True
) -> Path:
    """Write one file of results; its suffix says the format.

    Raises:
        OutputError: when it cannot be written; what was there before is untouched.
    """
    contents = results_contents(config, path.suffix, results)
    write_contents(path, contents, in_run_directory=in_run_directory)
    return path


def results_contents(config: OutputConfig, suffix: str, results: Results) -> FileContents:
    """Return what a file of results with this suffix holds."""
    columns = results.table.schema
    names = result_names(list(columns), config.prefix, config.unnest, results.all_kinds)
    schema = pl.Schema({**columns, **_our_schema(config, names, results)})
    escape = config.escape_formulas and suffix == ".csv"
    frames = partial(joined_frames, results, names, config.unnest)
    return _contents(schema, frames, suffix, key=(names["custom_id"],), escape=escape)


def own_contents(config: OutputConfig, path: Path, results: Results) -> FileContents:
    """Return which of a file's columns are ours and what they hold, without the input beside them.

    The table of `results` is one of `IdTable`. A name that the file has with the prefix is one that the
    input had, too.
    """
    there = columns_in(path)
    names = result_names([], config.prefix, config.unnest, results.all_kinds)
    names = {
        name: config.prefix + plain if config.prefix + plain in there else plain
        for name, plain in names.items()
    }
    schema = pl.Schema(_our_schema(config, names, results))
    escape = config.escape_formulas and path.suffix == ".csv"
    frames = partial(joined_frames, results, names, config.unnest)
    found = _contents(schema, frames, path.suffix, key=(names["custom_id"],), escape=escape)
    return replace(found, is_part=True)


def _our_schema(config: OutputConfig, names: Mapping[str, str], results: Results) -> dict[str, Any]:
    answers = {UNNESTED + name: column_type(kind) for name, kind in config.unnest.items()}
    types = schema_of(results.all_kinds) | answers
    return {names[name]: kind for name, kind in types.items()}


def usage_contents(rows: Rows, kinds: Mapping[str, Kind]) -> FileContents:
    """Return what the usage table holds, with columns of these kinds."""
    frames = partial(usage_frames, rows, kinds)
    return _contents(pl.Schema(schema_of(kinds)), frames, ".parquet", key=("custom_id", "attempt"))


def _contents(
    schema: pl.Schema,
    frames: Callable[[], Iterator[pl.DataFrame]],
    suffix: str,
    *,
    key: tuple[str, ...],
    escape: bool = False,
) -> FileContents:
    kinds = {name: _file_type(kind, suffix) for name, kind in schema.items()}
    named = escaped_names(kinds) if escape else {name: name for name in kinds}
    finished = escaped if escape else dict

    def in_file(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for frame in frames():
            # Names are data: most other methods take "*" or "^a$" for a pattern, or rename "".
            yield pl.DataFrame(
                finished(
                    {n: _converted(frame.get_column(named[n]), kinds[named[n]]) for n in columns}
                )
            )

    return FileContents(pl.Schema({n: kinds[named[n]] for n in named}), in_file, key)


def write_contents(path: Path, contents: FileContents, *, in_run_directory: bool = True) -> None:
    """Write a file of the outputs; its suffix says the format.

    Raises:
        OutputError: when it cannot be written; what was there before is untouched.
    """
    with replacing(path, in_run_directory=in_run_directory) as temporary:
        if path.suffix == ".parquet":
            rows: int | None = GROUP_ROWS
            while rows is not None:
                rows = _write_parquet(temporary, contents, rows)
        elif path.suffix == ".csv":
            _lazy(contents, contents.frames).sink_csv(temporary, maintain_order=True)
        else:
            _lazy(contents, contents.frames).sink_ndjson(temporary, maintain_order=True)


def _write_parquet(path: Path, contents: FileContents, group_rows: int) -> int | None:
    """Write Parquet; return a smaller number of rows for a group if `group_rows` was too many.

    polars holds a row group in memory until it is complete, and knows its size only in rows.
    """
    smaller: int | None = None

    def bounded(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        nonlocal smaller
        for frame in contents.frames(columns):
            row_bytes = max(1, int(frame.estimated_size()) // max(1, frame.height))
            if group_rows > 1 and group_rows * row_bytes > MOST_GROUP_BYTES:
                smaller = max(1, GROUP_BYTES // row_bytes)
                return
            yield frame

    lazy = _lazy(contents, bounded)
    lazy.sink_parquet(path, row_group_size=group_rows, maintain_order=True)
    return smaller


def _lazy(
    contents: FileContents, frames: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
) -> pl.LazyFrame:
    def produce(
        with_columns: list[str] | None,
        predicate: object,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        yield from frames(with_columns or list(contents.schema))

    return register_io_source(produce, schema=contents.schema)


def _file_type(kind: Any, suffix: str) -> Any:  # noqa: ANN401 - polars' types, or their classes
    """Return the type that a column has in a file: what the format cannot hold becomes text.

    Bytes become base64, durations ISO 8601, and nested values JSON.
    """
    if suffix == ".parquet":
        return pl.String() if _holds_empty_struct(kind) else kind
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


def _converted(column: pl.Series, kind: pl.DataType) -> pl.Series:
    """Return a column as its type in the file wants it."""
    if column.dtype == kind:
        return column
    if column.dtype == pl.Binary:
        return column.bin.encode("base64")
    if column.dtype == pl.Duration:
        return column.dt.to_string("iso")
    if column.dtype in (pl.Categorical, pl.Enum):
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
    """Write integers out that take more than 64 bits, which orjson refuses."""
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


__all__ = [
    "FileContents",
    "IdTable",
    "InputTable",
    "Results",
    "Rows",
    "ScoreTable",
    "differences",
    "own_contents",
    "parquet_bytes",
    "refuse_foreign_page",
    "refuse_foreign_results",
    "result_names",
    "results_contents",
    "rows_called",
    "scan_results",
    "usage_contents",
    "write_contents",
    "write_outputs",
    "write_results",
    "write_text",
]

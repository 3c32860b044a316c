"""The contents of the output files: their columns and rows, and how they are written."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from batchrun.errors import JobError, quoted, short
from batchrun.job.reader import did_you_mean, listed
from batchrun.output.file_readers import columns_in
from batchrun.output.file_types import converted, file_type
from batchrun.output.files import (
    escaped,
    escaped_names,
    replacing,
)
from batchrun.output.folders import replacing_folder
from batchrun.output.frames import (
    UNNESTED,
    FileContents,
    Results,
    Rows,
    column_type,
    joined_frames,
    schema_of,
    usage_frames,
)
from batchrun.output.workbooks import LONGEST_CELL, check_sheet
from batchrun.output.writers import write_dataset, write_file, write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.job import OutputConfig
    from batchrun.records import Kind

# Types of columns whose values can be names of folders.
_FOLDER_TYPES = (pl.String, pl.Boolean, pl.Date)


def result_names(
    columns: Sequence[str], prefix: str, properties: Iterable[str], ours: Iterable[str]
) -> dict[str, str]:
    """Return the names of our columns in the output.

    A name that the input already has gets the prefix; so does a property of the answer that has the name
    of one of our columns. In the result, names of properties are marked with `UNNESTED`.

    Args:
        columns: the columns of the input.
        prefix: `[output] prefix`.
        properties: properties of the answer's JSON schema that become columns.
        ours: our columns.

    Raises:
        JobError: if names still collide.
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
            'set a prefix for those of batchrun, such as [output] prefix = "llm_"'
        )
    return names


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """The files that were written, with notes for the user about missing content."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def write_outputs(
    config: OutputConfig, directory: Path, results: Results, attempts: Mapping[str, Kind]
) -> WrittenFiles:
    """Write the result files and the usage table into a directory.

    `attempts` are the columns of the usage table.

    Raises:
        OutputError: when a file cannot be written; the earlier file is unchanged.
    """
    with _without_collector():
        paths = [directory / file for file in config.files]
        notes = [write_results(config, path, results) for path in paths]
        usage = directory / "usage.parquet"
        write_contents(usage, usage_contents(results.rows, attempts))
    return WrittenFiles((*paths, usage), tuple(note for note in notes if note is not None))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause Python's cyclic garbage collector, which would scan millions of values and find nothing here."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_results(
    config: OutputConfig, path: Path, results: Results, *, in_run_directory: bool = True
) -> str | None:
    """Write one file of results in the format of its suffix. Return notes for the user about missing content.

    Raises:
        OutputError: when it cannot be written; the earlier file is unchanged.
    """
    contents = results_contents(config, path.suffix, results)
    if not in_run_directory:
        contents = replace(contents, partition_by=())
    return write_contents(path, contents, in_run_directory=in_run_directory)


def results_contents(config: OutputConfig, suffix: str, results: Results) -> FileContents:
    """Return the contents of a file of results with this suffix."""
    columns = results.table.schema
    names = result_names(list(columns), config.prefix, config.unnest, results.all_kinds)
    schema = pl.Schema({**columns, **_our_schema(config, names, results)})
    escape = config.escape_formulas and suffix == ".csv"
    frames = partial(joined_frames, results, names, config.unnest)
    found = _contents(schema, frames, suffix, key=(names["custom_id"],), escape=escape)
    return replace(found, partition_by=config.partition_by if suffix == ".parquet" else ())


def own_contents(config: OutputConfig, path: Path, results: Results) -> FileContents:
    """Return the names of our columns in a file and their contents, without the columns of the input.

    The table of `results` is an `IdTable`. A name with the prefix in the file is one that the input had, too.
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
    """Return the contents of the usage table, with columns of these kinds."""
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
    kinds = {name: file_type(kind, suffix) for name, kind in schema.items()}
    named = escaped_names(kinds) if escape else {name: name for name in kinds}
    finished = escaped if escape else dict

    def in_file(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for frame in frames():
            # Names are data: most other methods take "*" or "^a$" for a pattern, or rename "".
            yield pl.DataFrame(
                finished(
                    {n: converted(frame.get_column(named[n]), kinds[named[n]]) for n in columns}
                )
            )

    return FileContents(pl.Schema({n: kinds[named[n]] for n in named}), in_file, key)


def write_contents(
    path: Path, contents: FileContents, *, in_run_directory: bool = True
) -> str | None:
    """Write a file of the outputs, or a dataset; return notes for the user about missing content.

    The suffix determines the format.

    Raises:
        OutputError: when it cannot be written; the earlier file is unchanged.
    """
    if contents.partition_by:
        with replacing_folder(path) as folder:
            write_dataset(folder, contents)
        return None
    with replacing(path, in_run_directory=in_run_directory) as temporary:
        cut = write_file(temporary, path.suffix, contents)
    if not cut:
        return None
    cells = "1 cell was" if cut == 1 else f"{cut:,} cells were"
    return (
        f"warning: {path.name}: {cells} cut, because an Excel cell holds {LONGEST_CELL:,} characters; "
        ".parquet has the whole text"
    )


def concatenate(pieces: Sequence[FileContents | Path], path: Path) -> None:
    """Write rows with the same columns, one piece after the other, into one Parquet file.

    Pieces that are Parquet files themselves are not read.

    Raises:
        OutputError: when it cannot be written; what was there before is untouched.
    """
    with replacing(path) as temporary:
        write_parquet(temporary, pieces)


def check_outputs(
    config: OutputConfig, columns: Mapping[str, Any], ours: Mapping[str, Kind], rows: int
) -> None:
    """Check the output files as far as possible before anything is sent.

    Args:
        config: what to write.
        columns: the columns of the input, with their types.
        ours: our columns.
        rows: number of rows of the input.

    Raises:
        JobError: when a format cannot hold the table, or a dataset cannot be divided by a column.
    """
    names = result_names(list(columns), config.prefix, config.unnest, ours)
    for file in config.files:
        if file.endswith(".xlsx"):
            check_sheet(f"[output] files: {file}", rows, len(columns) + len(names))
    types = schema_of(ours)
    every = {**columns, **{names[name]: types.get(name, pl.String()) for name in names}}
    for name in config.partition_by:
        if name not in every or name == names["custom_id"]:
            known = [each for each in every if each != names["custom_id"]]
            raise JobError(
                f"[output] partition_by: {quoted(name)} is not a column to divide by"
                f"{did_you_mean(name, known)}; the columns are {listed(known)}"
            )
        if not (kind := every[name]).is_integer() and kind not in _FOLDER_TYPES:
            raise JobError(
                f"[output] partition_by: {short(name)} has the type {kind}; its values would be names of "
                "folders, so it must be text, a whole number, a date, or true or false"
            )

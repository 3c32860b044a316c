"""The files of an input as they are read: in their own format, or from a copy that can be read in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.errors import JobError
from batchrun.job import is_remote
from batchrun.source import copies, json_arrays
from batchrun.source.csv_text import CsvText
from batchrun.source.inputs import SEPARATORS, check_start, common_kind, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.job import InputConfig
    from batchrun.source.dialects import Dialect


_TEXT_KEYS = ("separator", "quote", "escape", "encoding")


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of rows.

    Attributes:
        path: the user's file.
        place: the file that is read: the user's, or a copy of it.
        kind: how to read it.
        dialect: dialect of a CSV or TSV file.
        notes: sentences about what was detected.
    """

    path: Path
    place: Path
    kind: str
    dialect: Dialect | None = None
    notes: tuple[str, ...] = ()


def open_tables(
    paths: Sequence[Path], kind: str, config: InputConfig, folder: copies.TemporaryFolder
) -> tuple[TableFile, ...]:
    """Prepare files for reading.

    Args:
        paths: the files, all of one kind.
        kind: kind of the files.
        config: the configured encoding and dialect.
        folder: folder for copies.

    Raises:
        JobError: when a file cannot be read, or a key does not fit its kind.
    """
    _check_keys(kind, config)
    found = []
    for number, path in enumerate(paths):
        check_start(path, kind)
        found.append(_opened(path, kind, config, folder, str(number)))
    return tuple(found)


def input_notes(config: InputConfig) -> tuple[str, ...]:
    """Return sentences about what is detected in an input on this machine, from the start of its files.

    Raises:
        JobError: when a file cannot be read.
    """
    if is_remote(config.path):
        return ()
    paths = resolve(config.path, config.pattern)
    kind = common_kind(paths)
    if kind not in SEPARATORS:
        return ()
    return tuple(note for path in paths for note in CsvText.opened(path, kind, config).notes)


def _check_keys(kind: str, config: InputConfig) -> None:
    for key in _TEXT_KEYS:
        if getattr(config, key) is not None and kind not in SEPARATORS:
            raise JobError(f"{config.path}: [input] {key} is for CSV and TSV files; remove it")
    if config.sheet is not None and kind != ".xlsx":
        raise JobError(f"{config.path}: [input] sheet is for Excel files; remove it")


def _opened(
    path: Path, kind: str, config: InputConfig, folder: copies.TemporaryFolder, name: str
) -> TableFile:
    if kind in SEPARATORS:
        return _opened_text(path, kind, config, folder, name)
    if kind == ".json":
        json_arrays.copy_as_lines(path, copy := folder.file(f"{name}.jsonl"))
        return TableFile(path, copy, ".jsonl")
    if kind == ".xlsx":
        note = copies.copy_sheet(path, copy := folder.file(f"{name}.parquet"), config.sheet)
        return TableFile(path, copy, ".parquet", notes=() if note is None else (note,))
    if kind == ".arrow" and copies.is_arrow_stream(path):
        copies.copy_arrow_stream(path, copy := folder.file(f"{name}.parquet"))
        return TableFile(path, copy, ".parquet")
    return TableFile(path, path, kind)


def _opened_text(
    path: Path, kind: str, config: InputConfig, folder: copies.TemporaryFolder, name: str
) -> TableFile:
    text = CsvText.opened(path, kind, config)
    if text.is_readable:
        text.check()
        return TableFile(path, path, kind, text.dialect, text.notes)
    copy = folder.file(f"{name}{kind}")
    dialect = text.rewrite(copy)
    return TableFile(path, copy, kind, dialect, text.notes)

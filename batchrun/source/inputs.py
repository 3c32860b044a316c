"""Finds the files of an input, and tells tables from other files."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun.errors import JobError, quoted, short
from batchrun.job import UserFile, is_remote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.job import InputConfig


TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".arrow", ".feather", ".xlsx"),
)
# Other suffixes of a kind of file.
_SAME_KIND = {".ndjson": ".jsonl", ".feather": ".arrow"}
TEXT_KINDS = (".csv", ".tsv", ".jsonl", ".json")
SEPARATORS = {".csv": ",", ".tsv": "\t"}

# How files of other kinds begin, and what they are.
_STARTS = (
    (b"PK\x03\x04", ".xlsx", "an Excel workbook (or another ZIP file)"),
    (b"\xd0\xcf\x11\xe0", ".xls", "an old Excel workbook (.xls)"),
    (b"PAR1", ".parquet", "a Parquet file"),
    (b"ARROW1", ".arrow", "an Arrow file"),
    (b"\x1f\x8b", ".gz", "compressed with gzip"),
)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Identifies the state of an input file: path, size in bytes, modification time in nanoseconds."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of a file.

        Raises:
            JobError: when it cannot be read.
        """
        try:
            info = path.stat()
        except OSError as error:
            raise JobError(f"{path}: cannot be read ({error.strerror})") from None
        return cls(str(path), info.st_size, info.st_mtime_ns)


def is_table(path: str) -> bool:
    """Return whether a path is a table rather than a job file."""
    return kind_of(path) is not None


def kind_of(path: str) -> str | None:
    """Return the suffix that decides how to read a file (`.jsonl` for `.ndjson`), None if unknown."""
    name = path.lower()
    text = name.removesuffix(".gz")
    suffix = next((suffix for suffix in TABLE_SUFFIXES if text.endswith(suffix)), "")
    kind = _SAME_KIND.get(suffix, suffix)
    return kind if kind in TEXT_KINDS or (kind and name == text) else None


def check_start(path: Path, kind: str) -> None:
    """Check that a file is not one of another kind with the wrong suffix.

    Raises:
        JobError: says what kind of file it is and how to rename it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return  # whoever reads it says why it cannot be read
    expected = ".gz" if path.suffix.lower() == ".gz" else kind
    for mark, suffix, what in _STARTS:
        if start.startswith(mark) and suffix != expected:
            raise JobError(f"{path}: {_not_its_kind(path, suffix, what)}")


def _not_its_kind(path: Path, suffix: str, what: str) -> str:
    if suffix == ".xls":
        return f"is {what}, not a {path.suffix} file; save it as .xlsx or .csv"
    name = f"{path.name}.gz" if suffix == ".gz" else f"{path.stem}{suffix}"
    return f"is {what}, not a {path.suffix} file; rename it to {name}"


def resolve(pattern: str, dated: str | None = None) -> list[Path]:
    """Return the files of a path or a glob, in order.

    Args:
        pattern: the path.
        dated: the path in the job file, if its dates were filled in.

    Raises:
        JobError: when there are none, or one is not a regular file.
    """
    try:
        paths = _matches(Path(pattern))
        folders = [path for path in paths if path.is_dir()]
        others = [path for path in paths if path.exists() and not (path.is_file() or path.is_dir())]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise JobError(f"{short(pattern, 200)}: cannot be looked up ({reason})") from None
    if not paths:
        filled = "" if dated is None else f" ({quoted(dated, 200)} with its dates filled in)"
        raise JobError(
            f"{pattern}: file not found{filled}; [input] path is relative to the job file"
        )
    if folders:
        raise JobError(
            f'{folders[0]}: is a folder; use a pattern for its files, for example "folder/*.csv"'
        )
    if others:
        # A pipe would block, and cannot be read a second time.
        raise JobError(
            f"{others[0]}: not a regular file; save the table as a file and use its path"
        )
    return paths


def input_files(config: InputConfig) -> list[UserFile]:
    """Return the files of an input on this machine; none if it is remote or not found."""
    if is_remote(config.path):
        return []
    try:
        paths = _matches(Path(config.path))
    except (OSError, ValueError):
        return []
    return [UserFile(path, "[input] path") for path in paths]


def _matches(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    # Existing folders are used literally, even if their names look like patterns.
    home = next(parent for parent in path.parents if parent.exists())
    rest = str(path.relative_to(home))
    return sorted(home / name for name in glob.glob(rest, root_dir=home, recursive=True))  # noqa: PTH207


def common_kind(paths: Sequence[Path]) -> str:
    """Return the kind of the files (see `kind_of`).

    Raises:
        JobError: when one is unsupported, or they differ.
    """
    kinds = {path: kind_of(path.name) for path in paths}
    for path, kind in kinds.items():
        if kind is None:
            raise unsupported(path)
    found = sorted({str(kind) for kind in kinds.values()})
    if len(found) > 1:
        raise JobError(
            f"{paths[0]} … {paths[-1]}: [input] path matches files of different kinds: "
            f"{', '.join(found)}"
        )
    return found[0]


def unsupported(path: Path | str) -> JobError:
    """Return the error for a file of an unknown type."""
    return JobError(
        f"{path}: unsupported file type; supported types: {', '.join(TABLE_SUFFIXES)}, "
        "text formats also with .gz"
    )

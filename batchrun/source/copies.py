"""Copies of files that cannot be read in parts: JSON arrays, Excel sheets, and streams of Arrow.

Each is copied once to a format that can be read in parts, so that a run reads its rows in bounded frames.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

import polars as pl

from batchrun.errors import JobError, quoted
from batchrun.job.reader import did_you_mean, listed
from batchrun.source.table_faults import TableFault, file_errors

_ARROW_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"
EXCEL_EXTRA = 'install it with: pip install "batchrun[excel]"'


class TemporaryFolder:
    """A folder for copies, created when the first one is written; only its owner can read it.

    Args:
        what: what is copied, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.path: Path | None = None

    def file(self, name: str) -> Path:
        """Return the path of a new file in it.

        Raises:
            JobError: when there is no writable temporary folder.
        """
        if self.path is None:
            try:
                self.path = Path(tempfile.mkdtemp(prefix="batchrun-"))
            except OSError as error:
                raise JobError(
                    f"[input] path: {self._what} cannot be copied to this machine: "
                    f"{error.strerror}; set the environment variable TMPDIR to a writable folder"
                ) from None
        return self.path / name

    def remove(self) -> None:
        """Remove it with everything in it."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def is_arrow_stream(path: Path) -> bool:
    """Return whether a file has the stream format of Arrow, which has no index.

    Raises:
        JobError: when it cannot be read, or is of the first version of Feather.
    """
    with file_errors(path), path.open("rb") as file:
        start = file.read(8)
        if start.startswith(_FEATHER_1):
            raise TableFault("is a Feather file of version 1; save it as .arrow or .parquet")
        return not start.startswith(_ARROW_FILE)


def copy_arrow_stream(path: Path, copy: Path) -> None:
    """Write a stream of Arrow as Parquet.

    Raises:
        JobError: when it cannot be read.
    """
    with file_errors(path):
        pl.read_ipc_stream(path).write_parquet(copy)


def copy_sheet(path: Path, copy: Path, sheet: str | None) -> str | None:
    """Write a sheet of an Excel workbook as Parquet.

    Args:
        path: the workbook.
        copy: the Parquet file.
        sheet: name of the sheet; None for the first one.

    Returns:
        A note about the choice, if there are several sheets and none was named.

    Raises:
        JobError: when the workbook cannot be read or has no such sheet, or the extra is missing.
    """
    if importlib.util.find_spec("fastexcel") is None:
        raise JobError(f"{path}: reading Excel files needs a package; {EXCEL_EXTRA}")
    import fastexcel  # noqa: PLC0415 - it is optional

    try:
        names = fastexcel.read_excel(path).sheet_names
    except fastexcel.FastExcelError as error:
        raise JobError(f"{path}: cannot be read as a table: {_first_line(error)}") from error
    chosen = names[0] if sheet is None else sheet
    if chosen not in names:
        raise JobError(
            f"{path}: [input] sheet = {quoted(chosen)} is not one of its sheets"
            f"{did_you_mean(chosen, names)}; they are {listed(names)}"
        )
    _read_sheet(path, chosen).write_parquet(copy)
    if sheet is not None or len(names) == 1:
        return None
    return f'{path}: reading the first of its {len(names)} sheets ([input] sheet = "{chosen}")'


def _read_sheet(path: Path, sheet: str) -> pl.DataFrame:
    import fastexcel  # noqa: PLC0415 - it is optional

    # It logs a line for each column without values.
    logging.getLogger("fastexcel").setLevel(logging.ERROR)
    try:
        with file_errors(path):
            return pl.read_excel(
                path,
                sheet_name=sheet,
                infer_schema_length=None,
                drop_empty_rows=False,
                drop_empty_cols=False,
                raise_if_empty=False,
            )
    except fastexcel.FastExcelError as error:
        raise JobError(f"{path}: cannot be read as a table: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

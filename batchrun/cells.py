"""The directory of a matrix: a folder for the run of each cell, and `matrix.json`, which lists them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson

from batchrun import checkpoint, output
from batchrun.errors import CheckpointError
from batchrun.job import Cell
from batchrun.prepare import SIMULATED_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.job import Job

FILE_NAME = checkpoint.MATRIX_FILE


def is_matrix(directory: Path) -> bool:
    """Say whether a directory holds the runs of a matrix."""
    return (directory / FILE_NAME).is_file()


def read_cells(directory: Path) -> list[Cell]:
    """Return the cells that have been begun in a directory, in order; none when it is no matrix.

    Raises:
        CheckpointError: when the list cannot be read.
    """
    path = directory / FILE_NAME
    try:
        listed = orjson.loads(path.read_bytes())["cells"]
        cells = [Cell(str(cell["name"]), dict(cell["values"])) for cell in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); remove it, and run the matrix again: the cells "
            "are beside it, and what they hold is not sent again"
        ) from None
    return [cell for cell in cells if (directory / cell.name / checkpoint.FILE_NAME).is_file()]


def write_cells(directory: Path, jobs: Sequence[Job]) -> None:
    """List the cells of a matrix, and behind them those of earlier runs that it no longer has.

    A run of some cells keeps the order that there was.

    Raises:
        OutputError: when it cannot be written.
    """
    now = [job.cell for job in jobs if job.cell is not None]
    before = read_cells(directory)
    known = {cell.name for cell in before}
    if {cell.name for cell in now} < known:
        now, before = before, []
    listed = {cell.name: cell for cell in (*now, *before)}
    content = {"cells": [asdict(cell) for cell in listed.values()]}
    text = orjson.dumps(content, option=orjson.OPT_INDENT_2, default=str).decode()
    output.write_text(directory / FILE_NAME, f"{text}\n")


def runs_in(directory: Path) -> list[Path]:
    """Return the run directories of a matrix, or the directory itself when it is none."""
    if not is_matrix(directory):
        return [directory]
    return [directory / cell.name for cell in read_cells(directory)]


def is_simulated(directory: Path) -> bool:
    """Say whether a run directory, which may be that of a cell, is for simulated answers."""
    place = directory.resolve()
    return (place.parent if is_matrix(place.parent) else place).name.endswith(SIMULATED_SUFFIX)

"""Finds run directories: for a directory or a job file, and those in a folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import inspection, run
from batchrun.errors import JobError
from batchrun.job.reader import listed
from batchrun.run.matrix_runs import is_run, runs_in

if TYPE_CHECKING:
    from collections.abc import Iterator


def run_of(path: Path) -> Path:
    """Return the run directory for a directory, or for a job file or a table that was run.

    For a job, it is the directory of its run, or that of its simulated run if it has no other.

    Raises:
        JobError: when there is no run; the message names runs nearby.
    """
    if path.is_dir():
        return _directory(path)
    job = inspection.load_job(path)
    real = run.run_directory(job, run.RunOptions())
    simulated = run.run_directory(job, run.RunOptions(simulate=True))
    for directory in (real, simulated):
        if is_run(directory):
            return _shortened(directory)
    raise JobError(
        f"{path}: this job has no run yet (in {_shortened(real)}); start one with: "
        f"batchrun run {shlex.quote(str(path))}"
    )


def is_folder_of_runs(path: Path) -> bool:
    """Return whether a folder is not itself a run but has runs in it."""
    return path.is_dir() and not is_run(path) and any(runs_below(path))


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder in order; for a matrix, its cells."""
    for path in _runs_inside(folder):
        yield from (each for each in runs_in(path) if is_run(each))


def _directory(path: Path) -> Path:
    if is_run(path):
        return path
    inside = list(_runs_inside(path))
    if not inside:
        return path  # the command says what is missing there
    is_one = len(inside) == 1
    raise JobError(
        f"{path}: is not a run directory, but has {'a run' if is_one else 'runs'} in it: "
        f"{listed(each.name for each in inside)}; name {'it' if is_one else 'one of them'} with its "
        f"path, such as {inside[0]}"
    )


def _runs_inside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and is_run(path):
            yield path


def _shortened(path: Path) -> Path:
    """Return a path relative to the current folder if it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

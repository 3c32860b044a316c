"""Runs a matrix: one run for each cell, at the same time, with one budget and shared limits."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
import orjson

from batchrun import checkpoint, output, report
from batchrun.errors import BatchesOut, JobError, harmless
from batchrun.job.paths import is_simulated
from batchrun.report.formatting import in_columns
from batchrun.report.open_batches import come_back_together
from batchrun.run.interrupts import Interrupts
from batchrun.run.loop_threads import run_loop
from batchrun.run.matrix_runs import FILE_NAME, read_cells, table_of
from batchrun.run.run_directories import check_written_paths, run_directory
from batchrun.run.run_folders import folders_of
from batchrun.run.run_options import RunOptions
from batchrun.run.running import run_together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.errors import BatchrunError
    from batchrun.evaluation import ScoreTotals
    from batchrun.job import Job
    from batchrun.run.conclusion import RunReport


# The exit code of a matrix is the first of these that one of its cells ended with: interrupted,
# checkpoint unusable, stopped on purpose, outputs not written, batches out, some items errored.
WORST_FIRST = (130, 143, 129, 5, 4, 6, 7, 3, 0)


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """The state of the runs of a matrix after an execution.

    Attributes:
        directory: has a folder for each cell.
        cells: reports of the cells by name of the folder, in order.
    """

    directory: Path
    cells: dict[str, RunReport]

    @property
    def exit_code(self) -> int:
        """The worst exit code of the cells, by `WORST_FIRST`."""
        return min((cell.exit_code for cell in self.cells.values()), key=WORST_FIRST.index)

    @property
    def error(self) -> BatchrunError | None:
        """The error that ended the worst cell early; None if all finished."""
        worst = min(self.cells.values(), key=lambda cell: WORST_FIRST.index(cell.exit_code))
        return worst.error

    @property
    def scores(self) -> dict[str, ScoreTotals | None]:
        """The scores of the cells, by their names."""
        return {name: cell.score for name, cell in self.cells.items()}

    @property
    def problems(self) -> list[str]:
        """The errors that ended cells early, with the names of the cells."""
        by_message: dict[str, list[str]] = defaultdict(list)
        for name, cell in self.cells.items():
            if cell.error is not None and not isinstance(cell.error, BatchesOut):
                by_message[str(cell.error)].append(name)
        found = [
            message if len(names) == len(self.cells) else f"{' and '.join(names)}: {message}"
            for message, names in by_message.items()
        ]
        waiting = [cell for cell in self.cells.values() if isinstance(cell.error, BatchesOut)]
        errors = [cell.error for cell in waiting if isinstance(cell.error, BatchesOut)]
        out = [batch for cell in waiting for batch in cell.totals.open_batches]
        return [*found, str(come_back_together(out, errors))] if waiting else found

    @property
    def notes(self) -> list[str]:
        """Notes about missing content of files, with the names of the cells."""
        return [f"{name}: {note}" for name, cell in self.cells.items() for note in cell.notes]

    @property
    def shortfall(self) -> str | None:
        """The number of rows of all cells without an answer, with the most frequent reason; None if 0."""
        return report.shortfall([cell.totals for cell in self.cells.values()])

    @property
    def is_resumable(self) -> bool:
        """Whether the same command would continue the matrix."""
        return any(cell.is_resumable for cell in self.cells.values())

    def summary_text(self, *, colour: bool = False) -> str:
        """Return the table for the terminal. It has no colours."""
        del colour
        rows = {name: (cell.totals, cell.score) for name, cell in self.cells.items()}
        lines = [harmless(line) for line in in_columns(table_of(rows))]
        lines += [report.SIMULATED] if is_simulated(self.directory) else []
        compare = [f"compare: batchrun compare {self.directory}"] if len(rows) > 1 else []
        return "\n".join([*lines, f"results: {self.directory}", *compare])

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        rows = {name: (cell.totals, cell.score) for name, cell in self.cells.items()}
        notes = [report.SIMULATED] if is_simulated(self.directory) else []
        return report.table_html(table_of(rows), [*notes, *self.problems])


def run_matrix(job: Job, options: RunOptions | None = None) -> MatrixReport:
    """Run or resume every cell of a job with a `[matrix]`; return when all have ended.

    Raises:
        JobError: when the job or the input is wrong; nothing was sent.
        CheckpointError: when a run directory cannot be used.
        KeyboardInterrupt: see `run_job`.
    """
    return run_loop(partial(_run_matrix, job, options or RunOptions()))


async def arun_matrix(job: Job, options: RunOptions | None = None) -> MatrixReport:
    """Run or resume every cell inside an event loop; see `run_matrix`."""
    return await _run_matrix(job, options or RunOptions(), Interrupts())


async def _run_matrix(job: Job, options: RunOptions, interrupts: Interrupts) -> MatrixReport:
    if not job.cells:
        raise JobError(f"{job.name}: has no [matrix]; call run_job")
    check_written_paths(job, options)
    directory = run_directory(job, options)
    checkpoint.refuse_locked(directory)
    with checkpoint.open_directory(directory, new=options.new, files=job.output.files):
        write_cells(directory, job.cells)
        spent = await anyio.to_thread.run_sync(_spent_by_others, directory, job.cells)
        reports = await run_together(
            job.cells, replace(options, new=False), interrupts, spent_before=spent
        )
    names = [cell.cell.name for cell in job.cells if cell.cell is not None]
    return MatrixReport(directory, dict(zip(names, reports, strict=True)))


def _spent_by_others(directory: Path, jobs: Sequence[Job]) -> int:
    """Return the cost of the cells that this execution does not run, in pico-dollars."""
    names = {job.cell.name for job in jobs if job.cell is not None}
    spent = 0
    for cell in read_cells(directory):
        if cell.name in names:
            continue
        parts = folders_of(directory / cell.name)
        for run in (each for part in parts for each in (part, *checkpoint.judge_folders(part))):
            with closing(checkpoint.Checkpoint(run, writable=False)) as store:
                spent += store.spent()
    return spent


def write_cells(directory: Path, jobs: Sequence[Job]) -> None:
    """Write the list of cells: those of the matrix, then those that only earlier runs had.

    A run of some of the cells keeps the earlier order.

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

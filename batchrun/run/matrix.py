"""Runs a matrix: one run for each cell, at the same time, with one budget and shared limits."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import orjson

from batchrun import checkpoint, output, report
from batchrun.errors import BatchesOut, CheckpointError, JobError, harmless
from batchrun.evaluation import mean_score
from batchrun.job import Cell
from batchrun.job.paths import is_simulated
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import in_columns
from batchrun.report.open_batches import come_back_together, listed_batches
from batchrun.run import run_loop, run_together
from batchrun.run.interrupts import Interrupts
from batchrun.run.partitioned_run import folders_of, opened_checkpoint
from batchrun.run.parts import is_partitioned
from batchrun.run.preparation import RunOptions
from batchrun.run.run_directories import check_places, run_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from batchrun.errors import BatchrunError
    from batchrun.evaluation import ScoreTotals
    from batchrun.job import Job
    from batchrun.pricing.totals import RunTotals
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
        lines = [harmless(line) for line in in_columns(_table(rows))]
        lines += [report.SIMULATED] if is_simulated(self.directory) else []
        compare = [f"compare: batchrun compare {self.directory}"] if len(rows) > 1 else []
        return "\n".join([*lines, f"results: {self.directory}", *compare])

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        rows = {name: (cell.totals, cell.score) for name, cell in self.cells.items()}
        notes = [report.SIMULATED] if is_simulated(self.directory) else []
        return report.table_html(_table(rows), [*notes, *self.problems])


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
    check_places(job, options)
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


def matrix_status(directory: Path, *, as_json: bool) -> str:
    """Describe the runs of a matrix, live or dead.

    Raises:
        CheckpointError: when one of them has no usable checkpoint.
    """
    running = checkpoint.is_locked(directory)
    found = dict(_cell_totals(directory, running=running))
    damaged = {name: 0 if running else count_damaged(directory / name) for name in found}
    if not as_json:
        state = (
            "running" if running else report.state_of_all(totals for totals, _ in found.values())
        )
        simulated = [report.SIMULATED] if is_simulated(directory) else []
        hints = [damage_hint(count, directory / name) for name, count in damaged.items() if count]
        out = [
            f"{name}: {line}"
            for name, (totals, _) in found.items()
            for line in listed_batches(totals.open_batches)
        ]
        lines = [*in_columns(_table(found)), *simulated, *out, *hints]
        return "\n".join([state, *(harmless(line) for line in lines)])
    cells = {cell.name: cell.values for cell in read_cells(directory)}
    facts = {
        "running": running,
        "damaged": sum(damaged.values()),
        "total": _added(list(found.values())),
        "cells": [
            {
                "cell": name,
                "values": cells[name],
                "damaged": damaged[name],
                **report.summary(totals),
            }
            for name, (totals, _) in found.items()
        ],
    }
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def count_damaged(directory: Path) -> int:
    """Return the number of records of a run that do not match their checksums. Nobody may be writing to it."""
    found = 0
    for folder in folders_of(directory):
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            found += checkpoint.find_damage(store).count
    return found


def damage_hint(count: int, directory: Path) -> str:
    """Return the message of `batchrun status` about damaged records."""
    return f"{count:,} stored records do not match their checksums: batchrun verify {directory}"


def settled_totals(totals: RunTotals, *, running: bool) -> RunTotals:
    """Return the totals of a run. If no process works on it, attempts in flight count as possibly billed."""
    if running:
        return totals
    # The answers will not arrive, but the provider may have billed them.
    lost = totals.maybe_billed + totals.in_flight
    return replace(totals, maybe_billed=lost, in_flight=0, waiting=None)


def _cell_totals(
    directory: Path, *, running: bool
) -> Iterator[tuple[str, tuple[RunTotals, ScoreTotals | None]]]:
    for cell in read_cells(directory):
        with opened_checkpoint(directory / cell.name) as store:
            score = checkpoint.score_totals(store)
            totals = settled_totals(checkpoint.totals(store), running=running)
            yield cell.name, (totals, score if score.scored else None)


def _added(rows: Sequence[tuple[RunTotals, ScoreTotals | None]]) -> dict[str, Any]:
    every = [totals for totals, _ in rows]
    return {
        "rows": sum(totals.total for totals in every),
        "succeeded": sum(totals.succeeded for totals in every),
        "errored": sum(totals.errored for totals in every),
        "pending": sum(totals.pending for totals in every),
        "input_tokens": _sum(totals.usage.input_tokens for totals in every),
        "output_tokens": _sum(totals.usage.output_tokens for totals in every),
        "cost_usd": sum(totals.cost.total for totals in every) / PICO_PER_USD,
        "answers_without_price": sum(totals.unpriced for totals in every),
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    """Add up token counts; None if all are unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _tokens(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _table(rows: dict[str, tuple[RunTotals, ScoreTotals | None]]) -> list[list[str]]:
    """Return the rows of the table of cells: the header first, the totals last."""
    heads = ["cell", "rows", "ok", "errored", "pending", "score", "in", "out", "cost", "p50"]
    lines = [heads, *(_row(name, *row) for name, row in rows.items())]
    total = _added(list(rows.values()))
    counts = [f"{total[key]:,}" for key in ("rows", "succeeded", "errored", "pending")]
    tokens = [_tokens(total[key]) for key in ("input_tokens", "output_tokens")]
    cost = _cost(total["cost_usd"], total["answers_without_price"])
    return [*lines, ["total", *counts, "", *tokens, cost, ""]]


def _row(name: str, totals: RunTotals, score: ScoreTotals | None) -> list[str]:
    mean = None if score is None else mean_score(score)
    is_share = score is not None and score.is_binary
    latency = totals.latency_s.get("p50")
    return [
        name,
        *(f"{n:,}" for n in (totals.total, totals.succeeded, totals.errored, totals.pending)),
        "" if mean is None else f"{mean * 100:.1f} %" if is_share else f"{mean:.3f}",
        _tokens(totals.usage.input_tokens),
        _tokens(totals.usage.output_tokens),
        _cost(totals.cost.total / PICO_PER_USD, totals.unpriced),
        "" if latency is None else f"{latency:.2f} s",
    ]


def _cost(usd: float, unpriced: int) -> str:
    if unpriced:
        return f"${usd:,.4f} + unknown" if usd else "unknown"
    return f"${usd:,.4f}"


FILE_NAME = checkpoint.MATRIX_FILE


def is_matrix(directory: Path) -> bool:
    """Return whether a directory has the runs of a matrix."""
    return (directory / FILE_NAME).is_file()


def read_cells(directory: Path) -> list[Cell]:
    """Return the cells that were begun in a directory, in order; empty if it is not a matrix.

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
            f"{path}: cannot be read ({error}); remove it and run the matrix again. The cells in "
            "the same directory are kept, and their answers are not sent again"
        ) from None
    return [cell for cell in cells if _has_run(directory / cell.name)]


def _has_run(directory: Path) -> bool:
    return (directory / checkpoint.FILE_NAME).is_file() or is_partitioned(directory)


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


def runs_in(directory: Path) -> list[Path]:
    """Return the run directories of a matrix, or the directory itself."""
    if not is_matrix(directory):
        return [directory]
    return [directory / cell.name for cell in read_cells(directory)]

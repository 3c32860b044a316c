"""The runs of a matrix: which there are, and how far each is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import checkpoint, evaluation, job, report
from batchrun.errors import CheckpointError, JobError, harmless
from batchrun.job.paths import is_simulated
from batchrun.job.reader import listed
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import in_columns
from batchrun.report.open_batches import listed_batches
from batchrun.run.parts import is_partitioned
from batchrun.run.run_folders import folders_of, opened_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.job import Cell
    from batchrun.pricing.totals import RunTotals


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
        lines = [*in_columns(table_of(found)), *simulated, *out, *hints]
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


def table_of(rows: dict[str, tuple[RunTotals, ScoreTotals | None]]) -> list[list[str]]:
    """Return the rows of the table of cells: the header first, the totals last."""
    heads = ["cell", "rows", "ok", "errored", "pending", "score", "in", "out", "cost", "p50"]
    lines = [heads, *(_row(name, *row) for name, row in rows.items())]
    total = _added(list(rows.values()))
    counts = [f"{total[key]:,}" for key in ("rows", "succeeded", "errored", "pending")]
    tokens = [_tokens(total[key]) for key in ("input_tokens", "output_tokens")]
    cost = _cost(total["cost_usd"], total["answers_without_price"])
    return [*lines, ["total", *counts, "", *tokens, cost, ""]]


def _row(name: str, totals: RunTotals, score: ScoreTotals | None) -> list[str]:
    mean = None if score is None else evaluation.mean_score(score)
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
        cells = [job.Cell(str(cell["name"]), dict(cell["values"])) for cell in listed]
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


def is_run(directory: Path) -> bool:
    """Return whether a directory has a run: in one checkpoint, in parts, or as a matrix."""
    has_checkpoint = (directory / checkpoint.FILE_NAME).is_file()
    return has_checkpoint or is_matrix(directory) or is_partitioned(directory)


def runs_in(directory: Path) -> list[Path]:
    """Return the run directories of a matrix, or the directory itself."""
    if not is_matrix(directory):
        return [directory]
    return [directory / cell.name for cell in read_cells(directory)]


def begun_runs(directory: Path) -> list[Path]:
    """Return the directory of a run, or those of a matrix and of a run that shares its directory.

    Raises:
        CheckpointError: when no cell of the matrix has begun.
    """
    if not is_matrix(directory):
        return [directory]
    runs = [*([directory] if _has_run(directory) else []), *runs_in(directory)]
    if not runs:
        raise CheckpointError(f"{directory}: no cell of the matrix has started; run the job first")
    return runs


def single_run(directory: Path, what: str) -> Path:
    """Return a directory if it has a run of its own.

    Args:
        directory: the run directory.
        what: what is done with one run only, for the message.

    Raises:
        JobError: when it has only those of a matrix; names their directories.
        CheckpointError: when no cell of a matrix has begun.
    """
    runs = begun_runs(directory)
    if directory not in runs:
        raise JobError(
            f"{directory}: is a matrix, and {what}; name the directory of one of its runs, such as "
            f"{runs[0]}; the runs are {listed(run.name for run in runs)}"
        )
    return directory


def compared_runs(directories: Sequence[Path | str]) -> list[Path]:
    """Return the run directories to compare; a matrix stands for its cells.

    Raises:
        JobError: when there are fewer than two, or one is given twice.
    """
    runs = [run for directory in directories for run in runs_in(Path(directory))]
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise JobError("compare: name two different run directories or more")
    return runs

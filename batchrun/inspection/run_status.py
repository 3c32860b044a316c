"""`batchrun status`: how far a run is, live or dead."""

from __future__ import annotations

from pathlib import Path

import orjson

from batchrun import checkpoint, report
from batchrun.errors import CheckpointError
from batchrun.run.matrix_runs import (
    count_damaged,
    damage_hint,
    is_matrix,
    matrix_status,
    settled_totals,
)
from batchrun.run.run_folders import folders_of, totals_of_run


def status(directory: Path | str, *, as_json: bool, colour: bool = False) -> str:
    """Describe a running or ended run, or those of a matrix.

    The directory of a matrix may also have a run without a matrix. The text for people describes both.

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    directory = Path(directory)
    if not is_matrix(directory):
        return _run_status(directory, as_json=as_json, colour=colour)
    cells = matrix_status(directory, as_json=as_json)
    if as_json or not (directory / checkpoint.FILE_NAME).exists():
        return cells
    return f"{_run_status(directory, as_json=False, colour=colour)}\n\n{cells}"


def _run_status(directory: Path, *, as_json: bool, colour: bool) -> str:
    try:
        return _described_run(directory, as_json=as_json, colour=colour)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # What a damaged record holds may be of another type than the column.
        if not (damaged := count_damaged(directory)):
            raise
        raise CheckpointError(
            f"{directory}: the run cannot be described: {damage_hint(damaged, directory)}"
        ) from None


def _described_run(directory: Path, *, as_json: bool, colour: bool) -> str:
    running = checkpoint.is_locked(directory)
    totals = settled_totals(totals_of_run(directory), running=running)
    # Looking takes as long as adding up, and a live run is asked again and again.
    damaged = 0 if running else count_damaged(directory)
    if not as_json:
        text = report.status_text(totals, directory, running=running, colour=colour)
        lines = [text, *_judges_status(directory, colour=colour)]
        return "\n".join([*lines, *([damage_hint(damaged, directory)] if damaged else [])])
    facts = {"running": running, "waiting": totals.waiting, "damaged": damaged}
    facts |= report.summary(totals)
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def _judges_status(directory: Path, *, colour: bool) -> list[str]:
    """Describe the progress of the judges of a run, one line each; for a partitioned run over all parts."""
    every = [each for run in folders_of(directory) for each in checkpoint.judge_folders(run)]
    return [
        report.judge_status_line(
            checkpoint.totals_of_parts([each for each in every if each.name == name]),
            name,
            colour=colour,
        )
        for name in dict.fromkeys(folder.name for folder in every)
    ]

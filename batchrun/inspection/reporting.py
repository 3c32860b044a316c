"""`batchrun report`: writes `report.html` from a run directory, and from its input if it still exists.

For a matrix, there is a report of every cell, and one of all cells side by side.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson

from batchrun import checkpoint, output
from batchrun.errors import JobError, RunEnd
from batchrun.inspection.comparison import side_by_side
from batchrun.inspection.comparison_file import write_comparison
from batchrun.inspection.shown_rows import embedded_rows, usable_input
from batchrun.job import Job
from batchrun.job.paths import is_simulated
from batchrun.report.run_page import RunPageInfo, run_page
from batchrun.run.damage import check_intact
from batchrun.run.job_scores import evaluation_of
from batchrun.run.matrix_runs import begun_runs
from batchrun.run.partitioned_run import with_judges
from batchrun.run.run_folders import opened_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.pricing.totals import RunTotals
    from batchrun.source import Source


FILE_NAME = "report.html"
_UNSTOPPED = {RunEnd.UNFINISHED, RunEnd.FINISHED, RunEnd.SAMPLED, RunEnd.INTERRUPTED}


def write_report(directory: Path | str) -> Path:
    """Write `report.html` into the directory of a run; for a running one, its present state.

    In the directory of a matrix, it compares the cells, and has links to their reports.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: when there is no usable checkpoint.
        OutputError: when the file cannot be written.
    """
    directory = Path(directory)
    # A run that shares the directory of a matrix has its report there.
    runs = begun_runs(directory)
    if directory in runs:
        return _write_run_report(directory)
    return _write_matrix_report(directory, runs)


def run_scores(directory: Path | str) -> dict[str, ScoreTotals | None]:
    """Return the scores that are stored with a run, or with each run of a matrix, by name.

    The value is None for a run whose job has no `[score]`.

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    directory = Path(directory)
    found: dict[str, ScoreTotals | None] = {}
    for run in begun_runs(directory):
        with opened_checkpoint(run) as store:
            document, _, _ = store.job()
            totals = checkpoint.score_totals(store)
        found[run.absolute().name] = totals if document.get("score") else None
    return found


def _write_matrix_report(directory: Path, cells: Sequence[Path]) -> Path:
    for cell in cells:
        _write_run_report(cell)
    path = directory / FILE_NAME
    output.refuse_foreign_page(path, "report")
    links = {cell: f"{quote(cell.name, safe='')}/{FILE_NAME}" for cell in cells}
    title = directory.resolve().name
    write_comparison(side_by_side(cells), path, title=title, links=links)
    return path


def _write_run_report(directory: Path) -> Path:
    with opened_checkpoint(directory) as store:
        path = directory / FILE_NAME
        output.refuse_foreign_page(path, "report")
        text = _report(directory, store)
    output.write_text(path, text, again=f"batchrun report {directory}")
    return path


def _report(directory: Path, store: checkpoint.Checkpoint) -> str:
    document, base, _ = store.job()
    notes: list[str] = []
    job, source, score = None, None, None
    try:
        job = Job.from_document(document, Path(base), origin=str(store.path))
        check_intact(store, directory, job.output)
        job, source = usable_input(store)
        score = _score(directory, job, source, store)
    except JobError as problem:
        source = None
        notes.append(f"Prompts and scores are not shown: {problem}")
    totals = checkpoint.totals(store)
    running = checkpoint.is_locked(directory)
    info = RunPageInfo(
        state="running" if running else _state(totals),
        facts=_facts(document),
        is_simulated=is_simulated(directory),
        notes=notes,
        written_us=time.time_ns() // 1_000,
    )
    rows = embedded_rows([store], [totals.name], job, source)
    return run_page(totals, checkpoint.history(store), score, rows, info)


def _score(
    directory: Path, job: Job, source: Source, store: checkpoint.Checkpoint
) -> ScoreTotals | None:
    """Add up the scores; score the answers first if that was not done during the run."""
    evaluation = evaluation_of(job, source)
    if evaluation is None:
        return None
    evaluation.score(source, store, again=False)
    return with_judges(directory, evaluation, evaluation.totals(store))


def _state(totals: RunTotals) -> str:
    if not totals.executions:
        return "not started"
    outcome = totals.executions[-1]["outcome"]
    if outcome is RunEnd.PRECISE:
        outcome = RunEnd.FINISHED
    return outcome if outcome in _UNSTOPPED else "stopped"


def _facts(document: dict[str, object]) -> list[tuple[str, str]]:
    """Return facts about the job for the reader, without anything that could contain a secret."""
    wanted = {
        "Input": ("input", "path"),
        "Format": ("request", "format"),
        "Model": ("request", "model"),
        "System": ("request", "system"),
        "Prompt": ("request", "prompt"),
        "Temperature": ("request", "temperature"),
        "Max tokens": ("request", "max_tokens"),
        "Cost cap": ("limits", "max_cost_usd"),
    }
    found = []
    for label, (section, key) in wanted.items():
        values = document.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        if value is not None:
            found.append((label, value if isinstance(value, str) else orjson.dumps(value).decode()))
    return found

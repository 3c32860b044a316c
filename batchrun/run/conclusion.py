"""The end of an execution: output files, `summary.json` and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun import checkpoint, output, report
from batchrun.checkpoint import ATTEMPT_KINDS, result_kinds
from batchrun.errors import (
    BatchrunError,
    Interrupted,
    JobError,
    OutputError,
    RecordsDamaged,
    RunEnd,
)
from batchrun.run.damage import USAGE_FILE, check_intact
from batchrun.run.job_scores import score_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import polars as pl

    from batchrun.evaluation import ScoreTotals
    from batchrun.job import Job
    from batchrun.pricing.totals import RunTotals
    from batchrun.run.interrupts import Interrupts
    from batchrun.run.preparation import Prepared
    from batchrun.run.scoring import Evaluation
    from batchrun.source import Source


SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True)
class RunReport:
    """The state of a run after an execution.

    Attributes:
        totals: counts, tokens and money over all executions of the run.
        directory: the run directory.
        files: the outputs that were written.
        error: why the execution ended early, or why the outputs could not be written; None if it
            finished, whether or not rows failed.
        score: the score of the answers, if the job has a `[score]`.
        notes: notes about missing content of the files, such as truncated cells.
    """

    totals: RunTotals
    directory: Path
    files: tuple[Path, ...] = ()
    error: BatchrunError | None = field(default=None)
    score: ScoreTotals | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if all rows succeeded, 3 if some failed, otherwise the exit code of the error.

        A row without a judge's verdict counts as failed here.
        """
        if self.error is not None:
            return self.error.exit_code
        last = self.totals.executions[-1]["outcome"] if self.totals.executions else None
        # Rows that were not sent because the score is precise enough are no failure.
        pending = 0 if last is RunEnd.PRECISE else self.totals.pending
        return 3 if self.totals.errored or pending or self.without_verdict else 0

    @property
    def without_verdict(self) -> int:
        """Number of missing verdicts of judges, over all scorers."""
        judges = () if self.score is None else self.score.judges
        return sum(judge.without_verdict for judge in judges)

    @property
    def scores(self) -> dict[str, ScoreTotals | None]:
        """The score, by the name of the run."""
        return {self.totals.name: self.score}

    @property
    def problems(self) -> list[str]:
        """The error that ended the execution early, as a list of one message or none."""
        return [] if self.error is None else [str(self.error)]

    @property
    def shortfall(self) -> str | None:
        """The number of rows without an answer, with the most frequent reason; None if there are none."""
        return report.shortfall([self.totals])

    @property
    def is_resumable(self) -> bool:
        """Whether the same command would continue the run."""
        is_cut_short = isinstance(self.error, Interrupted)
        is_left = bool(self.totals.pending or self.totals.to_retry)
        return self.error is not None and (is_cut_short or is_left)

    @property
    def results(self) -> pl.LazyFrame:
        """The result table as a lazy frame: every input row with its columns and ours.

        Raises:
            OutputError: if it was not written.
        """
        return output.scan_results(self.directory, [path.name for path in self.result_files])

    @property
    def usage(self) -> pl.LazyFrame:
        """A lazy frame with one row for each attempt, including failed ones.

        Raises:
            OutputError: if it was not written.
        """
        return output.scan_results(self.directory, [USAGE_FILE])

    @property
    def result_files(self) -> tuple[Path, ...]:
        """The written files with results."""
        return tuple(p for p in self.files if p.name not in (USAGE_FILE, SUMMARY_FILE))

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        return report.summary(self.totals, self.score)

    def summary_text(self, *, colour: bool = False) -> str:
        """Return the summary for the terminal."""
        return report.summary_text(self.totals, self.directory, self.score, colour=colour)

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        problem = None if self.error is None else str(self.error)
        return report.summary_html(self.totals, self.directory, problem)


@dataclass(frozen=True, slots=True)
class Written:
    """The output files of a run with notes about missing content, its totals and its score."""

    files: tuple[Path, ...] = ()
    score: ScoreTotals | None = None
    totals: RunTotals | None = None
    notes: tuple[str, ...] = ()


class InterruptibleRows:
    """The checkpoint's rows for the scores and the outputs.

    Raises:
        Interrupted: if a signal arrives while they are read.
    """

    def __init__(self, store: checkpoint.Checkpoint, interrupts: Interrupts) -> None:
        self._store = store
        self._interrupts = interrupts
        self._count = interrupts.count

    def columns(self, first: int, end: int, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return these columns of the rows from ordinal `first` up to `end`."""
        self.check()
        return self._store.columns(first, end, names)

    def rows_within(self, first: int, end: int, most_bytes: int) -> int:
        """Return the number of these rows to read at once."""
        return self._store.rows_within(first, end, most_bytes)

    def attempt_columns(self, chunk_rows: int) -> Iterator[dict[str, list[Any]]]:
        """Yield the columns of the attempts in chunks."""
        for chunk in self._store.attempt_columns(chunk_rows):
            self.check()
            yield chunk

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived."""
        if self._interrupts.first is not None and self._interrupts.count > self._count:
            raise Interrupted(
                self._interrupts.first,
                "interrupted before the output files were written; all answers are saved",
            )


def conclude(
    plan: Prepared,
    store: checkpoint.Checkpoint,
    rows: InterruptibleRows,
    error: BatchrunError | None,
    is_placed: bool,
) -> RunReport:
    """Write the outputs, also after a stop. An error here does not affect the checkpoint.

    If the run stopped before all stored answers were matched to their rows (`is_placed` is false), the
    files of the earlier execution are kept: new ones would lack these answers.
    """
    written = Written()
    try:
        if is_placed:
            evaluation = plan.evaluation
            written = write_files(plan.job, plan.source, store, evaluation, rows=rows)
    except Interrupted as interrupted:
        error = error or interrupted
    except (OutputError, JobError) as problem:
        error = error or OutputError(str(problem))
    except RecordsDamaged as problem:
        error = problem
    # The totals of a large run take seconds to compute.
    totals = written.totals or checkpoint.totals(store)
    return RunReport(totals, plan.directory, written.files, error, written.score, written.notes)


def write_files(
    job: Job,
    source: Source,
    store: checkpoint.Checkpoint,
    evaluation: Evaluation | None,
    *,
    rows: InterruptibleRows | None = None,
    score_again: bool = True,
) -> Written:
    """Score the answers, and write the outputs and `summary.json`.

    `rows` are used in place of those of the checkpoint. Without `score_again`, stored scores are used.

    Raises:
        RecordsDamaged: when a stored record is damaged; then nothing is written.
        OutputError: when a file cannot be written, or the input changed during the run.
        JobError: when a file that no run wrote has the name of an output.
    """
    if not source.is_unchanged():
        raise OutputError(
            f"{job.input.path}: has changed during the run, so results cannot be matched to its "
            "rows; they are safe in the checkpoint. Run the job again: only new rows are sent"
        )
    directory = store.path.parent
    for name in job.output.files:
        output.refuse_foreign_results(directory / name, "[output] files", in_run_directory=True)
    # Before anything is written: an existing output may have the only correct copy of a damaged record.
    check_intact(store, directory, job.output)
    scores, score = None, None
    if evaluation is not None:
        evaluation.score(source, store, again=score_again, rows=rows)
        scores, score = score_table(job, store), evaluation.totals(store)
    kinds = result_kinds(job.request.optional_columns)
    results = output.Results(source, rows or store, kinds, scores)
    files = output.write_outputs(job.output, directory, results, ATTEMPT_KINDS)
    totals = checkpoint.totals(store)
    summary = directory / SUMMARY_FILE
    output.write_text(summary, report.summary_json(totals, score))
    return Written((*files.paths, summary), score, totals, files.notes)

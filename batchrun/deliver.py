"""What a run delivers: the scores of its answers, the result files, `summary.json`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from batchrun import checkpoint, output, report
from batchrun.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.evaluation import Evaluation
    from batchrun.job import Job
    from batchrun.scoring import ScoreTotals
    from batchrun.source import Source


@dataclass(frozen=True, slots=True)
class Written:
    """The outputs of a run, and what its answers are worth where that was asked."""

    files: tuple[Path, ...] = ()
    score: ScoreTotals | None = None


def write_files(
    job: Job,
    source: Source,
    store: checkpoint.Checkpoint,
    directory: Path,
    evaluation: Evaluation | None,
) -> Written:
    """Score the answers, and write the outputs and `summary.json`.

    Raises:
        OutputError: when a file cannot be written, or the input is no longer the one that was run.
    """
    if not source.is_unchanged():
        raise OutputError(
            f"{job.input.path}: has changed during the run, so results cannot be matched to its "
            "rows; they are safe in the checkpoint. Run the job again: only new rows are sent"
        )
    scores, score = None, None
    if evaluation is not None:
        evaluation.score(source, store)
        scores, score = partial(checkpoint.score_rows, store), evaluation.totals(store)
    files = output.write_outputs(job.output, directory, source, store, job.input.id, scores=scores)
    summary = directory / "summary.json"
    output.write_text(summary, report.summary_json(checkpoint.totals(store), score))
    return Written((*files, summary), score)

"""What the `[score]` of a job adds to its run: the evaluation, and the columns of the scores.

A job without `[score]` loads no ways of scoring.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from batchrun import checkpoint, evaluation, output
from batchrun.errors import JobError

if TYPE_CHECKING:
    from batchrun.evaluation import ScoreColumn
    from batchrun.job import Job, RequestConfig
    from batchrun.records import Kind
    from batchrun.run.scoring import Evaluation
    from batchrun.source import Source


def evaluation_of(job: Job, source: Source) -> Evaluation | None:
    """Return a job's evaluation; None if it has no `[score]`.

    Raises:
        JobError: see `Evaluation`.
    """
    if not job.scores:
        return None
    from batchrun.run.scoring import Evaluation  # noqa: PLC0415 - few commands score

    return Evaluation.of(job, source)


def check_reduce(job: Job) -> None:
    """Check that rows get as many answers as the scores need.

    Checked only for a run that sends: a finished run may have more answers than its job now asks for.

    Raises:
        JobError: names the scorer, both keys and the fix.
    """
    answers = _answers_per_row(job.request)
    for config in job.scores:
        needed = evaluation.answers_needed(config.reduce)
        if answers is None or answers >= needed:
            continue
        key = "n" if job.request.samples == 1 and answers > 1 else "samples"
        section = f"score.{config.name}" if config.name else "score"
        raise JobError(
            f'[{section}] reduce: "{config.reduce}" needs {needed} answers to each row, and '
            f"[request] {key} = {answers} asks for {answers}; set {key} = {needed}, or a lower number "
            "in reduce"
        )


def _answers_per_row(request: RequestConfig) -> int | None:
    """Return the number of answers of each row; None if it depends on the row."""
    n = request.parameters.get("n", request.extra_body.get("n", 1))
    return request.samples * n if isinstance(n, int) and "n" not in request.from_columns else None


def our_columns(job: Job) -> dict[str, Kind]:
    """Return the columns that are added to those of the input in the results of a job."""
    scores = {column.name: column.kind for column in columns_of_scores(job)}
    return {**checkpoint.result_kinds(job.request.optional_columns), **scores}


def columns_of_scores(job: Job) -> tuple[ScoreColumn, ...]:
    """Return the columns of a job's scores."""
    if not job.scores:
        return ()
    names = tuple(config.name for config in job.scores)
    judged = {config.name for config in job.scores if config.judge is not None}
    confident = "logprobs" in job.request.optional_columns
    return evaluation.score_columns(names, judged, confident=confident)


def score_table(job: Job, store: checkpoint.Checkpoint) -> output.ScoreTable | None:
    """Return the columns of a job's scores for the outputs; None if it has no `[score]`."""
    if not job.scores:
        return None
    columns = columns_of_scores(job)
    kinds = {column.name: column.kind for column in columns}
    return output.ScoreTable(kinds, partial(checkpoint.score_rows, store, columns))

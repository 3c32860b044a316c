"""`batchrun estimate`: requests, tokens, cost and duration of a run, before it is sent.

Renders and counts the rows as a run does, and looks up the answers that the run directory already
has. The tokens of a prompt are estimated from its characters; existing answers, such as those of
`--sample`, correct that estimate and show how long answers are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun import checkpoint, evaluation
from batchrun.checkpoint import RequestSize
from batchrun.estimation.estimator import Estimator
from batchrun.estimation.judging_costs import judge_estimates
from batchrun.estimation.ranges import Estimate, RowsForPrecision
from batchrun.estimation.text import estimate_json, estimate_text
from batchrun.estimation.tokens import prompt_tokens
from batchrun.limits import most_output
from batchrun.pricing import price_book
from batchrun.render import Renderer
from batchrun.run.division import divided
from batchrun.run.model_checks import service_tier
from batchrun.run.run_directories import run_directory
from batchrun.run.run_folders import has_begun, opened_checkpoint
from batchrun.run.run_options import RunOptions
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchrun.job import Job
    from batchrun.records import RenderedItem


# Fewer scores than these say too little about how much scores vary.
FEWEST_SCORED = 20


def estimate(job: Job, options: RunOptions | None = None, *, sample: int = 0) -> list[Estimate]:
    """Estimate a job: one estimate, or one for each cell of a matrix.

    Args:
        job: the job.
        options: the options that the run would have.
        sample: number of requests to send first, for rows spread evenly over the input. Their
            results belong to the run and are not requested again.

    Raises:
        JobError: when the job or the input is wrong.
        RunStopped: when the sample could not be sent. Other errors of a run are possible too.
    """
    options = options or RunOptions()
    if sample:
        _send_sample(job, options, sample)
    return [_estimate_cell(cell, options) for cell in job.cells or (job,)]


def _send_sample(job: Job, options: RunOptions, sample: int) -> None:
    # An estimate without a sample sends nothing.
    from batchrun.run.matrix import run_matrix  # noqa: PLC0415 - slow to load
    from batchrun.run.running import run_job  # noqa: PLC0415 - slow to load

    rows = even_rows(Source(job.input).count(), -(-sample // job.request.samples))
    options = replace(options, rows=rows)
    report = run_matrix(job, options) if job.cells else run_job(job, options)
    if report.error is not None:
        raise report.error


def even_rows(total: int, count: int) -> frozenset[int]:
    """Return the ordinals of `count` rows, spread evenly over `total` rows; always the same."""
    count = min(count, total)
    return frozenset((2 * n + 1) * total // (2 * count) for n in range(count))


def _estimate_cell(job: Job, options: RunOptions) -> Estimate:
    source = Source(job.input)
    renderer = Renderer(job, source.columns)
    renderer.check_columns()
    source.check_ids()
    rows = source.count()  # an error in a column that the template does not use stops the run, too
    directory = run_directory(job, options)
    estimator = Estimator(job, price_book(job), service_tier(job))
    places = divided(job, source, directory, rows)
    for folder, part in places:
        with checkpoint.request_counter(folder) as counter:
            for rendered in renderer.table_chunks(part):
                estimator.add_rows(rendered)
                counter.add(_asked(rendered))
            for counted in counter.counts(retry_errored=options.retry_errored):
                estimator.add_requests(counted)
    found = replace(estimator.estimate(directory), precision=_precision(job, directory))
    return replace(found, judges=judge_estimates(job, places, found))


def _precision(job: Job, directory: Path) -> RowsForPrecision | None:
    """Return the number of rows that the score needs: from the scores of the run, or else an upper bound."""
    kinds = {evaluation.kind_of(config) for config in job.scores}
    if not kinds or evaluation.ScoreKind.ANY in kinds:
        return None
    if has_begun(directory):
        with opened_checkpoint(directory, checkpoint.SCORED) as store:
            totals = checkpoint.score_totals(store)
        if totals.scored >= FEWEST_SCORED and (rows := evaluation.rows_needed(totals)) is not None:
            return RowsForPrecision(rows, totals.scored)
    widths = evaluation.HALF_WIDTHS
    return RowsForPrecision({f"{width:g}": evaluation.rows_for(width) for width in widths})


def _asked(rendered: list[RenderedItem]) -> Iterator[RequestSize]:
    for item in rendered:
        if item.request is not None and item.fingerprint is not None:
            tokens, system = prompt_tokens(item.request)
            yield RequestSize(
                item.fingerprint,
                item.request.model,
                tokens.low,
                tokens.expected,
                tokens.high,
                system.expected,
                most_output(item.request),
            )


__all__ = ["Estimate", "estimate", "estimate_json", "estimate_text", "even_rows"]

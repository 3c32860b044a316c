"""`batchrun estimate`: what a run would send, take and cost, before it does.

Rows are rendered and counted as a run would, beside the answers that the run directory has already.
Prompts are measured by their characters; answers that are there, such as those of `--sample`, say
how far that is right, and how long answers are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.checkpoint import Asked
from batchrun.estimation.ranges import Estimate
from batchrun.estimation.survey import Survey
from batchrun.estimation.text import estimate_json, estimate_text
from batchrun.estimation.tokens import Gauge
from batchrun.limits import most_output
from batchrun.render import Renderer
from batchrun.run import run_job
from batchrun.run.matrix import run_matrix
from batchrun.run.preparation import RunOptions, price_book, run_directory, service_tier
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.job import Job
    from batchrun.records import RenderedItem


def estimate(job: Job, options: RunOptions | None = None, *, sample: int = 0) -> list[Estimate]:
    """Estimate a job; of a matrix, each cell.

    Args:
        job: what to ask.
        options: how it would be run.
        sample: send so many requests first, of rows that are spread evenly over the input. They are
            results of the run like any other, and are not sent again.

    Raises:
        JobError: when the job or the input is wrong.
        RunStopped: when the sample could not be sent, or any other error of a run.
    """
    options = options or RunOptions()
    if sample:
        _send_sample(job, options, sample)
    return [_estimated(cell, options) for cell in job.cells or (job,)]


def _send_sample(job: Job, options: RunOptions, sample: int) -> None:
    rows = even_rows(Source(job.input).count(), -(-sample // job.request.samples))
    options = replace(options, rows=rows)
    report = run_matrix(job, options) if job.cells else run_job(job, options)
    if report.error is not None:
        raise report.error


def even_rows(total: int, count: int) -> frozenset[int]:
    """Return the ordinals of so many rows, spread evenly over all, the same ones every time."""
    count = min(count, total)
    return frozenset((2 * n + 1) * total // (2 * count) for n in range(count))


def _estimated(job: Job, options: RunOptions) -> Estimate:
    source = Source(job.input)
    renderer = Renderer(job, source.columns)
    source.check_ids()
    directory = run_directory(job, options)
    gauge, survey = Gauge(), Survey(job, price_book(job), service_tier(job))
    with checkpoint.census(directory) as census:
        for rendered in renderer.table_chunks(source):
            survey.look_at(rendered)
            census.add(_asked(rendered, gauge))
        for counted in census.counted(retry_errored=options.retry_errored):
            survey.count(counted)
    return survey.estimate(directory)


def _asked(rendered: list[RenderedItem], gauge: Gauge) -> Iterator[Asked]:
    for item in rendered:
        if item.request is not None and item.fingerprint is not None:
            size = gauge.measure(item.request)
            yield Asked(
                item.fingerprint,
                item.request.model,
                size.tokens.low,
                size.tokens.expected,
                size.tokens.high,
                size.system,
                most_output(item.request),
            )


__all__ = ["Estimate", "estimate", "estimate_json", "estimate_text", "even_rows"]

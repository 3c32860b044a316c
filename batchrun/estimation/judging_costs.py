"""Estimates the judging of the answers of a run, even before there are answers.

Stored answers are rendered as they will be judged. For the other rows, an empty answer is rendered, and the
estimated tokens of an answer are added to the input.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.checkpoint import RequestSize
from batchrun.estimation.estimator import Estimator
from batchrun.estimation.tokens import prompt_tokens
from batchrun.limits import most_output
from batchrun.pricing import price_book
from batchrun.run.answered_rows import AnsweredRow, texts_of
from batchrun.run.job_scores import evaluation_of
from batchrun.run.model_checks import service_tier
from batchrun.run.signatures import plan_signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.checkpoint import Checkpoint
    from batchrun.estimation.ranges import Estimate
    from batchrun.job import Job
    from batchrun.records import Item, RenderedItem
    from batchrun.run.judging import Judge
    from batchrun.source import Source


CHUNK_ROWS = 500
# The longest answer that is expected where the job sets no max_tokens.
UNBOUNDED_ANSWER = 4_096


def judge_estimates(
    job: Job, places: Sequence[tuple[Path, Source]], rows: Estimate
) -> tuple[Estimate, ...]:
    """Estimate what each judge of a job would send and cost.

    Args:
        job: the job.
        places: the directories of its checkpoints, each with its rows; see `divided`.
        rows: the estimate for its rows.

    Raises:
        JobError: when the section of a judge is wrong.
    """
    evaluation = evaluation_of(job, places[0][1])
    if evaluation is None:
        return ()
    return tuple(_estimate(judge, job, places, rows) for judge in evaluation.judges)


def _answers(job: Job, source: Source, directory: Path, opened: ExitStack) -> Checkpoint | None:
    """Open a checkpoint of the run, if its rows are those of the job."""
    if not checkpoint.holds_run(directory):
        return None
    store = opened.enter_context(closing(checkpoint.Checkpoint(directory, writable=False)))
    begun = checkpoint.latest_plan(store)
    is_same = begun is not None and begun[0] == plan_signature(job, source)
    return store if is_same else None


def _estimate(
    judge: Judge, job: Job, places: Sequence[tuple[Path, Source]], rows: Estimate
) -> Estimate:
    estimator = Estimator(judge.job, price_book(judge.job), service_tier(judge.job))
    number = job.request.samples * int(job.request.parameters.get("n") or 1)
    for directory, source in places:
        with ExitStack() as opened:
            store = _answers(job, source, directory, opened)
            counter = opened.enter_context(checkpoint.request_counter(directory / judge.folder))
            for items in source.items(judge.columns, CHUNK_ROWS):
                for row, is_answered in _rows(items, store, number):
                    rendered = judge.renderer.render(judge.items(row))
                    estimator.add_rows(rendered)
                    counter.add(_sizes(rendered, row.item, None if is_answered else rows))
            for counted in counter.counts(retry_errored=False):
                estimator.add_requests(counted)
    return replace(estimator.estimate(rows.directory / judge.folder), warnings=())


def _rows(
    items: Sequence[Item], store: Checkpoint | None, number: int
) -> Iterator[tuple[AnsweredRow, bool]]:
    """Yield the rows with their answers, or with the same number of empty ones, and whether they have answers."""
    found = {}
    if store is not None:
        rows = checkpoint.answers(store, items[0].ordinal, items[-1].ordinal + 1)
        found = {row[0]: texts_of(*row[2:]) for row in rows}
    for item in items:
        texts = found.get(item.ordinal)
        yield AnsweredRow(item, texts or [""] * number), texts is not None


def _sizes(
    rendered: Sequence[RenderedItem], row: Item, unanswered: Estimate | None
) -> Iterator[RequestSize]:
    """Yield the sizes of requests; for rows without an answer, the expected answer is added."""
    low, expected, high = (0.0, 0.0, 0.0) if unanswered is None else _answer_tokens(unanswered)
    for number, item in enumerate(rendered):
        if item.request is None or item.fingerprint is None:
            continue
        tokens, system = prompt_tokens(item.request)
        # Different answers are judged one by one, though nobody knows them yet.
        mark = b"" if unanswered is None else b"%d:%d" % (row.ordinal, number)
        yield RequestSize(
            item.fingerprint + mark,
            item.request.model,
            tokens.low + low,
            tokens.expected + expected,
            tokens.high + high,
            system.expected,
            most_output(item.request),
        )


def _answer_tokens(rows: Estimate) -> tuple[float, float, float]:
    """Return the fewest, the expected and the most tokens of one answer."""
    if not rows.requests:
        return 0.0, 0.0, 0.0
    low, expected, high = rows.output.low, rows.output.expected, rows.output.high
    most = UNBOUNDED_ANSWER if high is None else high / rows.requests
    return low / rows.requests, expected / rows.requests, most

"""`stop_at`: rows are sent in random order, and scored as they arrive, until the score is precise enough."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun import checkpoint, evaluation
from batchrun.dispatch import BATCH
from batchrun.errors import JobError, RunEnd, Stop
from batchrun.records import Item
from batchrun.run.answered_rows import AnsweredRow, texts_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.evaluation import ConfidenceSequence, RowScore
    from batchrun.job import Job
    from batchrun.run.preparation import Prepared
    from batchrun.run.run_options import RunOptions

PLACES = 2**64
# Rows that are drawn at once: the table is read once for each draw, and its rows are in memory.
FEWEST_DRAWN = 200
MOST_DRAWN = 2_000
DRAWN_SHARE = 0.2  # of what has been drawn before
# Rows whose answers are read and scored at a time.
SCORED_AT_ONCE = 500


def draws(total: int) -> Iterator[range]:
    """Yield the places (in the random order) of the rows to draw next, until all rows are drawn."""
    drawn = first = 0
    while first < PLACES:
        drawn += min(MOST_DRAWN, max(FEWEST_DRAWN, int(drawn * DRAWN_SHARE)))
        end = PLACES if drawn >= total else PLACES * drawn // total
        yield range(first, end)
        first = end


def check_stop_at(job: Job, options: RunOptions) -> None:
    """Check that a run can end by `stop_at`.

    Raises:
        JobError: says what to remove.
    """
    if all(config.stop_at is None for config in job.scores):
        return
    if options.dispatcher is BATCH:
        raise JobError(
            "[score] stop_at needs answers that arrive one by one; remove it, or --batch"
        )
    if options.rows_to is not None:
        raise JobError(
            "[score] stop_at sends rows in random order; remove it to read rows in order"
        )
    if job.request.dedupe:
        raise JobError(
            "[score] stop_at draws rows at random, each with its own answer; remove it, or "
            "[request] dedupe"
        )


class PrecisionCheck:
    """Scores rows in the order in which they were drawn, until the scores are precise enough.

    A row counts only when all rows drawn before it have their results. Otherwise rows with fast answers
    would be preferred, which biases the score.

    Args:
        plan: plan of the run; at least one scorer has `stop_at`.
        store: its checkpoint.
        journal: gives access to the checkpoint.
    """

    def __init__(
        self, plan: Prepared, store: checkpoint.Checkpoint, journal: checkpoint.CheckpointJournal
    ) -> None:
        self._store = store
        self._journal = journal
        self._directory = plan.directory
        self._total = plan.total
        self._scorers = () if plan.evaluation is None else plan.evaluation.stopping
        self._sequences = [evaluation.ConfidenceSequence(plan.total) for _ in self._scorers]
        self._drawn: deque[Item] = deque()
        self._counted = 0
        self._lock = anyio.Lock()
        needed = {name for scorer in self._scorers for name in scorer.columns}
        self.columns: tuple[str, ...] = tuple(sorted(needed))

    def draw(self, items: Sequence[Item]) -> None:
        """Note the rows that are drawn next, in this order."""
        for item in items:
            values = {name: item.values[name] for name in self.columns}
            self._drawn.append(Item(item.ordinal, item.custom_id, values))

    async def look(self) -> Stop | None:
        """Score the answers that have arrived; return why to stop, None if the scores are not precise enough."""
        async with self._lock:
            while not self._is_precise and await self._count_some():
                pass
            return self._stop() if self._is_precise else None

    async def _count_some(self) -> bool:
        """Score the next rows in order that have results; return whether there may be more of them."""
        items = [self._drawn[n] for n in range(min(SCORED_AT_ONCE, len(self._drawn)))]
        ordinals = [item.ordinal for item in items]
        found = await self._journal.call(checkpoint.settled_answers, self._store, ordinals)
        items = items[: len(found)]
        rows = [
            AnsweredRow(item, texts_of(*answer))
            for item, answer in zip(items, found, strict=True)
            if answer is not None
        ]
        for sequence, scorer in zip(self._sequences, self._scorers, strict=True):
            scores = await anyio.to_thread.run_sync(partial(scorer.score, rows, self._directory))
            _add(sequence, items, scores)
        for _ in items:
            self._drawn.popleft()
        self._counted += len(items)
        return len(items) == SCORED_AT_ONCE

    @property
    def _is_precise(self) -> bool:
        return self._counted > 0 and all(
            sequence.half_width <= (scorer.config.stop_at or 0)
            for sequence, scorer in zip(self._sequences, self._scorers, strict=True)
        )

    def _stop(self) -> Stop:
        widths = ", ".join(
            f"±{100 * sequence.half_width:.2g} %"
            f"{f' ({scorer.config.name})' if scorer.config.name else ''}"
            for sequence, scorer in zip(self._sequences, self._scorers, strict=True)
        )
        reason = f"stopped at {widths}, {self._counted:,} of {self._total:,} rows"
        return Stop(RunEnd.PRECISE, reason)


def _add(sequence: ConfidenceSequence, items: Sequence[Item], scores: Sequence[RowScore]) -> None:
    """Add the scores of rows in the order of the rows; those without a score are skipped."""
    by_row = {score.ordinal: score.score for score in scores}
    for item in items:
        score = by_row.get(item.ordinal)
        if score is None:
            sequence.skip()
        else:
            sequence.add(score)


def stopping_at(
    plan: Prepared, store: checkpoint.Checkpoint, journal: checkpoint.CheckpointJournal
) -> PrecisionCheck | None:
    """Return the check that ends a run when its scores are precise enough; None without `stop_at`."""
    if plan.evaluation is None or not plan.evaluation.stopping:
        return None
    return PrecisionCheck(plan, store, journal)


def in_random_order(items: Sequence[Item]) -> list[Item]:
    """Return rows in the order in which they are drawn."""
    return sorted(items, key=lambda item: evaluation.random_place(item.ordinal))

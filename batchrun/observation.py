"""What an execution tells others while it runs: the bar, and the log of events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchrun import __version__
from batchrun.checkpoint import note_price
from batchrun.pricing import NewPrices

if TYPE_CHECKING:
    from batchrun.checkpoint import Checkpoint, Journal
    from batchrun.events import EventLog
    from batchrun.prepare import Prepared, RunOptions
    from batchrun.pricing import PriceBook
    from batchrun.progress import Progress
    from batchrun.records import Attempt, AttemptStart, Result, Turn


class ObservedJournal:
    """The checkpoint's journal, with the bar and the log told once something is safe.

    The prices that are used are kept beside the attempts.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        store: Checkpoint,
        prices: PriceBook,
        progress: Progress,
        log: EventLog,
    ) -> None:
        self._journal = journal
        self._store = store
        self._prices = NewPrices(prices)
        self._progress = progress
        self._log = log
        # Attempts that are counted already and may be the last of their row all the same: of
        # conversations that go on, and of rows whose refusal may be the run's fault.
        self._counted: dict[int, int] = {}

    async def begin(self, start: AttemptStart) -> None:
        """See `dispatch.Journal`, as for the following."""
        await self._journal.begin(start)

    async def fail(self, attempt: Attempt) -> None:
        """An attempt failed, and the request goes on or stays pending."""
        await self._journal.fail(attempt)
        self._progress.used(attempt)
        self._counted[attempt.key] = attempt.number
        self._log.failed(attempt)
        await self._note_price(attempt)

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """A conversation has a turn of the model."""
        await self._journal.turn(turn, attempt)
        if attempt is not None:
            self._progress.used(attempt)
            self._counted[attempt.key] = attempt.number
        await self._note_price(attempt)

    async def finish(self, result: Result) -> None:
        """A request has its result."""
        await self._journal.finish(result)
        is_counted = self._counted.pop(result.key, None) == result.last.number
        self._progress.finished(result, is_counted=is_counted)
        self._log.finished(result)
        await self._note_price(result.last)

    async def _note_price(self, attempt: Attempt | None) -> None:
        """Keep by which price a model's costs are counted, when it is new."""
        if attempt is None:
            return
        models, now = (attempt.model, attempt.asked_model), datetime.now(UTC)
        price = self._prices.of(attempt.usage, *models, billing=attempt.billing, at=now)
        if price is not None:
            await self._journal.call(note_price, self._store, price)


def started(plan: Prepared, execution: int, options: RunOptions) -> dict[str, Any]:
    """Return what the log says of an execution that begins."""
    request = plan.job.request
    return {
        "version": __version__,
        "execution": execution,
        "directory": str(plan.directory),
        "rows": plan.total,
        "format": request.format,
        "base_url": request.base_url,
        "provider": request.provider_name,
        "model": request.model,
        "simulated": options.simulate is not None,
        "date": plan.job.date,
    }

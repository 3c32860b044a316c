"""The journals of a run: after each commit, the progress bar and the log are updated."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.checkpoint import note_price
from batchrun.formats.sent_batches import BatchStage
from batchrun.pricing import NewPrices
from batchrun.report.formatting import counted
from batchrun.report.open_batches import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.checkpoint import Checkpoint, CheckpointJournal
    from batchrun.formats import RemoteBatch
    from batchrun.formats.sent_batches import BatchMember, SentBatch
    from batchrun.pricing import PriceBook
    from batchrun.pricing.totals import PriceUse
    from batchrun.records import Attempt, AttemptStart, Result, Turn
    from batchrun.run.events import RunLog
    from batchrun.run.finished_rows import FinishedRows
    from batchrun.run.progress import Progress


class _Observed:
    """Base of both journals.

    Args:
        journal: gives access to the checkpoint.
        store: the checkpoint.
        prices: prices of the run. They are stored in the checkpoint when they are first used.
        progress: shows what has happened.
        log: reports steps.
        rows: hands over the rows that have their results; None if nobody reads them.
    """

    def __init__(
        self,
        journal: CheckpointJournal,
        *,
        store: Checkpoint,
        prices: PriceBook,
        progress: Progress,
        log: RunLog,
        rows: FinishedRows | None = None,
    ) -> None:
        self._journal = journal
        self._store = store
        self._prices = NewPrices(prices)
        self._progress = progress
        self._log = log
        self._rows = rows
        # Attempts that are counted already and may still be the last of their row: of conversations
        # that continue, and of held refusals.
        self._counted: dict[int, int] = {}
        # Open batches, by tag.
        self._open: dict[str, SentBatch] = {}

    async def _hand_over(self, finished: Sequence[Result]) -> None:
        if self._rows is not None and finished:
            await self._rows.finished([result.key for result in finished])

    async def _note_price(self, attempt: Attempt | None) -> None:
        if attempt is not None and (price := self._new_price(attempt, datetime.now(UTC))):
            await self._keep_price(price)

    def _new_price(self, attempt: Attempt, at: datetime) -> PriceUse | None:
        """Return the price of an answer when it is first used."""
        models = attempt.model, attempt.asked_model
        return self._prices.of(attempt.usage, *models, billing=attempt.billing, at=at)

    async def _keep_price(self, price: PriceUse) -> None:
        await self._journal.call(note_price, self._store, price)


class ObservedJournal(_Observed):
    """The checkpoint's journal; after each commit, it updates the progress bar and the log.

    Prices are stored in the checkpoint when they are first used.
    """

    async def begin(self, start: AttemptStart) -> None:
        """See `dispatch.Journal`, also for the following methods."""
        await self._journal.begin(start)

    async def fail(self, attempt: Attempt) -> None:
        """Record a failed attempt; its request is sent again or stays pending."""
        # In this order: what is shown or logged is on disk.
        await self._journal.fail(attempt)
        await self._has_failed(attempt)

    async def _has_failed(self, attempt: Attempt) -> None:
        self._progress.used(attempt)
        self._counted[attempt.key] = attempt.number
        self._log.failed(attempt)
        self._log.dropped(attempt)
        await self._note_price(attempt)

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """Record a turn of the model."""
        await self._journal.turn(turn, attempt)
        await self._has_turn(attempt)

    async def _has_turn(self, attempt: Attempt | None) -> None:
        if attempt is not None:
            self._progress.used(attempt)
            self._counted[attempt.key] = attempt.number
        await self._note_price(attempt)

    async def keep(
        self,
        begun: Sequence[AttemptStart],
        failed: Sequence[Attempt],
        turns: Sequence[tuple[Turn, Attempt | None]],
        finished: Sequence[Result],
    ) -> None:
        """Record several events at once."""
        await self._journal.keep(begun, failed, turns, finished)
        for attempt in failed:
            await self._has_failed(attempt)
        for _, answered in turns:
            await self._has_turn(answered)
        await self._have_results(finished)

    async def finish(self, result: Result) -> None:
        """Record the result of a request."""
        await self._journal.finish(result)
        await self._have_results((result,))

    async def _have_results(self, finished: Sequence[Result]) -> None:
        for result in finished:
            is_counted = self._counted.pop(result.key, None) == result.last.number
            self._progress.finished(result, is_counted=is_counted)
            self._log.finished(result)
            if (price := self._new_price(result.last, result.finished_at)) is not None:
                await self._keep_price(price)
        if self._rows is not None:
            await self._hand_over(finished)


class ObservedBatches(_Observed):
    """Stores batches in the checkpoint, and shows them; see `dispatch.BatchJournal`."""

    async def intend(self, batch: SentBatch, starts: Sequence[AttemptStart]) -> None:
        """Record that a batch is about to be created from these attempts."""
        await self._journal.call(checkpoint.intend_batch, self._store, batch, starts)
        self._open[batch.tag] = batch
        self._show()

    async def uploaded(self, tag: str, file_id: str) -> None:
        """Record that the requests of a batch were uploaded."""
        await self._journal.call(checkpoint.note_upload, self._store, tag, file_id)

    async def sent(self, tag: str, remote: RemoteBatch, *, is_proven: bool = True) -> None:
        """Record that the vendor has the batch."""
        keep = partial(checkpoint.note_sent, self._store, tag, remote, is_proven=is_proven)
        await self._journal.call(keep)
        self._open[tag] = replace(self._open[tag], stage=BatchStage.SENT).seen(remote)
        self._show()
        self._log.write("batch", tag=tag, id=remote.id, state="sent", rows=self._open[tag].rows)

    async def seen(self, tag: str, remote: RemoteBatch) -> None:
        """Record the state of a batch as the vendor reports it."""
        await self._journal.call(checkpoint.note_state, self._store, tag, remote)
        self._open[tag] = self._open[tag].seen(remote)
        self._show()
        self._log.write("batch", tag=tag, id=remote.id, state=remote.state, rows=remote.rows)

    async def disown(self, tag: str, remote_id: str) -> None:
        """Record that the vendor's batch with this id is another one."""
        await self._journal.call(checkpoint.note_other, self._store, tag, remote_id)

    async def collect(
        self, tag: str, attempts: Sequence[Attempt], results: Sequence[Result]
    ) -> None:
        """Record some outcomes of a batch."""
        await self._journal.call(checkpoint.collect_batch, self._store, tag, attempts, results)
        for attempt in attempts:
            self._progress.used(attempt)
            self._log.failed(attempt)
            self._log.dropped(attempt)
            await self._note_price(attempt)
        for result in results:
            self._progress.finished(result)
            self._log.finished(result)
            await self._note_price(result.last)
        batch = self._open[tag]
        self._open[tag] = replace(batch, out=batch.out - len(attempts) - len(results))
        self._show()
        await self._hand_over(results)

    async def close(
        self, tag: str, error_type: str, message: str, *, maybe_billed: bool, latency_s: float
    ) -> int:
        """Close a batch; members without an outcome get this error. Return their number."""
        close = partial(
            checkpoint.close_batch,
            self._store,
            tag,
            error_type,
            message,
            maybe_billed=maybe_billed,
            latency_s=latency_s,
        )
        left = await self._journal.call(close)
        batch = self._forget(tag)
        rows = batch.rows if batch else 0
        self._log.write("batch", tag=tag, state="collected", rows=rows, unanswered=left)
        if left and maybe_billed:
            name = tag if batch is None else batch.remote_id or tag
            were = "it is" if left == 1 else "they are"
            self._log.note(
                f"batch {name}: {message}; {counted(left, 'row')} may have been billed without an "
                f"answer, and {were} pending again"
            )
        return left

    async def void(self, tag: str, reason: str) -> None:
        """Record that the vendor does not have a batch, or refused it as a whole."""
        await self._journal.call(checkpoint.void_batch, self._store, tag, reason)
        batch = self._forget(tag)
        rows = batch.rows if batch else 0
        self._log.write("batch", tag=tag, state="void", rows=rows, reason=reason)

    async def batches(self, *, open_only: bool) -> Sequence[SentBatch]:
        """Return the batches of the run."""
        read = partial(checkpoint.batches, self._store, open_only=open_only)
        found = await self._journal.call(read)
        self._open = {batch.tag: batch for batch in found if batch.is_open}
        self._show()
        return found

    async def members(self, tag: str) -> Mapping[int, BatchMember]:
        """Return the requests of a batch without an outcome, by key."""
        return await self._journal.call(checkpoint.batch_members, self._store, tag)

    async def row_at(self, tag: str, line: int) -> str | None:
        """Return the id of the row at a line of a batch, from 1; None if there is no such line."""
        return await self._journal.call(checkpoint.row_at, self._store, tag, line)

    def _forget(self, tag: str) -> SentBatch | None:
        batch = self._open.pop(tag, None)
        self._show()
        return batch

    def _show(self) -> None:
        self._progress.batches(
            self, None if not self._open else describe(list(self._open.values()))
        )

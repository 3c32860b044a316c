"""Reading, rendering and planning, ahead of the workers: rows become the requests to be sent."""

from __future__ import annotations

from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun import checkpoint
from batchrun.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anyio.abc import ObjectSendStream

    from batchrun.dispatch import Dispatcher
    from batchrun.events import EventLog
    from batchrun.prepare import Prepared, RunOptions
    from batchrun.progress import Progress
    from batchrun.records import Item, PlannedRequest, RenderedItem, Reuse


# So many rows from all over the input are looked at, and about half of them sent, when the provider
# refuses those at its head: a run that nothing is wrong with but its head then finds an answer unless
# nearly all of it is wrong. To read so much of a table takes a second or two.
LOOKED_AT = 24
MOST_SENT = 12
MOST_LOOKED_THROUGH = 1_000_000


class Feed:
    """Hands the requests of one run to its dispatcher, as fast as they are taken.

    Args:
        plan: what is asked of which rows.
        store: the run's checkpoint.
        journal: lends it.
        dispatcher: is draining when nothing more is to be sent.
        options: which rows, and what to do about errored ones.
        progress: is told of rows that need no request.
        note: tells the user something.
        log: is told of requests and of rows that cannot become one.
        reuse: what a changed plan uses again, when the user has been told that already.
    """

    def __init__(
        self,
        plan: Prepared,
        *,
        store: checkpoint.Checkpoint,
        journal: checkpoint.Journal,
        dispatcher: Dispatcher,
        options: RunOptions,
        progress: Progress,
        note: Callable[[str], None],
        log: EventLog,
        reuse: Reuse | None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._journal = journal
        self._dispatcher = dispatcher
        self._options = options
        self._progress = progress
        self._note = note
        self._log = log
        self._reuse = reuse
        self._samples = plan.job.request.samples
        self._reused = 0
        self._sent = 0
        self._sending = anyio.CancelScope()
        self._has_unplaced: bool | None = None
        self._is_through = True
        self._early: set[int] = set()  # rows that were sent out of turn
        self._early_keys: set[int] = set()
        self.is_planned = False

    async def run(self, send: ObjectSendStream[list[PlannedRequest]]) -> None:
        """Plan every row that is to be sent; returns when all are, or the dispatcher drains.

        Raises:
            BatchrunError: when the input or the checkpoint fails.
        """
        self._dispatcher.on_drain(self._stop_sending)
        if self._options.rows is not None:
            await self._plan_rows(send, is_known=False)
            return
        mark = self._plan.mark
        is_known = await self._journal.call(self._store.is_planned, mark)
        if not (is_known and await self._is_settled(0, self._plan.total)):
            await self._plan_rows(send, is_known=is_known)
            if not self._is_through:
                return
        await self._journal.call(self._store.finish_plan, self._plan.total, mark)
        if self._options.retry_errored:
            await self._journal.call(checkpoint.forget_damaged_requests, self._store)
        self.is_planned = True
        self._tell_reused()

    def _tell_reused(self) -> None:
        if self._reused and self._reuse is None:
            requests = "1 request" if self._sent == 1 else f"{self._sent:,} requests"
            rest = f"{requests} to send" if self._sent else "nothing to send"
            shared = " or duplicates" if self._plan.job.request.dedupe else ""
            unit = self._progress.unit
            self._note(f"{self._reused:,} {unit}s already done{shared}, {rest}")

    async def _plan_rows(
        self, send: ObjectSendStream[list[PlannedRequest]], *, is_known: bool
    ) -> None:
        chunks = self._chunks(self._options.rows)
        while items := await anyio.to_thread.run_sync(_next_chunk, chunks):
            first, end = items[0].ordinal, items[-1].ordinal + 1
            is_known_here = is_known and not self._early & {*range(first, end)}
            if is_known_here and await self._is_settled(first, end):
                continue
            for rendered in self._plan.renderer.chunks(items, self._samples):
                await self._plan_chunk(rendered, send)
                if self._dispatcher.is_draining and not await self._must_plan_on():
                    self._is_through = False
                    return

    async def _plan_chunk(
        self, rendered: list[RenderedItem], send: ObjectSendStream[list[PlannedRequest]]
    ) -> None:
        pending = await self._planned(rendered)
        bad = sum(item.fingerprint is None for item in rendered)
        early = len(self._early & {item.ordinal // self._samples for item in rendered})
        pending = [request for request in pending if request.key not in self._early_keys]
        self._log.unrenderable(rendered)
        self._log.planned(pending)
        self._count(len(rendered), bad, len(pending) + early)
        await self._hand_over(pending, send)

    async def _planned(self, rendered: list[RenderedItem]) -> list[PlannedRequest]:
        return await self._journal.call(
            self._store.plan,
            rendered,
            retry_errored=self._options.retry_errored,
            dedupe=self._plan.job.request.dedupe,
        )

    async def elsewhere(self) -> list[PlannedRequest]:
        """Return a few requests that stand all over the input, of several models where it has them.

        They are sent out of turn: the rows at its head were all refused.
        """
        rows = min(self._plan.total, MOST_LOOKED_THROUGH)
        wanted = frozenset((2 * n + 1) * rows // (2 * LOOKED_AT) for n in range(LOOKED_AT))
        found = {} if self._options.rows is not None else await self._first_of_each(wanted)
        chosen = _of_several_models(found)
        self._early |= chosen.keys()
        self._early_keys |= {request.key for request in chosen.values()}
        self._log.planned(list(chosen.values()))
        return list(chosen.values())

    async def _first_of_each(self, wanted: frozenset[int]) -> dict[int, PlannedRequest]:
        """Plan some rows; return the first request of each that has one to be sent."""
        found: dict[int, PlannedRequest] = {}
        chunks, left = self._chunks(wanted), len(wanted)
        with suppress(JobError):  # of a row further on: it ends the run when its turn comes
            while left and not self._dispatcher.is_draining:
                items = await anyio.to_thread.run_sync(_next_chunk, chunks, abandon_on_cancel=True)
                left = left - len(items) if items else 0
                for item in items or ():
                    for rendered in self._plan.renderer.chunks([item], self._samples):
                        pending = await self._planned(rendered)
                        found.update((item.ordinal, request) for request in pending[:1])
        return found

    def _chunks(self, wanted: frozenset[int] | None) -> Iterator[list[Item]]:
        """Yield the rows that are to be looked at; no chunk is empty."""
        chunks = self._plan.renderer.read(self._plan.source, self._samples)
        if wanted is None:
            return chunks
        picked = ([item for item in items if item.ordinal in wanted] for items in chunks)
        return (items for items in picked if items)

    async def _is_settled(self, first: int, end: int) -> bool:
        """Say whether rows that have their requests already need nothing more; then count them.

        A run that is nearly done is resumed without rendering what is done.
        """
        first, end = first * self._samples, end * self._samples
        to_send, bad = await self._journal.call(
            self._store.standing, first, end, retry_errored=self._options.retry_errored
        )
        if not to_send:
            self._count(end - first, bad, 0)
        return not to_send

    async def _hand_over(
        self, pending: list[PlannedRequest], send: ObjectSendStream[list[PlannedRequest]]
    ) -> None:
        with anyio.CancelScope() as self._sending:
            if pending and not self._dispatcher.is_draining:
                await send.send(pending)

    def _stop_sending(self) -> None:
        self._sending.cancel()

    async def _must_plan_on(self) -> bool:
        """Whether answers of earlier executions are still to be matched to their rows.

        After a change of the input or the template they are; the outputs would lack them.
        """
        if self._has_unplaced is None:
            self._has_unplaced = await self._journal.call(self._store.has_unplaced_results)
        return self._has_unplaced

    def _count(self, rows: int, unrenderable: int, to_send: int) -> None:
        self._progress.unrenderable(unrenderable)
        reused = rows - unrenderable - to_send
        self._progress.reused(reused)
        self._reused += reused
        self._sent += to_send


def _next_chunk(chunks: Iterator[list[Item]]) -> list[Item] | None:
    return next(chunks, None)


def _of_several_models(found: Mapping[int, PlannedRequest]) -> dict[int, PlannedRequest]:
    """Return some of the requests by row: of each model in turn, rows far from each other."""
    by_model: dict[str, list[int]] = {}
    for ordinal, request in found.items():
        by_model.setdefault(request.request.model, []).append(ordinal)
    spread = [[*each[1::2], *each[::2]] for each in by_model.values()]
    in_turn = [ordinal for row in zip_longest(*spread) for ordinal in row if ordinal is not None]
    return {ordinal: found[ordinal] for ordinal in in_turn[:MOST_SENT]}

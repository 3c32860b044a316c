"""From rows to requests: reads, renders and plans rows ahead of the dispatcher."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun import checkpoint, evaluation
from batchrun.errors import JobError
from batchrun.run.precision import draws, in_random_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anyio.streams.memory import MemoryObjectSendStream

    from batchrun.checkpoint import PlannedChunk, Reuse
    from batchrun.errors import Stop
    from batchrun.records import Item, PlannedRequest, RenderedItem
    from batchrun.run.events import RunLog
    from batchrun.run.finished_rows import FinishedRows
    from batchrun.run.precision import PrecisionCheck
    from batchrun.run.preparation import Prepared
    from batchrun.run.progress import Progress
    from batchrun.run.run_options import RunOptions

    RequestStream = MemoryObjectSendStream[list[PlannedRequest]]

# When the provider refuses the first rows, SAMPLED_ROWS from all over the input are read and about half
# of them sent: if only the beginning of the input is wrong, one of these gets an answer. To read this
# much of a table takes a second or two.
SAMPLED_ROWS = 24
MOST_SENT = 12
MOST_SEARCHED_ROWS = 1_000_000
# Drawn rows are sent a few at a time, because each may be the last.
SENT_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that this process may work on: its directory is locked, its checkpoint is open.

    Attributes:
        reuse: the earlier answers that a changed plan reuses; None if nothing has changed.
        label: name of the run in messages; empty if there is only one.
        price_provider: provider whose prices `recost` was given; None if it was not used.
        price_note: a message about that price.
        judges: the runs of its judges.
        number: number of this execution; None for the next one of the run.
        has_succeeded: whether this execution had answers in other parts of the run.
    """

    plan: Prepared
    store: checkpoint.Checkpoint
    reuse: Reuse | None = None
    label: str = ""
    price_provider: str | None = None
    price_note: str | None = None
    judges: tuple[OpenRun, ...] = ()
    number: int | None = None
    has_succeeded: bool = False

    @property
    def name(self) -> str:
        """The name of the run; with its label, unique in this process."""
        return f"{self.plan.job.name} {self.label}".strip()


@dataclass(frozen=True, slots=True)
class FirstPass:
    """Observers of the first pass over the rows of a run.

    Attributes:
        progress: counts rows that need no request.
        precision: takes rows in random order, and ends the run; None for rows in their order.
        rows: hands over rows that already have their results; None if nobody reads them.
    """

    progress: Progress
    precision: PrecisionCheck | None = None
    rows: FinishedRows | None = None


class Feed:
    """Plans the rows of one run and puts their requests into a stream, as fast as they are received.

    It ends early when the receiver closes the stream.

    Args:
        run: the run.
        journal: gives access to the checkpoint.
        options: which rows, and whether to retry failed ones.
        log: reports rows and requests.
        first: None if the rows were planned and counted before, and some must be sent again.
    """

    def __init__(
        self,
        run: OpenRun,
        journal: checkpoint.CheckpointJournal,
        options: RunOptions,
        log: RunLog,
        first: FirstPass | None,
    ) -> None:
        self._plan = run.plan
        self._store = run.store
        self._reuse = run.reuse
        self._journal = journal
        self._options = options
        self._log = log
        self._progress = None if first is None else first.progress
        self._rows = None if first is None else first.rows
        self._precision = None if first is None else first.precision
        self._samples = run.plan.job.request.samples
        self._reused = self._out = 0
        self._sent = 0
        self._has_unplaced: bool | None = None
        self._early: set[int] = set()  # rows that were sent before their turn
        self._early_keys: set[int] = set()
        self.is_planned = False
        self.stop: Stop | None = None

    async def run(self, send: RequestStream) -> None:
        """Plan every row; returns when all are planned, or early when the receiver closes the stream.

        Raises:
            BatchrunError: when the input or the checkpoint fails.
        """
        if self._options.rows is not None:
            await self._plan_rows(send, is_known=False)
        elif await self._plan_all(send):
            await self._finish_plan()

    async def _plan_all(self, send: RequestStream) -> bool:
        """Plan every row; return False if that ended early."""
        is_known = await self._journal.call(self._store.is_planned, self._plan.mark)
        # Rows that are handed over must be read.
        if is_known and self._rows is None and await self._is_settled(0, self._plan.total):
            return True
        if self._precision is not None:
            return await self._plan_draws(send, self._precision)
        return await self._plan_rows(send, is_known=is_known)

    async def _finish_plan(self) -> None:
        # Only after the last row: an interrupted plan must not delete rows that it did not reach.
        await self._journal.call(self._store.finish_plan, self._plan.total, self._plan.mark)
        if self._options.retry_errored:
            await self._journal.call(checkpoint.forget_damaged_requests, self._store)
        self.is_planned = True
        self._note_reused()

    def _note_reused(self) -> None:
        if self._progress is not None and (self._reused or self._out) and self._reuse is None:
            requests = "1 request" if self._sent == 1 else f"{self._sent:,} requests"
            rest = f"{requests} to send" if self._sent else "nothing to send"
            shared = " or duplicates" if self._plan.job.request.dedupe else ""
            unit = self._progress.unit
            out = f"{self._out:,} in batches, " if self._out else ""
            self._log.note(f"{self._reused:,} {unit}s already done{shared}, {out}{rest}")

    async def _plan_rows(self, send: RequestStream, *, is_known: bool) -> bool:
        """Plan the rows in their order; return False if that ended early."""
        chunks = self._chunks(self._options.rows)
        while items := await anyio.to_thread.run_sync(_next_chunk, chunks):
            if self._rows is not None:
                self._rows.read(items)
            if is_known and await self._pass_over(items):
                continue
            for rendered in self._plan.renderer.chunks(items, self._samples):
                await self._plan_chunk(rendered, send)
                if _is_closed(send) and not await self._must_plan_rest():
                    return False
        return True

    async def _pass_over(self, items: Sequence[Item]) -> bool:
        """Count planned rows if none of them has anything to send; return whether that is so."""
        first, end = items[0].ordinal, items[-1].ordinal + 1
        if self._early & {*range(first, end)} or not await self._is_settled(first, end):
            return False
        if self._rows is not None:
            await self._rows.settled(first, end)
        return True

    async def _plan_draws(self, send: RequestStream, precision: PrecisionCheck) -> bool:
        """Plan the rows as they are drawn; return False if the scores became precise enough before the last."""
        for places in draws(self._plan.total):
            items = await anyio.to_thread.run_sync(
                self._read_drawn, places, precision.columns, abandon_on_cancel=True
            )
            drawn = in_random_order(items)
            precision.draw(drawn)
            requests: list[PlannedRequest] = []
            for rendered in self._plan.renderer.chunks(items, self._samples):
                _, pending = await self._plan_requests(rendered)
                requests += pending
            place = {item.custom_id: n for n, item in enumerate(drawn)}
            requests.sort(key=lambda request: place[request.custom_id])
            is_open = await self._send_draw(requests, send, precision)
            if not is_open and not await self._must_plan_rest():
                return False
        return True

    def _read_drawn(self, places: range, more: Sequence[str]) -> list[Item]:
        """Return the rows with these places in the random order, in the order of the table."""
        chunks = self._plan.renderer.read(self._plan.table, self._samples, more)
        return [
            item
            for items in chunks
            for item in items
            if evaluation.random_place(item.ordinal) in places
        ]

    async def _send_draw(
        self, requests: Sequence[PlannedRequest], send: RequestStream, precision: PrecisionCheck
    ) -> bool:
        """Send the requests of drawn rows; return whether the next rows may be drawn."""
        for first in range(0, len(requests), SENT_AT_ONCE):
            self.stop = self.stop or await precision.look()
            if self.stop is not None or _is_closed(send):
                return False
            with suppress(anyio.BrokenResourceError):
                await send.send([*requests[first : first + SENT_AT_ONCE]])
        self.stop = self.stop or await precision.look()
        return self.stop is None and not _is_closed(send)

    async def _plan_chunk(self, rendered: list[RenderedItem], send: RequestStream) -> None:
        planned, pending = await self._plan_requests(rendered)
        if pending and not _is_closed(send):
            with suppress(anyio.BrokenResourceError):
                await send.send(pending)
        if self._rows is not None and rendered:
            first, last = (rendered[at].ordinal // self._samples for at in (0, -1))
            await self._rows.settled(first, last + 1, planned)

    async def _plan_requests(
        self, rendered: list[RenderedItem]
    ) -> tuple[PlannedChunk, list[PlannedRequest]]:
        """Plan rows; return their plan, and the requests to send that were not already sent early."""
        planned = await self._planned(rendered)
        bad = sum(item.fingerprint is None for item in rendered)
        early = len(self._early & {item.ordinal // self._samples for item in rendered})
        pending = [r for r in planned.requests if r.key not in self._early_keys]
        self._log.unrenderable(rendered)
        self._log.planned(pending)
        self._count(len(rendered), bad, len(pending) + early, planned.out)
        return planned, pending

    async def _planned(self, rendered: list[RenderedItem]) -> PlannedChunk:
        return await self._journal.call(
            self._store.plan_chunk,
            rendered,
            retry_errored=self._options.retry_errored,
            dedupe=self._plan.job.request.dedupe,
        )

    async def sample(self) -> list[PlannedRequest]:
        """Return requests of rows that are far from each other, with several models if there are several.

        They are sent early, because the first rows of the input were all refused.
        """
        rows = min(self._plan.total, MOST_SEARCHED_ROWS)
        wanted = frozenset((2 * n + 1) * rows // (2 * SAMPLED_ROWS) for n in range(SAMPLED_ROWS))
        found = {} if self._options.rows is not None else await self._first_of_each(wanted)
        chosen = _of_several_models(found)
        self._early |= chosen.keys()
        self._early_keys |= {request.key for request in chosen.values()}
        self._log.planned(list(chosen.values()))
        return list(chosen.values())

    async def _first_of_each(self, wanted: frozenset[int]) -> dict[int, PlannedRequest]:
        """Plan some rows; return the first pending request of each row that has one."""
        found: dict[int, PlannedRequest] = {}
        chunks, left = self._chunks(wanted), len(wanted)
        with suppress(JobError):  # of a later row: it ends the run when that row is planned
            while left:
                items = await anyio.to_thread.run_sync(_next_chunk, chunks, abandon_on_cancel=True)
                left = left - len(items) if items else 0
                for item in items or ():
                    for rendered in self._plan.renderer.chunks([item], self._samples):
                        planned = await self._planned(rendered)
                        found.update((item.ordinal, r) for r in planned.requests[:1])
        return found

    def _chunks(self, wanted: frozenset[int] | None) -> Iterator[list[Item]]:
        """Yield the wanted rows, or all; no chunk is empty."""
        more = () if self._rows is None else self._rows.columns
        chunks = self._plan.renderer.read(self._plan.table, self._samples, more)
        if wanted is None:
            return chunks
        picked = ([item for item in items if item.ordinal in wanted] for items in chunks)
        return (items for items in picked if items)

    async def _is_settled(self, first: int, end: int) -> bool:
        """Return whether rows that are already planned have nothing to send; if so, count them.

        So a run that is nearly done resumes without rendering the rows that are done.
        """
        first, end = first * self._samples, end * self._samples
        found = await self._journal.call(
            self._store.count_unsettled, first, end, retry_errored=self._options.retry_errored
        )
        if not found.to_send:
            self._count(end - first, found.unrenderable, 0, found.out)
        return not found.to_send

    async def _must_plan_rest(self) -> bool:
        """Return whether the remaining rows must be planned although nothing more is sent.

        After a change of the input or the template, answers of earlier executions must be matched to
        their rows. Otherwise the outputs would lack them.
        """
        if self._has_unplaced is None:
            self._has_unplaced = await self._journal.call(self._store.has_unused_results)
        return self._has_unplaced

    def _count(self, rows: int, unrenderable: int, to_send: int, out: int) -> None:
        if self._progress is None:
            return
        self._progress.unrenderable(unrenderable)
        reused = rows - unrenderable - to_send - out
        self._progress.reused(reused)
        self._reused += reused
        self._out += out
        self._sent += to_send


def _is_closed(send: RequestStream) -> bool:
    """Return whether the receiver has closed the stream, so that nothing more is sent."""
    return send.statistics().open_receive_streams == 0


def _next_chunk(chunks: Iterator[list[Item]]) -> list[Item] | None:
    return next(chunks, None)


def _of_several_models(found: Mapping[int, PlannedRequest]) -> dict[int, PlannedRequest]:
    """Return some of the requests by row: the models in turn, with rows far from each other."""
    by_model: dict[str, list[int]] = {}
    for ordinal, request in found.items():
        by_model.setdefault(request.request.model, []).append(ordinal)
    spread = [[*each[1::2], *each[::2]] for each in by_model.values()]
    in_turn = [ordinal for row in zip_longest(*spread) for ordinal in row if ordinal is not None]
    return {ordinal: found[ordinal] for ordinal in in_turn[:MOST_SENT]}

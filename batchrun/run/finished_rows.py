"""Hands the rows of a run to a reader in the same event loop as soon as each has its result."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

from batchrun import checkpoint, output
from batchrun.checkpoint import result_kinds
from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batchrun.checkpoint import Checkpoint, CheckpointJournal, PlannedChunk
    from batchrun.records import Item
    from batchrun.run.pipeline import OpenRun
    from batchrun.run.preparation import Prepared

# Rows that wait for the reader; with more, what finishes next waits too, and no more is sent.
ROWS_AHEAD = 16


class RowBuffer:
    """Rows between a run and its reader; both are in one event loop."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque()
        self._changed = anyio.Event()
        self.is_closed = False

    async def put(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; returns when the reader has taken enough of them, or does not read any more."""
        if not rows or self.is_closed:
            return
        self._rows.extend(rows)
        self._change()
        # A slow reader must slow down the run, or its rows would fill the memory.
        while len(self._rows) > ROWS_AHEAD and not self.is_closed:
            await self._changed.wait()

    async def take(self) -> dict[str, Any] | None:
        """Return the next row; None when there are no more."""
        while not self._rows:
            if self.is_closed:
                return None
            await self._changed.wait()
        row = self._rows.popleft()
        self._change()
        return row

    def close(self) -> None:
        """End the buffer: waiting calls of `put` return. Rows that are in it can still be taken."""
        self.is_closed = True
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class FinishedRows:
    """Finds the rows that have their results, and puts each into a buffer once.

    A row is in memory from the time it is read until it has its result.

    Args:
        plan: plan of the run.
        store: its checkpoint.
        journal: gives access to the checkpoint.
        buffer: receives the rows.
    """

    def __init__(
        self, plan: Prepared, store: Checkpoint, journal: CheckpointJournal, buffer: RowBuffer
    ) -> None:
        config, request = plan.job.output, plan.job.request
        self.columns = plan.source.columns
        self._store = store
        self._journal = journal
        self._buffer = buffer
        self._samples = request.samples
        self._kinds = result_kinds(request.optional_columns)
        self._properties = config.unnest
        self._names = output.result_names(self.columns, config.prefix, config.unnest, self._kinds)
        self._waiting: dict[int, Item] = {}

    def read(self, items: Sequence[Item]) -> None:
        """Note rows that are about to be planned; their items have all columns."""
        self._waiting.update((item.ordinal, item) for item in items)

    async def settled(self, first: int, end: int, planned: PlannedChunk | None = None) -> None:
        """Hand over rows from ordinal `first` up to `end` that have results already.

        Args:
            first: ordinal of the first row.
            end: ordinal after the last row.
            planned: has the requests that are sent, perhaps again; their results will follow.
        """
        keys = [request.key for request in planned.requests] if planned is not None else []
        to_come = await self._rows_of(keys) if keys else ()
        await self._hand_over(first, end, besides=set(to_come))

    async def finished(self, keys: Sequence[int]) -> None:
        """Hand over the rows of requests that have just got their results."""
        if self._buffer.is_closed:
            return
        for ordinal in await self._rows_of(keys):
            await self._hand_over(ordinal, ordinal + 1)

    async def _rows_of(self, keys: Sequence[int]) -> list[int]:
        found = await self._journal.call(checkpoint.places_of_requests, self._store, keys)
        return sorted({place // self._samples for place in found})

    async def _hand_over(self, first: int, end: int, besides: Collection[int] = ()) -> None:
        names = tuple(self._kinds)
        while first < end and not self._buffer.is_closed:
            last = min(end, first + ROWS_AHEAD)
            found = await self._journal.call(self._store.columns, first, last, names)
            answers = output.row_values(found, self._kinds, self._properties)
            rows = [
                {**self._waiting.pop(ordinal).values, **self._named(answer)}
                for ordinal, answer in zip(found["ordinal"], answers, strict=True)
                if ordinal in self._waiting and ordinal not in besides
                if answer["status"] != Status.PENDING.value
            ]
            await self._buffer.put(rows)
            first = last

    def _named(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {self._names[name]: value for name, value in answer.items()}


def finished_rows(
    run: OpenRun, journal: CheckpointJournal, buffer: RowBuffer | None
) -> FinishedRows | None:
    """Return the object that hands over the rows of a run; None if nobody reads them, as for a judge."""
    if buffer is None or run.plan.judge is not None:
        return None
    return FinishedRows(run.plan, run.store, journal, buffer)

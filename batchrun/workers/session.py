"""The owner's side of one worker: grants its leases, records its events, and answers its questions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from batchrun.errors import BatchrunError, JobError, ProviderFault
from batchrun.limits import Cause
from batchrun.records import Attempt, AttemptStart, Result, Status, changed
from batchrun.workers.protocol import (
    AboveReported,
    Answer,
    AskLease,
    BackoffAnswer,
    Begin,
    Cancel,
    ChunkTaken,
    CoolDown,
    Count,
    Drain,
    Ended,
    Fail,
    Failed,
    Finish,
    Grant,
    HasInFlight,
    IsOwnFault,
    NoMoreRequests,
    Ready,
    Recorded,
    Refuse,
    Renewed,
    RowEncoder,
    Sample,
    SetConcurrency,
    Settle,
    SucceededSince,
    TakeTurn,
    Withdraw,
    decode_report,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from anyio.abc import TaskGroup

    from batchrun.dispatch.ports import Permit
    from batchrun.limits import CapReached
    from batchrun.records import LimitState, PlannedRequest, Turn
    from batchrun.workers.channel import Channel
    from batchrun.workers.owner import WorkersDispatcher
    from batchrun.workers.protocol import Ordered, Setup, WorkerReport

# Chunks that a worker has ahead of those that its dispatcher took.
CHUNKS_AHEAD = 2


@dataclass(slots=True)
class OpenLease:
    """A lease that was granted.

    Attributes:
        permit: the permit of the owner's limits.
        start: the recorded start of the attempt.
        is_settled: the permit has been settled.
        is_closed: the attempt has been recorded with its outcome.
    """

    permit: Permit
    start: AttemptStart
    model: str
    is_settled: bool = False
    is_closed: bool = False

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        """Settle the permit with the outcome of the attempt."""
        self.is_settled = True
        self.permit.settle(attempt, reported)

    def close(self) -> bool:
        """Note that the outcome of the attempt is recorded; return whether it was not yet."""
        was_open, self.is_closed = not self.is_closed, True
        return was_open


@dataclass(slots=True)
class UnrecordedEvents:
    """Events that are recorded together, and the orders that follow when they are on disk."""

    begun: list[AttemptStart] = field(default_factory=list)
    failed: list[Attempt] = field(default_factory=list)
    turns: list[tuple[Turn, Attempt | None]] = field(default_factory=list)
    finished: list[Result] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    recorded: int = 0

    def count(self) -> None:
        """Count an event that the worker waits for."""
        self.recorded += 1


class WorkerSession:
    """One worker, from its start to its end.

    Args:
        owner: the owner, which all workers share.
        channel: the channel to the worker.
        setup: its first order.

    Attributes:
        has_ended: it has drained, or has nothing left to do.
        is_ready: it has everything that the job needs.
        is_answered: the provider has answered it.
    """

    def __init__(self, owner: WorkersDispatcher, channel: Channel, setup: Setup) -> None:
        self._owner = owner
        self._channel = channel
        self._orders: list[Ordered] = [setup]
        self._has_orders = anyio.Event()
        self._has_orders.set()
        self._rows = RowEncoder()
        self._assigned: dict[int, PlannedRequest] = {}
        self._leases: dict[int, OpenLease] = {}
        self._latest: dict[int, int] = {}
        self._numbers: dict[int, int] = {}  # of the last attempt, by key
        self._asked: set[int] = set()
        self._unrecorded = UnrecordedEvents()
        self._has_events = anyio.Event()
        self._recorded = 0
        self._ahead = 0
        self._concurrency = 0
        self._group: TaskGroup | None = None
        self._last: WorkerReport | None = None
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            AskLease: self._on_ask,
            Withdraw: self._on_withdraw,
            Settle: self._on_settle,
            Begin: self._on_begin,
            Fail: self._on_fail,
            TakeTurn: self._on_turn,
            Finish: self._on_finish,
            CoolDown: self._on_cool_down,
            IsOwnFault: self._on_is_own_fault,
            AboveReported: self._on_above_reported,
            SucceededSince: self._on_succeeded_since,
            HasInFlight: self._on_has_in_flight,
            Sample: self._on_sample,
            Count: self._on_count,
            Ready: self._on_ready,
            ChunkTaken: self._on_chunk_taken,
            Renewed: self._on_renewed,
            Ended: self._on_ended,
            Failed: self._on_failed,
        }
        self.has_ended = False
        self.is_answered = False
        self.is_alive = True
        self.is_ready = False

    @property
    def has_room(self) -> bool:
        """Whether it should be given another chunk."""
        return self.is_alive and self.is_ready and self._ahead < CHUNKS_AHEAD

    @property
    def why_ended(self) -> str:
        """The reason why a worker died, as far as it is known."""
        return self._channel.why_ended

    @property
    def load(self) -> int:
        """Number of its requests."""
        return len(self._assigned)

    async def run(self) -> None:
        """Serve the worker until it has ended, or has died.

        Raises:
            BatchrunError: when it cannot work, or the checkpoint fails.
        """
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._send_orders)
                group.start_soon(self._record)
                await self._listen()
                group.cancel_scope.cancel()
        finally:
            self.is_alive = False
            with anyio.CancelScope(shield=True):
                await self._channel.aclose()
        await self._close()

    def give(self, requests: Sequence[PlannedRequest]) -> None:
        """Let the worker send requests."""
        self._ahead += 1
        self._assigned.update((request.key, request) for request in requests)
        self.order(self._rows.encode(requests))

    def order(self, order: Ordered) -> None:
        """Send an order soon."""
        self._orders.append(order)
        self._has_orders.set()

    def end(self) -> None:
        """Tell the worker that there are no more requests."""
        self.order(NoMoreRequests())

    def drain(self) -> None:
        """Let it finish what is in flight."""
        self.order(Drain())

    def cancel(self) -> None:
        """Let it cancel what is in flight."""
        self.order(Cancel())

    def set_concurrency(self, most: int) -> None:
        """Set the maximum number of requests to work on at a time."""
        if 10 * abs(most - self._concurrency) > self._concurrency:
            self._concurrency = most
            self.order(SetConcurrency(most))

    def take_unfinished(self) -> list[PlannedRequest]:
        """Return the requests without a result, in the state in which they must be continued."""
        left, self._assigned = self._assigned, {}
        return [
            changed(request, attempts_made=self._numbers.get(key, request.attempts_made))
            for key, request in left.items()
        ]

    def granted(self, ask: AskLease, permit: Permit) -> None:
        """Admit a request of the worker; the grant is sent when the attempt has been recorded."""
        start = AttemptStart(ask.key, ask.number, datetime.now(UTC), permit.cost)
        self._asked.discard(ask.lease)
        self._drop_lease(ask.key)
        self._latest[ask.key] = ask.lease
        self._leases[ask.lease] = OpenLease(permit, start, ask.asked.key[1])
        self._note_number(ask.key, ask.number)
        self._owner.tally.begin()
        self._unrecorded.begun.append(start)
        self._unrecorded.grants.append(Grant(ask.lease, permit.sent_at, permit.cost))
        self._has_events.set()

    def refuse(self, ask: AskLease, reached: CapReached) -> None:
        """Tell the worker that the rest of the cost cap cannot cover a request."""
        self.order(Refuse(ask.lease, str(reached), reached.end))

    def wants(self, ask: AskLease) -> bool:
        """Return whether a request still waits for admission."""
        return self.is_alive and ask.lease in self._asked

    async def _listen(self) -> None:
        while not self.has_ended:
            try:
                report = decode_report(await self._channel.receive())
            except anyio.EndOfStream:
                return
            for event in report.events:
                self._handlers[type(event)](event)
            self._note(report)

    def _note(self, report: WorkerReport) -> None:
        """Update the state of the worker from a report."""
        self.is_answered = report.is_answered
        self._owner.note(self._last, report)
        self._last = report

    async def _send_orders(self) -> None:
        while True:
            await self._has_orders.wait()
            self._has_orders = anyio.Event()
            orders, self._orders = self._orders, []
            with suppress(anyio.EndOfStream):  # `_listen` notices that, too
                await self._channel.send(encode(orders))

    async def _record(self) -> None:
        """Record events in groups: while one group is written, the next one collects."""
        while True:
            await self._has_events.wait()
            await self._record_events()

    async def _record_events(self) -> None:
        self._has_events = anyio.Event()
        events, self._unrecorded = self._unrecorded, UnrecordedEvents()
        await self._owner.journal.keep(events.begun, events.failed, events.turns, events.finished)
        for result in events.finished:
            self._owner.release(result.key)
        if events.recorded:
            self._recorded += events.recorded
            self.order(Recorded(self._recorded))
        for grant in events.grants:
            self.order(grant)

    async def _close(self) -> None:
        """Record everything; attempts in flight when the worker died may have been billed."""
        self._owner.forget(self._last)
        for number in list(self._leases):
            self._lose(number)
        await self._record_events()

    def _end(self, lease: OpenLease) -> None:
        """The outcome of an attempt is known."""
        if lease.close():
            self._owner.tally.end()

    def _lose(self, number: int) -> None:
        lease = self._leases.pop(number)
        if lease.is_closed:
            return
        self._end(lease)
        start = lease.start
        attempt = Attempt(
            start.key,
            start.number,
            (datetime.now(UTC) - start.started_at).total_seconds(),
            error_type="interrupted",
            error_message="the worker ended before the answer arrived",
            cause=Cause.TRANSIENT.value,
            maybe_billed=True,
            model=lease.model,
            asked_model=lease.model,
        )
        if not lease.is_settled:
            lease.settle(attempt)
        if self._owner.has_died_too_often(start.key):
            self._assigned.pop(start.key, None)
            now = datetime.now(UTC)
            self._unrecorded.finished.append(
                Result(start.key, Status.ERRORED, attempt, now, retryable=True)
            )
            self._owner.count(attempt.error, timed_out=False)
        else:
            self._unrecorded.failed.append(attempt)

    # What a worker reports, event by event.

    def _on_ask(self, event: AskLease) -> None:
        self._asked.add(event.lease)
        self._owner.ask(self, event)

    def _on_withdraw(self, event: Withdraw) -> None:
        self._asked.discard(event.lease)
        lease = self._leases.pop(event.lease, None)
        if lease is None:
            return
        self._end(lease)
        self._owner.tally.withdraw()
        lease.permit.withdraw()
        start = lease.start
        self._unrecorded.failed.append(
            Attempt(
                start.key,
                start.number,
                0.0,
                error_type="cancelled",
                error_message="cancelled before it was sent",
                cause=Cause.TRANSIENT.value,
                model=lease.model,
                asked_model=lease.model,
            )
        )
        self._has_events.set()

    def _on_settle(self, event: Settle) -> None:
        self._settle(event.lease, event.attempt, event.reported)

    def _settle(self, number: int | None, attempt: Attempt, reported: LimitState | None) -> None:
        if number is not None and (lease := self._leases.get(number)) is not None:
            lease.settle(attempt, reported)

    def _on_begin(self, event: Begin) -> None:
        self._note_number(event.start.key, event.start.number)
        self._unrecorded.begun.append(event.start)
        self._has_recorded()

    def _on_fail(self, event: Fail) -> None:
        self._settle(event.lease, event.attempt, event.reported)
        self._close_lease(event.attempt)
        self._owner.share_dropped(event.attempt)
        self._unrecorded.failed.append(event.attempt)
        self._has_recorded()

    def _on_turn(self, event: TakeTurn) -> None:
        turn, attempt = event.turn, event.attempt
        if attempt is not None:
            self._settle(event.lease, attempt, event.reported)
            self._close_lease(attempt)
        self._unrecorded.turns.append((turn, attempt))
        if (request := self._assigned.get(turn.key)) is not None:
            others = tuple(each for each in request.turns if each.number != turn.number)
            self._assigned[turn.key] = changed(request, turns=(*others, turn))
        self._has_recorded()

    def _on_finish(self, event: Finish) -> None:
        result = event.result
        self._settle(event.lease, result.last, event.reported)
        self._drop_lease(result.key)
        self._assigned.pop(result.key, None)
        self._numbers.pop(result.key, None)
        self._unrecorded.finished.append(result)
        if result.status is Status.SUCCEEDED:
            self._owner.count(None, timed_out=False)
        self._has_recorded()

    def _on_cool_down(self, event: CoolDown) -> None:
        fault = ProviderFault(event.error_type, event.message, event.http_status)
        permit = self._leases[event.lease].permit
        self._answer(partial(self._cool_down, permit, fault, event))

    async def _cool_down(self, permit: Permit, fault: ProviderFault, event: CoolDown) -> None:
        backoff = await permit.cool_down(fault, event.decision, is_suspect=event.is_suspect)
        self.order(BackoffAnswer(event.question, backoff.is_shared, backoff.pause_s))

    def _on_is_own_fault(self, event: IsOwnFault) -> None:
        permit = self._leases[event.lease].permit
        look = partial(permit.is_own_fault, is_suspect=event.is_suspect, is_last=event.is_last)
        self._answer(partial(self._answer_with, event.question, look))

    def _on_above_reported(self, event: AboveReported) -> None:
        look = partial(self._owner.admission.above_reported, event.asked)
        self._answer(partial(self._answer_with, event.question, look))

    def _on_succeeded_since(self, event: SucceededSince) -> None:
        look = partial(self._owner.admission.succeeded_since, event.since)
        self._answer(partial(self._answer_with, event.question, look))

    def _on_has_in_flight(self, event: HasInFlight) -> None:
        look = partial(self._owner.admission.has_in_flight, event.asked)
        self._answer(partial(self._answer_with, event.question, look))

    async def _answer_with(
        self, question: int, look: Callable[[], Awaitable[bool | str | None]]
    ) -> None:
        self.order(Answer(question, await look()))

    def _on_sample(self, event: Sample) -> None:
        self._answer(partial(self._sample, event.question))

    async def _sample(self, question: int) -> None:
        found = await self._owner.sample()
        self._assigned.update((request.key, request) for request in found)
        self.order(self._rows.encode(found, question))

    def _on_count(self, event: Count) -> None:
        self._owner.count(event.error, timed_out=event.timed_out)

    def _on_ready(self, _event: Ready) -> None:
        self.is_ready = True
        self._owner.has_changed()

    def _on_chunk_taken(self, _event: ChunkTaken) -> None:
        self._ahead -= 1
        self._owner.has_changed()

    def _on_renewed(self, event: Renewed) -> None:
        self._owner.note_renewal(event.renewal)

    def _on_ended(self, _event: Ended) -> None:
        self.has_ended = True

    def _on_failed(self, event: Failed) -> None:
        machine = self._channel.machine
        message = f"the worker on {machine}: {event.message}" if machine else event.message
        raise (JobError if event.is_job else BatchrunError)(message)

    def _answer(self, answer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._group is not None:
            self._group.start_soon(answer)

    def _has_recorded(self) -> None:
        self._unrecorded.count()
        self._has_events.set()

    def _note_number(self, key: int, number: int) -> None:
        self._numbers[key] = number

    def _close_lease(self, attempt: Attempt) -> None:
        """Close a lease whose attempt is recorded; questions about its permit may still follow."""
        lease = self._leases.get(self._latest.get(attempt.key, -1))
        if lease is not None and lease.start.number == attempt.number:
            self._end(lease)

    def _drop_lease(self, key: int) -> None:
        lease = self._leases.pop(self._latest.pop(key, -1), None)
        if lease is not None:
            self._end(lease)

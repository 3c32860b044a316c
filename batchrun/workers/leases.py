"""The worker's side of decisions by the owner: admission, the journal and the count of errors.

A *lease* is the permission to make one attempt. When the owner grants it, the attempt is recorded as begun
and its budget is reserved.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import anyio

from batchrun.limits import ByteBudget, CapReached, CapReserved, CostBudget, Limits, Waits
from batchrun.limits.memory import ANSWER_BYTES, REQUEST_BYTES
from batchrun.workers.protocol import (
    AboveReported,
    AskLease,
    Begin,
    CoolDown,
    Count,
    Fail,
    Finish,
    HasInFlight,
    IsOwnFault,
    Refuse,
    Sample,
    Settle,
    SucceededSince,
    TakeTurn,
    Withdraw,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.errors import ProviderFault
    from batchrun.job import LimitsConfig
    from batchrun.limits import Backoff, Demand, RetryDecision
    from batchrun.records import (
        Attempt,
        AttemptId,
        AttemptStart,
        LimitState,
        PlannedRequest,
        Result,
        Turn,
    )
    from batchrun.workers.protocol import Grant, Reported

# Requests to work on until the owner says how many.
FIRST_CONCURRENCY = 8


class OwnerConnection:
    """Events to report to the owner, and the answers that the worker waits for.

    Attributes:
        concurrency: maximum number of requests to work on at a time.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[anyio.Event, list[Any]]] = {}
        self._recorded = self._kept = 0
        self._unkept: dict[int, anyio.Event] = {}
        self._events: list[Reported] = []
        self._has_events = anyio.Event()
        self.concurrency = FIRST_CONCURRENCY

    def next_number(self) -> int:
        """Return a number for a lease or a question."""
        return next(self._numbers)

    def report(self, event: Reported) -> None:
        """Report an event soon."""
        self._events.append(event)
        self._has_events.set()

    async def wait_for_events(self) -> None:
        """Wait until there is something to report."""
        await self._has_events.wait()

    def take_events(self) -> list[Reported]:
        """Return the events that are not reported yet."""
        self._has_events = anyio.Event()
        events, self._events = self._events, []
        return events

    def set_concurrency(self, count: int) -> None:
        """Set the maximum number of requests to work on at a time, as the owner says."""
        self.concurrency = count

    async def reply_to(self, number: int, event: Reported) -> Any:  # noqa: ANN401 - any answer
        """Report an event and return the owner's answer to its number."""
        has_come, answer = self._waiting[number] = anyio.Event(), []
        self.report(event)
        try:
            await has_come.wait()
        finally:
            self._waiting.pop(number, None)
        return answer[0]

    async def ask(self, question: int, event: Reported) -> Any:  # noqa: ANN401 - any answer
        """Ask a question about an attempt; its record follows even if the run is cancelled."""
        with anyio.CancelScope(shield=True):
            return await self.reply_to(question, event)

    def deliver(self, number: int, answer: object) -> None:
        """Take an answer of the owner. The task that asked may be gone."""
        if (waiter := self._waiting.get(number)) is not None:
            waiter[1].append(answer)
            waiter[0].set()

    async def record(self, event: Reported) -> None:
        """Report an event that the owner records; returns when it is on disk."""
        self._recorded += 1
        number, is_kept = self._recorded, anyio.Event()
        self._unkept[number] = is_kept
        self.report(event)
        await is_kept.wait()

    def confirm(self, count: int) -> None:
        """Note that the owner has recorded this many events."""
        while self._kept < count:
            self._kept += 1
            self._unkept.pop(self._kept).set()


class Lease:
    """Permission for one attempt; see `dispatch.Permit`.

    Args:
        leases: all leases of the worker.
        number: number of the lease.
        asked: the demand that it was granted for.
        grant: the owner's answer.
        attempt: the attempt that may be sent.
    """

    __slots__ = ("_attempt", "_leases", "_number", "_outcome", "asked", "cost", "sent_at")

    def __init__(
        self, leases: Leases, number: int, asked: Demand, grant: Grant, attempt: AttemptId
    ) -> None:
        self._leases = leases
        self._number = number
        self._attempt = attempt
        self._outcome: tuple[Attempt, LimitState | None] | None = None
        self.asked = asked
        self.sent_at = grant.sent_at
        self.cost = grant.cost

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        """Store the outcome. It is reported with the record of the attempt, or before a question about it."""
        self._outcome = attempt, reported

    def withdraw(self) -> None:
        """Report that the request is not sent."""
        self._leases.close(self._attempt)
        self._leases.owner.report(Withdraw(self._number))

    async def cool_down(
        self, fault: ProviderFault, decision: RetryDecision, *, is_suspect: bool = False
    ) -> Backoff:
        """Return what the request has to wait for."""
        self._settle_now()
        question = self._leases.owner.next_number()
        about = fault.error_type, fault.message, fault.http_status
        event = CoolDown(question, self._number, *about, decision, is_suspect)
        answer: Backoff = await self._leases.owner.ask(question, event)
        return answer

    async def is_own_fault(self, *, is_suspect: bool, is_last: bool) -> bool | None:
        """Return whether the attempt failed while others succeeded."""
        self._settle_now()
        question = self._leases.owner.next_number()
        event = IsOwnFault(question, self._number, is_suspect, is_last)
        answer: bool | None = await self._leases.owner.ask(question, event)
        return answer

    def close(self) -> tuple[int | None, LimitState | None]:
        """Return the information about the permit for the record of the attempt."""
        if self._outcome is None:
            return None, None
        return self._number, self._outcome[1]

    def _settle_now(self) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            self._leases.owner.report(Settle(self._number, *outcome))


class Leases:
    """The `Admission` of a worker: the owner admits.

    Args:
        owner: the connection to it.
        config: the limits of the job.
        caps_cost: whether there is a cost cap.
        workers: number of workers that share the memory.
    """

    def __init__(
        self, owner: OwnerConnection, config: LimitsConfig, *, caps_cost: bool, workers: int
    ) -> None:
        self.owner = owner
        self.request_memory = ByteBudget(REQUEST_BYTES / workers)
        self.answer_memory = ByteBudget(ANSWER_BYTES / workers)
        self._open: dict[AttemptId, Lease] = {}
        self._ranks = itertools.count()
        # Knows what the job's limits never admit. It admits nothing.
        money = CostBudget(0 if caps_cost else None)
        self._limits = Limits(config, Waits(), money=money)

    @property
    def caps_cost(self) -> bool:
        """Whether a request needs `Demand.most_cost`."""
        return self._limits.caps_cost

    def next_rank(self) -> int:
        """Return the rank of a new request: behind all others."""
        return next(self._ranks)

    def unsendable(self, asked: Demand) -> tuple[str, str] | None:
        """Return error type and message when a request can never be admitted."""
        return self._limits.unsendable(asked)

    async def above_reported(self, asked: Demand) -> str | None:
        """Return why the provider will always refuse a request, by the limits in its headers."""
        question = self.owner.next_number()
        answer: str | None = await self.owner.ask(question, AboveReported(question, asked))
        return answer

    def admit_now(self, asked: Demand) -> Lease | None:
        """Return None: every request waits for the owner."""
        del asked
        return None

    async def admit(
        self,
        asked: Demand,
        rank: int | None,
        waits: Waits | None,
        attempt: AttemptId | None = None,
    ) -> Lease:
        """Wait for the owner's grant. The owner counts the wait.

        Raises:
            CapReached: if the rest of the cost cap cannot cover it.
        """
        del waits
        attempt = attempt or (0, 0)
        number = self.owner.next_number()
        ask = AskLease(number, *attempt, self.next_rank() if rank is None else rank, asked)
        try:
            answer: Grant | Refuse = await self.owner.reply_to(number, ask)
        except anyio.get_cancelled_exc_class():
            self.owner.report(Withdraw(number))
            raise
        if isinstance(answer, Refuse):
            kind = CapReserved if answer.end is CapReserved.end else CapReached
            raise kind(answer.reason)
        lease = self._open[attempt] = Lease(self, number, asked, answer, attempt)
        return lease

    def holds(self, attempt: AttemptId) -> bool:
        """Return whether an attempt has a lease, and so is recorded as begun."""
        return attempt in self._open

    def close(self, attempt: AttemptId) -> tuple[int | None, LimitState | None]:
        """End the lease of an attempt; return the information about its permit for the record."""
        lease = self._open.pop(attempt, None)
        return (None, None) if lease is None else lease.close()

    async def succeeded_since(self, since: float) -> bool:
        """Return whether any request of the run was answered since then."""
        question = self.owner.next_number()
        answer: bool = await self.owner.ask(question, SucceededSince(question, since))
        return answer

    async def has_in_flight(self, asked: Demand) -> bool:
        """Return whether anything is in flight to the endpoint of this request."""
        question = self.owner.next_number()
        answer: bool = await self.owner.ask(question, HasInFlight(question, asked))
        return answer

    def workers_wanted(self) -> int:
        """Return how many requests could be worked on now."""
        return self.owner.concurrency


class RemoteJournal:
    """The `Journal` of a worker: the owner records.

    Args:
        owner: the connection to it.
        leases: of the attempts that are recorded.
    """

    def __init__(self, owner: OwnerConnection, leases: Leases) -> None:
        self._owner = owner
        self._leases = leases

    async def begin(self, start: AttemptStart) -> None:
        """Record the beginning, unless it came with the lease."""
        if not self._leases.holds((start.key, start.number)):
            await self._owner.record(Begin(start))

    async def fail(self, attempt: Attempt) -> None:
        """Record a failed attempt."""
        permit = self._leases.close((attempt.key, attempt.number))
        await self._owner.record(Fail(attempt, *permit))

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """Record a turn of a conversation."""
        permit = self._leases.close((turn.key, turn.number))
        await self._owner.record(TakeTurn(turn, attempt, *permit))

    async def finish(self, result: Result) -> None:
        """Record a result."""
        permit = self._leases.close((result.key, result.last.number))
        await self._owner.record(Finish(result, *permit))

    async def keep(
        self,
        begun: Sequence[AttemptStart],
        failed: Sequence[Attempt],
        turns: Sequence[tuple[Turn, Attempt | None]],
        finished: Sequence[Result],
    ) -> None:
        """Record several events."""
        async with anyio.create_task_group() as group:
            for start in begun:
                group.start_soon(self.begin, start)
            for attempt in failed:
                group.start_soon(self.fail, attempt)
            for each in turns:
                group.start_soon(self.turn, *each)
            for result in finished:
                group.start_soon(self.finish, result)


class RemoteErrors:
    """The owner counts the rows that failed, and stops the run when they are too many.

    Args:
        owner: the connection to it.
    """

    def __init__(self, owner: OwnerConnection) -> None:
        self._owner = owner

    def count(self, error: str | None = None, *, timed_out: bool = False) -> None:
        """Count a row that failed. The owner sees by itself which rows succeeded."""
        if error is not None:
            self._owner.report(Count(error, timed_out))


class RemoteSampler:
    """The owner plans requests from all over the input.

    Args:
        owner: the connection to it.
    """

    def __init__(self, owner: OwnerConnection) -> None:
        self._owner = owner

    async def sample(self) -> Sequence[PlannedRequest]:
        """Return requests of rows far from each other."""
        question = self._owner.next_number()
        found: Sequence[PlannedRequest] = await self._owner.reply_to(question, Sample(question))
        return found

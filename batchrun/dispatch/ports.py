"""The ports of dispatch: the dispatcher itself, what it is given, and what it reports to."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from batchrun.errors import Rejection
from batchrun.formats.unsupported import DroppedParameters
from batchrun.records import Completion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.client import Credentials, Exchange, TransportPort
    from batchrun.dispatch.batch_ports import BatchContext
    from batchrun.errors import ProviderFault, Stop
    from batchrun.job import Job, RetryConfig
    from batchrun.limits import Backoff, ByteBudget, Demand, RetryDecision, Waits
    from batchrun.pricing import PriceBook
    from batchrun.records import (
        Attempt,
        AttemptId,
        AttemptStart,
        LimitState,
        PlannedRequest,
        Result,
        Turn,
        UnfinishedAttempt,
        WireRequest,
    )


# Returns the completion in its final form, and why it is rejected; None when it is accepted.
Review = Callable[[Completion], tuple[Completion, Rejection | None]]

# Turns of a conversation, unless [tools] max_turns says otherwise.
MAX_TURNS = 10


def accept(completion: Completion) -> tuple[Completion, Rejection | None]:
    """Accept every answer: the default review."""
    return completion, None


@dataclass(slots=True)
class Tally:
    """The counts of a dispatcher so far in this execution, and why it ended.

    Attributes:
        sent: number of attempts.
        in_flight: number of attempts whose outcome is not known yet.
        succeeded: number of requests that succeeded.
        last_error: the last error of an attempt or a row.
        stop: why the dispatcher ended before its last request; None if it did not, or if it
            was only asked to drain.
        freed: number of requests that became pending again and can be planned and sent once more.
        held: why nothing more is submitted in this execution, although a later one can continue.
    """

    sent: int = 0
    in_flight: int = 0
    succeeded: int = 0
    last_error: str | None = None
    stop: Stop | None = None
    freed: int = 0
    held: str | None = None

    def begin(self) -> None:
        """An attempt is sent."""
        self.sent += 1
        self.in_flight += 1

    def end(self) -> None:
        """The outcome of an attempt is known."""
        self.in_flight -= 1

    def withdraw(self) -> None:
        """An attempt that has ended was not sent after all."""
        self.sent -= 1

    def succeed(self, requests: int = 1) -> None:
        """Requests have succeeded."""
        self.succeeded += requests

    def free(self, requests: int) -> None:
        """Requests are pending again."""
        self.freed += requests

    def begin_round(self) -> None:
        """Requests that became pending before are planned again."""
        self.freed = 0

    def fail(self, error: str | None) -> None:
        """Keep the error of an attempt or a row; None changes nothing."""
        self.last_error = error or self.last_error

    def end_with(self, stop: Stop | None) -> None:
        """Keep why the dispatcher ends. The first reason counts."""
        self.stop = self.stop or stop


class Dispatcher(Protocol):
    """Takes a stream of requests to their results.

    It reports every attempt and every result to its `Journal`, and continues only when the journal has
    stored it.
    """

    @property
    def tally(self) -> Tally:
        """The counts so far. `tally.stop` says why it ended early."""

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Send every request of a stream of chunks.

        Returns when all have a result, or when it has drained. To drain, it closes the stream, so
        that nothing more is put into it.
        """

    def drain(self) -> None:
        """Send nothing more, finish what is in flight, and leave the rest pending."""

    def stop(self, stop: Stop) -> None:
        """Drain, and keep the reason. The first reason counts."""


class DispatcherFactory(Protocol):
    """A way to dispatch.

    There is one object of each class; it has no state.
    """

    @property
    def name(self) -> str:
        """Its name in the checkpoint, where each execution has one. It must never change."""

    def create(self, assignment: Assignment) -> Dispatcher:
        """Return a dispatcher for one run."""

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        """Return those attempts whose outcome can no longer arrive.

        Args:
            unfinished: attempts of earlier executions that this factory's dispatchers made and
                whose outcome is not in the checkpoint.
        """


class Sampler(Protocol):
    """Returns a few requests from all over the input."""

    async def sample(self) -> Sequence[PlannedRequest]:
        """Return requests of rows far from each other, of several models where there are several."""


class Journal(Protocol):
    """Stores what happens; each call returns when it is on disk.

    The arguments are stored even if the caller is cancelled while it waits.
    """

    async def begin(self, start: AttemptStart) -> None:
        """Record that an attempt is about to be sent."""

    async def fail(self, attempt: Attempt) -> None:
        """Record a failed attempt; its request is sent again or stays pending."""

    async def finish(self, result: Result) -> None:
        """Record the result of a request."""

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """Record a turn of the model with its attempt; later, the turn with the results of its calls."""

    async def keep(
        self,
        begun: Sequence[AttemptStart],
        failed: Sequence[Attempt],
        turns: Sequence[tuple[Turn, Attempt | None]],
        finished: Sequence[Result],
    ) -> None:
        """Record the arguments of several such calls at once, in this order."""


class Permit(Protocol):
    """Permission to send one request. It must be settled or withdrawn, once."""

    @property
    def asked(self) -> Demand:
        """The demand that it was granted for."""

    @property
    def sent_at(self) -> float:
        """When it was granted, in seconds of the event loop's clock."""

    @property
    def cost(self) -> int | None:
        """The reserved cost in pico-dollars; None without a cost cap."""

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        """Replace the reserved amounts by the used ones, and learn from the outcome."""

    def withdraw(self) -> None:
        """Return the reserved amounts: the request was not sent."""

    async def cool_down(
        self, fault: ProviderFault, decision: RetryDecision, *, is_suspect: bool = False
    ) -> Backoff:
        """Learn from a transient failure; return what the request has to wait for.

        Args:
            fault: how it failed.
            decision: what follows from the fault.
            is_suspect: it failed before while others succeeded, so the request may be at fault.
        """

    async def is_own_fault(self, *, is_suspect: bool, is_last: bool) -> bool | None:
        """Return whether the attempt failed while others succeeded; None when it is too early.

        Args:
            is_suspect: as for `cool_down`.
            is_last: the request has no further attempt, so the answer must be certain.
        """


class Admission(Protocol):
    """Limits and money: decides when a request may be sent."""

    @property
    def request_memory(self) -> ByteBudget:
        """Bounds the bytes of requests in memory."""

    @property
    def answer_memory(self) -> ByteBudget:
        """Bounds the bytes of answers in memory."""

    @property
    def caps_cost(self) -> bool:
        """Whether a request needs `Demand.most_cost`."""

    def next_rank(self) -> int:
        """Return the rank of a new request: behind all others."""

    def unsendable(self, asked: Demand) -> tuple[str, str] | None:
        """Return error type and message when a request can never be admitted."""

    async def above_reported(self, asked: Demand) -> str | None:
        """Return why the provider will always refuse a request, by the limits in its headers."""

    def admit_now(self, asked: Demand) -> Permit | None:
        """Admit a request that need not wait; None if it must."""

    async def admit(
        self,
        asked: Demand,
        rank: int | None,
        waits: Waits | None,
        attempt: AttemptId | None = None,
    ) -> Permit:
        """Wait until a request may be sent. The lowest rank is served first.

        Args:
            asked: the demand of the request.
            rank: its place among the others.
            waits: counts how long it waits.
            attempt: the attempt that will be sent. An admission in another process may begin it at once.

        Raises:
            CapReached: if the rest of the cost cap cannot cover it.
        """

    async def succeeded_since(self, since: float) -> bool:
        """Return whether any request was answered since then."""

    async def has_in_flight(self, asked: Demand) -> bool:
        """Return whether anything is in flight to the endpoint of this request."""

    def workers_wanted(self) -> int:
        """Return the number of requests that could be worked on now."""


class Sender(Protocol):
    """Makes one attempt."""

    async def send(self, wire: WireRequest) -> Exchange:
        """Return the answer.

        Raises:
            ProviderError: when there is none.
        """


class Tools(Protocol):
    """Carries out the calls of a model."""

    def wants(self, completion: Completion) -> bool:
        """Return whether the answer must be followed by the results of its calls."""

    async def run(self, calls: str) -> str:
        """Carry out calls, as `Completion.tool_calls` has them; return `Turn.results`."""


class ErrorCount(Protocol):
    """Decides when too many rows have failed."""

    def count(self, error: str | None = None, *, timed_out: bool = False) -> Stop | None:
        """Count a finished row; return why to stop, or None.

        Args:
            error: why it has no usable answer; None for a success.
            timed_out: the provider refused it for the whole of `max_wait_s`.
        """


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where a dispatcher counts the waits, failures and costs of its requests."""

    waits: Waits
    errors: ErrorCount
    prices: PriceBook


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes an answer final, and how often to ask for one.

    Attributes:
        retry: how often, and for how long.
        review: returns an answer in its final form, and why it is rejected.
        tools: carry out calls, so that an answer with calls is not the last one.
        max_turns: of a conversation.
        dropped: the parameters that are left out of requests.
        jitter: returns a number in [0, 1).
    """

    retry: RetryConfig
    review: Review = accept
    tools: Tools | None = None
    max_turns: int = MAX_TURNS
    dropped: DroppedParameters = field(default_factory=DroppedParameters)
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class Provider:
    """How to reach the provider of a run.

    Attributes:
        credentials: the key and the secret headers.
        transport: carries the HTTP requests.
        simulator: the address that takes the place of the base URL; None for none.
    """

    credentials: Credentials
    transport: TransportPort
    simulator: str | None = None


@dataclass(frozen=True, slots=True)
class FirstRequests:
    """Helps to explain refusals before the first answer.

    Attributes:
        variable: the environment variable with the key, or `KEY_COMMAND`; empty when no key is sent.
        sampler: returns requests from all over the input, if the first ones are refused.
        is_answered: the provider has answered this run before.
    """

    variable: str = ""
    sampler: Sampler | None = None
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the dispatcher of one run is given; `batches` only if its format has them."""

    job: Job
    journal: Journal
    admission: Admission
    accounts: Accounts
    rules: Rules
    first: FirstRequests
    provider: Provider
    batches: BatchContext | None = None


def owners(
    unfinished: Iterable[UnfinishedAttempt],
) -> dict[str, list[UnfinishedAttempt]]:
    """Group unfinished attempts by the name of the factory that dispatched them."""
    found: dict[str, list[UnfinishedAttempt]] = {}
    for attempt in unfinished:
        found.setdefault(attempt.dispatcher, []).append(attempt)
    return found

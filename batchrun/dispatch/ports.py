"""The ports of dispatching: what a dispatcher is, what it is given, and what it reports to."""

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
    """The review that accepts every answer."""
    return completion, None


@dataclass(slots=True)
class Tally:
    """What a dispatcher has done so far in this execution.

    Attributes:
        sent: attempts.
        in_flight: attempts whose outcome is not known yet.
        succeeded: requests.
        last_error: of an attempt or a row.
        stop: why the dispatcher ended before its last request; None when it did not, or when it
            was only asked to drain.
        freed: requests that became pending again and can be planned and sent once more.
        held: why nothing more is submitted in this execution, though another can go on.
    """

    sent: int = 0
    in_flight: int = 0
    succeeded: int = 0
    last_error: str | None = None
    stop: Stop | None = None
    freed: int = 0
    held: str | None = None


class Dispatcher(Protocol):
    """Takes a stream of requests to their results.

    It reports every attempt and every result to its `Journal`, and does the next step only when the
    journal has kept the last one.
    """

    @property
    def tally(self) -> Tally:
        """What it has done so far. `tally.stop` says why it ended early."""

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Send every request of a stream of chunks.

        Returns when all have a result, or when it has drained. When it begins to drain it closes the
        stream, so that nothing more is put into it.
        """

    def drain(self) -> None:
        """Send nothing more, finish what is in flight, and leave the rest pending."""

    def stop(self, stop: Stop) -> None:
        """Drain, and keep the reason. The first reason counts."""


class DispatcherFactory(Protocol):
    """A way to dispatch.

    There is one object for each way; it has no state.
    """

    @property
    def name(self) -> str:
        """Its name in the checkpoint, where each execution has one. It must never change."""

    def create(self, assignment: Assignment) -> Dispatcher:
        """Return a dispatcher for one run."""

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        """Return those attempts whose outcome can no longer arrive.

        Args:
            unfinished: attempts of earlier executions that this way dispatched and whose outcome
                is not in the checkpoint.
        """


class Sampler(Protocol):
    """Returns a few requests from all over the input."""

    async def sample(self) -> Sequence[PlannedRequest]:
        """Return requests of rows far from each other, of several models where there are several."""


class Journal(Protocol):
    """Keeps what happens; each call returns when it is on disk.

    What was handed over is kept even when the caller is cancelled and does not wait for it.
    """

    async def begin(self, start: AttemptStart) -> None:
        """An attempt is about to be sent."""

    async def fail(self, attempt: Attempt) -> None:
        """An attempt failed; its request is sent again or stays pending."""

    async def finish(self, result: Result) -> None:
        """A request has its result."""

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """A conversation has a turn of the model, with its attempt; later, with its results."""

    async def keep(
        self,
        begun: Sequence[AttemptStart],
        failed: Sequence[Attempt],
        turns: Sequence[tuple[Turn, Attempt | None]],
        finished: Sequence[Result],
    ) -> None:
        """Keep the arguments of several such calls at once, in this order."""


class Permit(Protocol):
    """Permission to send one request. It must be settled or withdrawn, once."""

    @property
    def asked(self) -> Demand:
        """What was asked for."""

    @property
    def sent_at(self) -> float:
        """When it was granted, in seconds of the event loop's clock."""

    @property
    def cost(self) -> int | None:
        """What is reserved for it, in pico-dollars; None without a cost cap."""

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        """Replace what was reserved by what was used, and learn from the outcome."""

    def withdraw(self) -> None:
        """Return everything: the request was not sent."""

    async def cool_down(
        self, fault: ProviderFault, decision: RetryDecision, *, is_suspect: bool = False
    ) -> Backoff:
        """Learn from a failure that may pass; return what the request has to wait for.

        Args:
            fault: how it failed.
            decision: what that means.
            is_suspect: it failed before while others succeeded, so it may be its own fault.
        """

    async def is_own_fault(self, *, is_suspect: bool, is_last: bool) -> bool | None:
        """Say whether the attempt failed while others succeeded; None when it is too early.

        Args:
            is_suspect: as for `cool_down`.
            is_last: the request has no further attempt, so be sure.
        """


class Admission(Protocol):
    """Limits and money: decides when a request may be sent."""

    @property
    def request_memory(self) -> ByteBudget:
        """Bounds the bytes of requests that are held."""

    @property
    def answer_memory(self) -> ByteBudget:
        """Bounds the bytes of answers that are held."""

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
        """Admit a request that has nothing to wait for; None when it has."""

    async def admit(
        self,
        asked: Demand,
        rank: int | None,
        waits: Waits | None,
        attempt: AttemptId | None = None,
    ) -> Permit:
        """Wait until a request may be sent. The lowest rank is served first.

        Args:
            asked: what it asks for.
            rank: its place among the others.
            waits: count how long it waits.
            attempt: what is sent then. An admission in another process may begin it at once.

        Raises:
            CapReached: when what is left of the cost cap cannot cover it.
        """

    async def succeeded_since(self, since: float) -> bool:
        """Say whether any request was answered since then."""

    async def has_in_flight(self, asked: Demand) -> bool:
        """Say whether anything is in flight to the endpoint of this request."""

    def workers_wanted(self) -> int:
        """Return how many requests could be worked on now."""


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
        """Say whether the answer must be followed by the results of its calls."""

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
    """Where a dispatcher counts what its requests wait for, how they fail and what they cost."""

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
    """What helps to explain refusals that come before the first answer.

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

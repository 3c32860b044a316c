"""What the dispatcher needs from others, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from batchrun.errors import Rejection
from batchrun.limits.retry_delays import Cause
from batchrun.records import (
    Attempt,
    Billing,
    Completion,
    PlannedRequest,
    Result,
    Status,
    Usage,
)

if TYPE_CHECKING:
    from batchrun.client import Exchange
    from batchrun.errors import ProviderFault
    from batchrun.limits import Permit
    from batchrun.records import (
        AttemptStart,
        LimitState,
        Turn,
        WireRequest,
    )


# Reads an answer further, and says why it is not accepted, if it is not.
Review = Callable[[Completion], tuple[Completion, Rejection | None]]
# Finds a few requests that stand all over the input, of several models where it has them.
Spread = Callable[[], Awaitable[Sequence[PlannedRequest]]]


def as_it_is(completion: Completion) -> tuple[Completion, Rejection | None]:
    """The review that finds nothing wrong."""
    return completion, None


class Sender(Protocol):
    """Makes one attempt: returns an exchange or raises `ProviderError`."""

    async def send(self, wire: WireRequest) -> Exchange:
        """Make one attempt."""


class Journal(Protocol):
    """Keeps what happens; each call returns when it is safe.

    What was handed over is kept even when the caller is cancelled and does not wait for it.
    """

    async def begin(self, start: AttemptStart) -> None:
        """An attempt is about to be sent."""

    async def fail(self, attempt: Attempt) -> None:
        """An attempt failed, and the request goes on or stays pending."""

    async def finish(self, result: Result) -> None:
        """A request has its result."""

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """A conversation has a turn of the model, with its attempt; later, with its results."""


class Tools(Protocol):
    """Carries out what the model calls."""

    def wants(self, completion: Completion) -> bool:
        """Say whether the answer is to be followed by the results of its calls."""

    async def run(self, calls: str) -> str:
        """Carry out calls, as `Completion.tool_calls` has them; return `Turn.results`."""


@dataclass(slots=True)
class Progress:
    """How far one request has come in this execution."""

    number: int  # of the last attempt, counted over all executions
    place: int  # in the order of admission
    failures: int = 0  # that use up its attempts
    rejections: Counter[str] = field(default_factory=Counter)  # by type, of this turn
    setbacks: int = 0  # failed attempts that are followed by another
    waited_s: float = 0.0
    permit: Permit | None = None
    failed: Attempt | None = None  # the last of those
    failing_since: float = 0.0  # when the first of those was sent, in seconds
    doubtful: Permit | None = None  # of an attempt that may turn out to use one up

    def asks_again(self, rejection: Rejection, max_attempts: int) -> bool:
        """Count an answer that is not accepted; say whether to ask once more."""
        self.failures += 1
        self.rejections[rejection.error_type] += 1
        most = rejection.most_retries
        is_enough = most is not None and self.rejections[rejection.error_type] > most
        return self.failures < max_attempts and not is_enough


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait before the next attempt, beside the wait for the limits."""

    seconds: float


def settle(progress: Progress, attempt: Attempt, told: LimitState | None = None) -> Permit | None:
    """Give the limits back what an attempt did not use."""
    permit, progress.permit = progress.permit, None
    if permit is not None:
        permit.settle(attempt, told)
    return permit


def errored(attempt: Attempt, *, retryable: bool) -> Result:
    """Return the result of a request that failed for good, or for this execution."""
    return Result(attempt.key, Status.ERRORED, attempt, datetime.now(UTC), retryable=retryable)


def failed_attempt(
    request: PlannedRequest, number: int, fault: ProviderFault, latency_s: float, cause: Cause
) -> Attempt:
    """Return the record of an attempt that a fault ended."""
    return Attempt(
        request.key,
        number,
        latency_s,
        http_status=fault.http_status,
        error_type=fault.error_type,
        error_message=fault.message,
        cause=cause.value,
        maybe_billed=fault.maybe_billed,
        request_id=fault.request_id,
        model=fault.model or request.request.model,
        asked_model=request.request.model,
        usage=fault.usage or Usage(),
        billing=fault.billing or Billing(),
    )


def answered_attempt(
    request: PlannedRequest,
    number: int,
    exchange: Exchange,
    completion: Completion,
    *,
    rejection: Rejection | None,
    latency_s: float,
) -> Attempt:
    """Return the record of an attempt that was answered, and perhaps not with what is accepted."""
    return Attempt(
        request.key,
        number,
        latency_s,
        http_status=exchange.http_status,
        error_type=None if rejection is None else rejection.error_type,
        error_message=None if rejection is None else rejection.message,
        cause=None if rejection is None else Cause.INVALID.value,
        request_id=exchange.request_id,
        model=completion.model or request.request.model,
        asked_model=request.request.model,
        usage=completion.usage,
        billing=completion.billing,
    )

"""How long a request is retried: which failures count, how long it pauses, and when to stop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrun.dispatch.judgement import Tries
from batchrun.errors import RunEnd, Stop
from batchrun.limits import retry_delays

if TYPE_CHECKING:
    from batchrun.dispatch.ports import Admission, Permit, Rules
    from batchrun.errors import ProviderFault, Rejection
    from batchrun.limits import Backoff, Demand
    from batchrun.records import Attempt

# After this many failures in a row a request goes behind the others: it may be the cause of them.
FAILURES_BEFORE_LAST_RANK = 3


@dataclass(slots=True)
class RequestState:
    """How far one request has come in this execution.

    All but `number`, `rank` and `waited_s` are reset with each turn of a conversation.

    Attributes:
        number: number of the last attempt, counted over all executions.
        rank: rank in the order of admission.
        waited_s: total of pauses after failures, and of waits for admission after them.
        failures: attempts that count towards `max_attempts`.
        rejections: rejected answers by error type.
        setbacks: failed attempts that were followed by another.
        permit: permit of the attempt in flight.
        failed: the last failed attempt that was followed by another.
        failing_since: when the first of those was sent, in seconds.
        doubtful: permit of an attempt that may yet count towards `max_attempts`.
    """

    number: int
    rank: int
    waited_s: float = 0.0
    failures: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    setbacks: int = 0
    permit: Permit | None = None
    failed: Attempt | None = None
    failing_since: float = 0.0
    doubtful: Permit | None = None

    def begin_turn(self) -> None:
        """Forget the failures of the turn before."""
        self.failures = self.setbacks = 0
        self.failed = self.doubtful = None
        self.rejections.clear()

    def count_rejection(self, rejection: Rejection, max_attempts: int) -> Tries:
        """Count a rejected answer; return how often the request has failed."""
        self.failures += 1
        self.rejections[rejection.error_type] += 1
        return Tries(self.failures, max_attempts, self.rejections[rejection.error_type])


class Retries:
    """Decides after each transient failure whether and when to try again.

    Args:
        rules: how often to try again, and for how long.
        admission: knows whether other requests succeed.
    """

    def __init__(self, rules: Rules, admission: Admission) -> None:
        self._config = rules.retry
        self._jitter = rules.jitter
        self._admission = admission

    @property
    def max_attempts(self) -> int:
        """Maximum number of attempts of one request."""
        return self._config.max_attempts

    def wait_left_s(self, state: RequestState) -> float:
        """Return the seconds that a request may still wait."""
        return self._config.max_wait_s - state.waited_s

    async def uses_up(self, state: RequestState, permit: Permit, fault: ProviderFault) -> bool:
        """Count a failure if the request is at fault; return whether that was the last attempt.

        An attempt that may have been billed always counts. Any other counts only if it failed while
        other requests succeeded. If that is not known yet, `has_used_up` decides before the next
        attempt.
        """
        is_own = True if fault.maybe_billed else await self._is_own_fault(state, permit)
        state.doubtful = permit if is_own is None else None
        state.failures += bool(is_own)
        return state.failures >= self.max_attempts

    async def has_used_up(self, state: RequestState) -> bool | None:
        """Decide about a doubtful failure; None if it is still too early.

        Only before the last attempt is it worth waiting: otherwise another attempt is faster.
        """
        if state.doubtful is None:
            return False
        is_own = await self._is_own_fault(state, state.doubtful)
        if is_own is None and self._is_last(state):
            return None
        state.doubtful = None
        state.failures += bool(is_own)
        return state.failures >= self.max_attempts

    @property
    def max_wait_s(self) -> float:
        """The longest that a request may wait."""
        return self._config.max_wait_s

    def pause_s(
        self, state: RequestState, decision: retry_delays.RetryDecision, backoff: Backoff
    ) -> float | None:
        """Return the seconds that a request pauses; None if it would have to wait too long in total.

        A pause of the whole endpoint is not counted here: admission waits for its end.
        """
        state.setbacks += 1
        if state.setbacks % FAILURES_BEFORE_LAST_RANK == 0:
            state.rank = self._admission.next_rank()
        pause_s = 0.0
        if not backoff.is_shared:
            pause_s = retry_delays.delay(decision, state.setbacks, self._jitter)
        if max(backoff.pause_s, pause_s) > self.wait_left_s(state):
            return None
        state.waited_s += pause_s
        return pause_s

    async def others_succeeded(self, state: RequestState, asked: Demand) -> bool | None:
        """Return whether other requests succeeded while this one failed; None when it is too early."""
        if await self._admission.succeeded_since(state.failing_since):
            return True
        return None if await self._admission.has_in_flight(asked) else False

    def stop(self, attempt: Attempt, asked_s: float) -> Stop:
        """Return why a run stops in which no request succeeded within `[retry] max_wait_s`.

        Args:
            attempt: the last one that failed.
            asked_s: seconds that the provider asked to wait; 0.0 if it did not.
        """
        most_s = self._config.max_wait_s
        reason = f"no request succeeded within [retry] max_wait_s = {most_s:g} s"
        if asked_s > most_s:
            reason = (
                f"the provider asks to wait {asked_s:.0f} s, longer than [retry] max_wait_s = "
                f"{most_s:g} s"
            )
        return Stop(RunEnd.UNAVAILABLE, f"{reason}; the last error: {attempt.error}")

    def _is_last(self, state: RequestState) -> bool:
        return state.failures + 1 >= self.max_attempts

    async def _is_own_fault(self, state: RequestState, permit: Permit) -> bool | None:
        return await permit.is_own_fault(
            is_suspect=state.failures > 0, is_last=self._is_last(state)
        )

"""How long one request is tried again: what uses up its attempts, how long it pauses, when to stop."""

from __future__ import annotations

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


class RequestRetries:
    """Decides after each transient failure of one request whether and when to try again.

    Args:
        rules: how often to try again, and for how long.
        admission: knows whether other requests succeed.

    Attributes:
        rank: rank in the order of admission.
        failed: the last failed attempt of this turn that was followed by another.
    """

    __slots__ = (
        "_admission",
        "_doubtful",
        "_failing_since",
        "_failures",
        "_rejections",
        "_rules",
        "_setbacks",
        "_waited_s",
        "failed",
        "rank",
    )

    def __init__(self, rules: Rules, admission: Admission) -> None:
        self._rules = rules
        self._admission = admission
        self._waited_s = (
            0.0  # total of pauses after failures, and of waits for admission after them
        )
        self.rank = admission.next_rank()
        self.begin_turn()

    def begin_turn(self) -> None:
        """Forget the failures of the turn before. Rank and wait are those of the conversation."""
        self._failures = 0  # attempts that count towards `max_attempts`
        self._rejections: dict[str, int] = {}
        self._setbacks = 0  # failed attempts that were followed by another
        self._failing_since = 0.0  # when the first of those was sent
        self._doubtful: Permit | None = None  # of an attempt that may yet count
        self.failed: Attempt | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether an attempt has failed that counts towards `max_attempts`."""
        return self._failures > 0

    @property
    def wait_left_s(self) -> float:
        """The seconds that the request may still wait."""
        return self._rules.retry.max_wait_s - self._waited_s

    def count_wait(self, seconds: float) -> None:
        """Count a wait for admission after a failure."""
        self._waited_s += seconds

    def count_rejection(self, rejection: Rejection) -> Tries:
        """Count a rejected answer; return how often the request has failed."""
        rejected = self._rejections.get(rejection.error_type, 0) + 1
        self._rejections[rejection.error_type] = rejected
        self._failures += 1
        return Tries(self._failures, self._rules.retry.max_attempts, rejected)

    def count_failure(self, attempt: Attempt, permit: Permit) -> None:
        """Count a failed attempt that another one follows."""
        if self.failed is None:
            self._failing_since = permit.sent_at
        self.failed = attempt

    async def uses_up(self, permit: Permit, fault: ProviderFault) -> bool:
        """Count a failure if the request is at fault; return whether that was the last attempt.

        An attempt that may have been billed always counts. Any other counts only if it failed while
        other requests succeeded. If that is not known yet, `has_used_up` decides before the next
        attempt.
        """
        is_own = True if fault.maybe_billed else await self._is_own_fault(permit)
        self._doubtful = permit if is_own is None else None
        self._failures += bool(is_own)
        return self._failures >= self._rules.retry.max_attempts

    async def has_used_up(self) -> bool | None:
        """Decide about a doubtful failure; None if it is still too early.

        Only before the last attempt is it worth waiting: otherwise another attempt is faster.
        """
        if self._doubtful is None:
            return False
        is_own = await self._is_own_fault(self._doubtful)
        if is_own is None and self._is_last:
            return None
        self._doubtful = None
        self._failures += bool(is_own)
        return self._failures >= self._rules.retry.max_attempts

    def pause_s(self, decision: retry_delays.RetryDecision, backoff: Backoff) -> float | None:
        """Return the seconds that the request pauses; None if it would have to wait too long in total.

        A pause of the whole endpoint is not counted here: admission waits for its end.
        """
        self._setbacks += 1
        if self._setbacks % FAILURES_BEFORE_LAST_RANK == 0:
            self.rank = self._admission.next_rank()
        pause_s = 0.0
        if not backoff.is_shared:
            pause_s = retry_delays.delay(decision, self._setbacks, self._rules.jitter)
        if max(backoff.pause_s, pause_s) > self.wait_left_s:
            return None
        self._waited_s += pause_s
        return pause_s

    async def others_succeeded(self, asked: Demand) -> bool | None:
        """Return whether other requests succeeded while this one failed; None when it is too early."""
        if await self._admission.succeeded_since(self._failing_since):
            return True
        return None if await self._admission.has_in_flight(asked) else False

    def is_too_long(self, asked_s: float | None) -> bool:
        """Return whether the provider asked to wait longer than a request may wait."""
        return asked_s is not None and asked_s > self._rules.retry.max_wait_s

    def stop(self, attempt: Attempt, asked_s: float | None) -> Stop:
        """Return why a run stops in which no request succeeded within `[retry] max_wait_s`.

        Args:
            attempt: the last one that failed.
            asked_s: seconds that the provider asked to wait; None if it did not.
        """
        most_s = self._rules.retry.max_wait_s
        reason = f"no request succeeded within [retry] max_wait_s = {most_s:g} s"
        if self.is_too_long(asked_s):
            reason = (
                f"the provider asks to wait {asked_s:.0f} s, longer than [retry] max_wait_s = "
                f"{most_s:g} s"
            )
        return Stop(RunEnd.UNAVAILABLE, f"{reason}; the last error: {attempt.error}")

    @property
    def _is_last(self) -> bool:
        return self._failures + 1 >= self._rules.retry.max_attempts

    async def _is_own_fault(self, permit: Permit) -> bool | None:
        return await permit.is_own_fault(is_suspect=self.is_suspect, is_last=self._is_last)

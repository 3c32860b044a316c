"""How long one request is tried again: what uses up its attempts, how long it rests, when to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.errors import RunEnd, Stop
from batchrun.limits import retry_delays

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.dispatch.ports import Progress
    from batchrun.errors import ProviderFault
    from batchrun.job import RetryConfig
    from batchrun.limits import Backoff, Demand, Limits, Permit
    from batchrun.records import Attempt

# After so many failures in a row a request goes behind the others: it may be the cause of them.
PATIENCE = 3


class Retries:
    """Decides after each failed attempt that may pass.

    Args:
        config: how long to insist.
        limits: know whether others succeed.
        jitter: returns a number in [0, 1).
    """

    def __init__(self, config: RetryConfig, limits: Limits, jitter: Callable[[], float]) -> None:
        self._config = config
        self._limits = limits
        self._jitter = jitter

    def wait_left_s(self, progress: Progress) -> float:
        """Return the seconds that a request may still wait."""
        return self._config.max_wait_s - progress.waited_s

    def uses_up(self, progress: Progress, permit: Permit, fault: ProviderFault) -> bool:
        """Count a failure when it is the request's own; say whether that was its last attempt.

        What may have been billed always counts. Otherwise an attempt is used up only by failing
        while others succeed; what cannot be told yet is looked at again before the next attempt.
        """
        is_own = True if fault.maybe_billed else self._is_own_fault(progress, permit)
        progress.doubtful = permit if is_own is None else None
        progress.failures += bool(is_own)
        return progress.failures >= self._config.max_attempts

    def has_used_up(self, progress: Progress) -> bool | None:
        """Look again at a failure of which nothing could be told; None when it is still too early.

        Only before a request is given up is it worth waiting for.
        """
        if progress.doubtful is None:
            return False
        is_own = self._is_own_fault(progress, progress.doubtful)
        if is_own is None and self._is_last(progress):
            return None
        progress.doubtful = None
        progress.failures += bool(is_own)
        return progress.failures >= self._config.max_attempts

    def _is_last(self, progress: Progress) -> bool:
        return progress.failures + 1 >= self._config.max_attempts

    def _is_own_fault(self, progress: Progress, permit: Permit) -> bool | None:
        """Say whether an attempt failed while others succeeded; None when it is too early."""
        return permit.is_own_fault(
            is_suspect=progress.failures > 0, is_last=self._is_last(progress)
        )

    def rest_s(
        self, progress: Progress, decision: retry_delays.RetryDecision, backoff: Backoff
    ) -> float | None:
        """Return how long a request rests by itself; None when it would wait for too long."""
        progress.setbacks += 1
        if progress.setbacks % PATIENCE == 0:
            progress.place = self._limits.next_place()
        rest_s = 0.0
        if not backoff.is_shared:
            rest_s = retry_delays.delay(decision, progress.setbacks, self._jitter)
        if max(backoff.pause_s, rest_s) > self.wait_left_s(progress):
            return None
        progress.waited_s += rest_s
        return rest_s

    def waits_in_vain(self, progress: Progress, asked: Demand) -> bool | None:
        """Say whether others succeeded while a request failed; None when it is too early.

        If not, that it cannot wait any longer is no fault of its own.
        """
        if self._limits.succeeded_since(progress.failing_since):
            return True
        return None if self._limits.has_in_flight(asked) else False

    def stop(self, attempt: Attempt, asked_s: float) -> Stop:
        """Return why a run stops in which nothing succeeded for as long as a request may wait.

        Args:
            attempt: the last one that failed.
            asked_s: how long the provider asked to wait; 0.0 when it did not say.
        """
        most_s = self._config.max_wait_s
        reason = f"no request succeeded within [retry] max_wait_s = {most_s:g} s"
        if asked_s > most_s:
            reason = (
                f"the provider asks to wait {asked_s:.0f} s, longer than [retry] max_wait_s = "
                f"{most_s:g} s"
            )
        return Stop(RunEnd.UNAVAILABLE, f"{reason}; the last error: {attempt.error}")

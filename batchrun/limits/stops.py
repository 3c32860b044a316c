"""What ends a run: too many errors, too much waiting, too little money."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from batchrun.errors import RunEnd, Stop
from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.records import Attempt

JUDGED_AFTER_ITEMS = 200
# Items that waited out `max_wait_s` end the run when they are most of the last so many.
RECENT_ITEMS = 20
FEWEST_WAITED_OUT = 3


class ErrorTally:
    """How many items have finished and failed, over all runs that share a budget."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Stop], None]] = []
        self.finished = 0
        self.errored = 0

    def on_spent(self, listener: Callable[[Stop], None]) -> None:
        """Call `listener` when too many have failed."""
        self._listeners.append(listener)

    def spend(self, stop: Stop) -> None:
        """Tell all that too many have failed."""
        for listener in self._listeners:
            listener(stop)


class ErrorBudget:
    """Decides when too many items have failed to go on.

    Args:
        max_errors: below 1 a share of the finished items, judged once enough have finished;
            otherwise a count, judged at once.
        tally: counts them, together with those of other runs; None for this one alone.
    """

    def __init__(self, max_errors: float, tally: ErrorTally | None = None) -> None:
        self._max_errors = max_errors
        self._waited_out: deque[bool] = deque(maxlen=RECENT_ITEMS)
        self._tally = tally or ErrorTally()

    def count(self, error: str | None = None, *, waited_out: bool = False) -> Stop | None:
        """Count a finished row; return why to stop, or None.

        Args:
            error: why it has no usable answer; None for a success.
            waited_out: because the provider kept refusing it for the whole of `max_wait_s`.
        """
        tally = self._tally
        tally.finished += 1
        tally.errored += error is not None
        self._waited_out.append(waited_out)
        if error is None:
            return None
        out = sum(self._waited_out)
        if out >= FEWEST_WAITED_OUT and 2 * out > len(self._waited_out):
            reason = (
                f"the provider kept refusing requests: {out} of the last {len(self._waited_out)} "
                f"rows waited in vain for as long as [retry] max_wait_s allows ({error})"
            )
            return Stop(RunEnd.UNAVAILABLE, reason)
        if self._max_errors >= 1:
            spent = tally.errored >= self._max_errors
        else:
            share = tally.errored / tally.finished
            spent = tally.finished >= JUDGED_AFTER_ITEMS and share > self._max_errors
        if not spent:
            return None
        reason = (
            f"{tally.errored} of {tally.finished} rows failed (max_errors = {self._max_errors:g}); "
            f"the last error: {error}"
        )
        stop = Stop(RunEnd.MAX_ERRORS, reason)
        tally.spend(stop)
        return stop


class CapReached(Exception):
    """What is left of `max_cost_usd` cannot cover the next request, even if all others are free."""


class CostBudget:
    """Holds `max_cost_usd`: nothing is sent unless its highest cost still fits.

    Args:
        cap: in pico-dollars; None for none.
        spent: what the run has cost before, in all its executions.
    """

    def __init__(self, cap: int | None = None, spent: int = 0) -> None:
        self.cap = cap
        self.spent = spent
        self.reserved = 0

    @property
    def is_capped(self) -> bool:
        """Whether costs are to be reserved at all."""
        return self.cap is not None

    def fits(self, amount: int) -> bool:
        """Say whether an amount can be reserved now; when not, it may be later.

        Raises:
            CapReached: when it cannot be later either.
        """
        if self.cap is None:
            return True
        if self.spent + amount > self.cap:
            raise CapReached(
                f"max_cost_usd = {_usd(self.cap)} is reached: {_usd(self.spent)} USD are spent, "
                f"and the next request may cost up to {_usd(amount)} USD"
            )
        return self.spent + self.reserved + amount <= self.cap

    def reserve(self, amount: int) -> None:
        """Set an amount aside."""
        self.reserved += amount

    def settle(self, reserved: int, spent: int) -> None:
        """Replace what was set aside by what was spent."""
        self.reserved -= reserved
        self.spent += spent


def above_bound(attempt: Attempt, bound: int | None) -> Stop | None:
    """Return why `max_cost_usd` cannot be held any more, None while it can.

    Args:
        attempt: with its cost.
        bound: the most that it could cost, in pico-dollars; None without a cap.
    """
    if bound is None:
        return None
    model, usage, cost = attempt.model, attempt.usage, attempt.cost
    if cost is None:
        if usage.output_tokens is None:
            return None  # then it counts with its bound
        reason = f"an answer of {model} used something whose price is not known"
    elif cost.total > bound:
        output = (
            "" if usage.output_tokens is None else f" for {usage.output_tokens:,} output tokens"
        )
        reason = (
            f"an answer of {model} cost {_usd(cost.total)} USD{output}, and at most {_usd(bound)} USD "
            "were possible by max_tokens and the prices; if answers may be this long, raise max_tokens"
        )
    else:
        return None
    return Stop(RunEnd.MAX_COST, f"max_cost_usd cannot be held: {reason}")


def _usd(pico: int) -> str:
    return f"{pico / PICO_PER_USD:.6f}".rstrip("0").rstrip(".")

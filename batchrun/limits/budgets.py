"""What ends a run: too many errors, too long waits, too little money."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

from batchrun.errors import RunEnd, Stop
from batchrun.records import PICO_PER_USD, CostSource

if TYPE_CHECKING:
    from batchrun.records import Attempt

# A share of errors is judged after this many rows, because that of a few rows may be chance.
JUDGED_AFTER_ITEMS = 200
# Rows that waited for the whole of `max_wait_s` end the run when they are most of the last RECENT_ITEMS.
RECENT_ITEMS = 20
FEWEST_TIMED_OUT = 3


class ErrorTally:
    """How many items have finished and failed, over all runs that share a budget.

    Attributes:
        stop: why all of them stop; None while not too many have failed.
    """

    def __init__(self) -> None:
        self._is_spent = anyio.Event()
        self.stop: Stop | None = None
        self.finished = 0
        self.errored = 0

    def count(self, *, failed: bool) -> None:
        """Count a finished item."""
        self.finished += 1
        self.errored += failed

    def spend(self, stop: Stop) -> None:
        """Stop all runs because too many items have failed. The first reason counts."""
        self.stop = self.stop or stop
        self._is_spent.set()

    async def spent(self) -> Stop:
        """Wait until too many items have failed; return why to stop."""
        while self.stop is None:
            await self._is_spent.wait()
        return self.stop


class ErrorBudget:
    """Decides when too many items have failed.

    Args:
        max_errors: below 1 a share of the finished items, judged once enough have finished;
            otherwise a count, judged at once.
        tally: counts them, together with those of other runs; None for this one alone.
    """

    def __init__(self, max_errors: float, tally: ErrorTally | None = None) -> None:
        self._max_errors = max_errors
        self._timed_out: deque[bool] = deque(maxlen=RECENT_ITEMS)
        self._tally = tally or ErrorTally()

    def count(self, error: str | None = None, *, timed_out: bool = False) -> Stop | None:
        """Count a finished row; return why to stop, or None.

        Args:
            error: why it has no usable answer; None for a success.
            timed_out: the provider refused it for the whole of `max_wait_s`.
        """
        tally = self._tally
        tally.count(failed=error is not None)
        self._timed_out.append(timed_out)
        if error is None:
            return None
        out = sum(self._timed_out)
        if out >= FEWEST_TIMED_OUT and 2 * out > len(self._timed_out):
            reason = (
                f"the provider kept refusing requests: {out} of the last {len(self._timed_out)} "
                f"rows waited for as long as [retry] max_wait_s allows ({error})"
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
    """The rest of `max_cost_usd` cannot cover the next request, even if all others cost nothing."""

    end = RunEnd.MAX_COST


class CapReserved(CapReached):
    """The rest could cover the next request if open batches cost less, but nobody waits for them."""

    end = RunEnd.BATCHES_OUT


class CostBudget:
    """Keeps `max_cost_usd`: a request is sent only if its highest cost still fits.

    Args:
        cap: in pico-dollars; None for none.
        spent: cost of the run in all its earlier executions.
        unsure: the part of `spent` that may not have been billed.
        awaits_batches: open batches are collected in this execution, which frees money.
    """

    def __init__(
        self,
        cap: int | None = None,
        spent: int = 0,
        unsure: int = 0,
        *,
        awaits_batches: bool = False,
    ) -> None:
        self.cap = cap
        self._awaits_batches = awaits_batches
        self.spent = spent
        self.unsure = unsure
        self.reserved = 0

    def fits(self, amount: int) -> bool:
        """Return whether an amount can be reserved now; if not, it may be possible later.

        Raises:
            CapReached: if it will not be possible later either.
        """
        if self.cap is None:
            return True
        if self.spent + amount > self.cap:
            raise CapReached(
                f"max_cost_usd = {_usd(self.cap)} is reached: {self._described()}, and the next request may cost up to {_usd(amount)} USD"
            )
        return self.spent + self.reserved + amount <= self.cap

    def check_wait(self) -> None:
        """Check that waiting can free money, when nothing is in flight.

        Raises:
            CapReserved: if only batches can free it, and they are not collected in this execution.
        """
        if not self._awaits_batches:
            raise CapReserved(
                f"{self.shortage()}; run with --batch to wait for them, cancel them (batchrun cancel), or "
                "raise the limit"
            )

    def shortage(self) -> str:
        """Return why an amount does not fit now, but may fit later."""
        cap = "none" if self.cap is None else _usd(self.cap)
        spent = f" and {_usd(self.spent)} USD are spent" if self.spent else ""
        return f"of max_cost_usd = {cap}, the open batches reserve {_usd(self.reserved)} USD{spent}"

    def reserve(self, amount: int) -> None:
        """Reserve an amount."""
        self.reserved += amount

    def settle(self, reserved: int, spent: int, unsure: int = 0) -> None:
        """Replace a reserved amount by what was spent, of which a part may not have been billed."""
        self.reserved -= reserved
        self.spent += spent
        self.unsure += unsure

    def _described(self) -> str:
        if not self.unsure:
            return f"{_usd(self.spent)} USD are spent"
        known, unsure = _usd(self.spent - self.unsure), _usd(self.unsure)
        return (
            f"{_usd(self.spent)} USD are spent or possibly billed ({known} USD of known cost, up to "
            f"{unsure} USD for requests whose cost is unknown)"
        )


def above_bound(attempt: Attempt, bound: int | None) -> Stop | None:
    """Return why `max_cost_usd` can no longer be kept; None while it can.

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
        way_out = "if answers may be this long, raise max_tokens"
        if cost.source is CostSource.STATED:
            way_out = "the provider stated this cost: check the model's price in [price]"
        reason = (
            f"an answer of {model} cost {_usd(cost.total)} USD{output}, and max_tokens and the "
            f"prices allow at most {_usd(bound)} USD; {way_out}"
        )
    else:
        return None
    return Stop(RunEnd.COST_ABOVE_BOUND, f"max_cost_usd cannot be kept: {reason}")


def _usd(pico: int) -> str:
    return f"{pico / PICO_PER_USD:.6f}".rstrip("0").rstrip(".")

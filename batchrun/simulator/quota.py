"""Requests and tokens per minute, as token buckets that refill continuously."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit as the headers show it.

    Attributes:
        limit: allowance per minute.
        remaining: what could be taken now.
        reset_s: seconds until the bucket is full again.
    """

    limit: int
    remaining: int
    reset_s: float


class Bucket:
    """Holds up to one minute's allowance; full at first.

    Args:
        per_minute: allowance per minute, and the most that the bucket holds.
        clock: seconds, from any origin, never going back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_at = clock()

    def wait_for(self, amount: int) -> float:
        """Return the seconds until `amount` can be taken; 0.0 means now."""
        self._refill()
        return max(0.0, (amount - self._level) * 60 / self.per_minute)

    def take(self, amount: int) -> None:
        """Take `amount`, below zero if need be. A negative amount is given back."""
        self._refill()
        self._level = min(self._level - amount, float(self.per_minute))

    def standing(self) -> Standing:
        """Return what the limit headers tell."""
        self._refill()
        missing = self.per_minute - self._level
        return Standing(self.per_minute, max(0, int(self._level)), missing * 60 / self.per_minute)

    def _refill(self) -> None:
        now = self._clock()
        earned = (now - self._filled_at) * self.per_minute / 60
        self._level = min(self._level + earned, float(self.per_minute))
        self._filled_at = now


class Reservation:
    """Tokens that were taken at admission, before it was known what would be used.

    Attributes:
        used: tokens; 0 as long as nothing was.
    """

    __slots__ = ("_bucket", "_reserved", "used")

    def __init__(self, bucket: Bucket | None, reserved: int) -> None:
        self._bucket = bucket
        self._reserved = reserved
        self.used = 0

    def settle(self) -> None:
        """Replace the tokens that were reserved by those that were used, once."""
        if self._bucket:
            self._bucket.take(self.used - self._reserved)
            self._bucket = None

    def hand_over(self) -> Callable[[], None]:
        """Return what settles it later; `settle` then does nothing here."""
        later = Reservation(self._bucket, self._reserved)
        later.used = self.used
        self._bucket = None
        return later.settle


class Quota:
    """Both limits together; None means unlimited."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._requests = Bucket(requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, clock) if tokens_per_minute else None

    def admit(self, tokens: int) -> Reservation:
        """Take one request and `tokens`, or take nothing and raise."""
        for what, bucket, amount in self._demands(tokens):
            wait_s = bucket.wait_for(amount)
            if wait_s > 0.0:
                raise RefusedError(
                    Fault.RATE_LIMIT,
                    f"Rate limit reached: {bucket.per_minute} {what} per minute; "
                    f"this request needs {amount}. Try again in {wait_s:.3f}s.",
                    scope=what,
                    wait_s=wait_s,
                )
        for _, bucket, amount in self._demands(tokens):
            bucket.take(amount)
        return Reservation(self._tokens, tokens)

    def standings(self) -> dict[str, Standing]:
        """Return the limits that are set, by "requests" and "tokens"."""
        return {what: bucket.standing() for what, bucket, _ in self._demands(0)}

    def _demands(self, tokens: int) -> list[tuple[str, Bucket, int]]:
        demands = (("requests", self._requests, 1), ("tokens", self._tokens, tokens))
        return [(what, bucket, amount) for what, bucket, amount in demands if bucket]

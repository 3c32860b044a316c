"""Refusals before the first answer of a provider: at first nobody knows whose fault they are.

Until the first answer only a few requests are sent, and rows that are refused meanwhile are held: they
fail when another row succeeds, and stay pending when none does. When all of the first rows are refused,
rows from all over the input are tried next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from batchrun.dispatch.judgement import (
    FIRST,
    Blame,
    TrackRecord,
    blame,
    is_about_access,
    reason_of,
    stop_for,
)
from batchrun.errors import RunEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.dispatch.ports import FirstRequests
    from batchrun.errors import ProviderFault, Stop
    from batchrun.records import Attempt, PlannedRequest

# A wrong key is refused at once, an answer may take minutes. Without any response, requests are held
# back no longer than this: a run with many in flight must not wait for its first answer.
MOST_HELD_BACK_S = 3.0


@dataclass(frozen=True, slots=True)
class HeldRefusal:
    """A request that was refused, with the attempt that failed."""

    request: PlannedRequest
    attempt: Attempt
    fault: ProviderFault


class Refusals:
    """Keeps the track record of a provider, and what it refused before its first answer.

    Args:
        first: what is known before the first request.

    Attributes:
        held: refused requests; nobody knows yet whose fault that is.
        is_answered: the provider has answered a request.
        is_spread: rows from all over the input were tried, or cannot be.
    """

    def __init__(self, first: FirstRequests) -> None:
        self._first = first
        self.held: list[HeldRefusal] = []
        self._reasons: Counter[tuple[int | None, str]] = Counter()
        self._in_flight = 0
        self._preferred: set[int] = set()
        self._is_spreading = False
        self._started_at: float | None = None
        self._news = anyio.Event()
        self.is_answered = False
        self.is_spread = first.sampler is None

    @property
    def record(self) -> TrackRecord:
        """What the provider has done so far."""
        return TrackRecord(
            answered=self.is_answered,
            answered_before=self._first.answered_before,
            in_flight=self._in_flight + len(self._preferred),
            held=len(self.held),
            refused=sum(is_about_access(one.fault) for one in self.held),
            alike=max(self._reasons.values(), default=0),
            is_spread=self.is_spread,
        )

    @property
    def wants_spread(self) -> bool:
        """Whether to try rows from all over the input now."""
        is_open = not (self.is_answered or self.is_spread or self._is_spreading)
        return is_open and not self._in_flight and len(self.held) >= FIRST

    def enter_now(self) -> bool:
        """Send a request without waiting; return False when it has to wait with `enter`."""
        self._in_flight += self.is_answered
        return self.is_answered

    def begin_spread(self) -> None:
        """Rows from all over the input are being looked for."""
        self._is_spreading = True

    def prefer(self, requests: Sequence[PlannedRequest]) -> None:
        """Send requests from all over the input before all others."""
        refused = {one.request.key for one in self.held}
        self._preferred.update({request.key for request in requests} - refused)
        self.is_spread = True
        self._notify()

    def drop(self, key: int) -> bool:
        """A request has ended; say whether it was preferred and never sent."""
        was_awaited = key in self._preferred
        self._preferred.discard(key)
        return was_awaited

    async def enter(self, key: int) -> None:
        """Wait until a request may be sent; `leave` has to follow."""
        if self._started_at is None:
            self._started_at = anyio.current_time()
        while not (self.is_answered or key in self._preferred or self.record.has_room):
            left_s = self._started_at + MOST_HELD_BACK_S - anyio.current_time()
            if not self.held and left_s <= 0:
                break
            with anyio.move_on_after(left_s if left_s > 0 else None):
                await self._news.wait()
        self._preferred.discard(key)
        self._in_flight += 1

    def leave(self) -> None:
        """A request has its outcome, or was not sent."""
        self._in_flight -= 1
        if not self.is_answered:
            self._notify()

    def hold(self, request: PlannedRequest, attempt: Attempt, fault: ProviderFault) -> None:
        """Hold a refusal until it is known whose fault it is."""
        self.held.append(HeldRefusal(request, attempt, fault))
        self._reasons[reason_of(fault)] += 1

    def answered(self) -> None:
        """The provider has answered a request."""
        if not self.is_answered:
            self.is_answered = True
            self._notify()

    def blame(self, *, is_over: bool = False) -> Blame:
        """Say whose fault the held refusals are; see `judgement.blame`."""
        return blame(self.record, is_over=is_over) if self.held else Blame.UNKNOWN

    def take(self) -> list[Attempt]:
        """Return the attempts of rows at fault; from now on each refusal is its row's fault."""
        held, self.held = self.held, []
        self._reasons.clear()
        self.answered()
        return [one.attempt for one in held]

    def stop(self) -> Stop:
        """Return why the run stops: for the most frequent refusal."""
        (reason, _), *_ = self._reasons.most_common(1)
        one = next(one for one in self.held if reason_of(one.fault) == reason)
        end = RunEnd.REFUSED if is_about_access(one.fault) else RunEnd.REJECTED
        return stop_for(one.fault, end, one.request.request, self._first.variable)

    def _notify(self) -> None:
        self._news.set()
        self._news = anyio.Event()

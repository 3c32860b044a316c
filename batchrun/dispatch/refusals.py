"""Refusals before the first answer of a provider: the row may be at fault, or key, model or address.

Until the first answer, only a few requests are sent, and refused requests are held. They fail if another row
succeeds, and stay pending if none does. If all of the first rows are refused, rows from all over the input
are tried next.

A refusal whose text mentions used-up credit may only quote its row. So it is held, too, and a few more requests
show whether the credit is used up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio

from batchrun.dispatch.judgement import (
    ALIKE,
    FIRST,
    Blame,
    TrackRecord,
    blame,
    is_about_access,
    reason_of,
    stop_for,
)
from batchrun.errors import RunEnd, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.dispatch.ports import FirstRequests
    from batchrun.errors import ProviderFault, Stop
    from batchrun.records import Attempt, PlannedRequest

# A wrong key is refused at once, an answer may take minutes. Without any response, requests are held
# back no longer than this: a run with many in flight must not wait for its first answer.
MOST_HELD_BACK_S = 3.0
# Requests that are sent after a refusal that mentions used-up credit. If the credit is used up, only these
# and those in flight are wasted.
CREDIT_PROBES = 4


@dataclass(frozen=True, slots=True)
class HeldRefusal:
    """A request that was refused, with the attempt that failed."""

    request: PlannedRequest
    attempt: Attempt
    fault: ProviderFault


class CreditDoubts:
    """Finds out with a few later requests whether credit is used up, or a refusal only quotes its row.

    Attributes:
        held: refusals that mention used-up credit.
    """

    def __init__(self) -> None:
        self.held: list[HeldRefusal] = []
        self._probes: set[int] = set()  # in flight, sent after the first refusal was held
        self._refused = 0
        self._is_refuted = False

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        is_open = not self.held or self._is_refuted
        return is_open or len(self._probes) + self._refused < CREDIT_PROBES

    def sent(self, key: int) -> None:
        """A request is about to be sent."""
        if self.held:
            self._probes.add(key)

    def answered(self, key: int) -> None:
        """A request was answered."""
        self._is_refuted = self._is_refuted or key in self._probes

    def hold(self, refusal: HeldRefusal) -> None:
        """Hold a refusal until it is known what it means."""
        self._refused += refusal.request.key in self._probes
        self.held.append(refusal)

    def left(self, key: int) -> None:
        """A request has its outcome."""
        self._probes.discard(key)

    def blame(self, *, is_over: bool = False) -> Blame:
        """Return whose fault the held refusals are."""
        if self._is_refuted:
            return Blame.ROWS
        is_known = self._refused >= CREDIT_PROBES or is_over
        return Blame.RUN if self.held and is_known else Blame.UNKNOWN

    def take(self) -> list[HeldRefusal]:
        """Return the refusals of rows at fault."""
        held, self.held = self.held, []
        self._probes.clear()
        self._refused, self._is_refuted = 0, False
        return held


class ModelRefusals:
    """Finds models that cannot be used although the provider answers for others."""

    def __init__(self) -> None:
        self._answered: set[str] = set()
        self._in_flight: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._last: dict[str, ProviderFault] = {}

    def has_room(self, model: str) -> bool:
        """Whether a request for a model need not wait: it may be sent, or is known to be refused."""
        refused = self._refused[model]
        if not refused or model in self._answered or refused >= ALIKE:
            return True
        return refused + self._in_flight[model] < ALIKE

    def sent(self, model: str) -> None:
        """A request is about to be sent."""
        self._in_flight[model] += 1

    def answered(self, model: str) -> None:
        """A request was answered: from now on each refusal is its row's fault."""
        self._answered.add(model)

    def refused(self, model: str, fault: ProviderFault) -> None:
        """A request was refused."""
        if model not in self._answered and is_about_access(fault):
            self._refused[model] += 1
            self._last[model] = fault

    def left(self, model: str) -> None:
        """A request has its outcome."""
        self._in_flight[model] -= 1

    def verdict(self, model: str) -> ProviderFault | None:
        """Return why no further request for a model is sent; None when one may be."""
        if model in self._answered or self._refused[model] < ALIKE:
            return None
        return self._last[model]


class Refusals:
    """Keeps the track record of a provider, and what it refused before its first answer.

    Args:
        first: what is known before the first request.

    Attributes:
        held: refused requests; nobody knows yet whose fault that is.
        models: refusals by model.
        credit: refusals that mention used-up credit.
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
        self._waiting = 0
        self.models = ModelRefusals()
        self.credit = CreditDoubts()
        self.is_answered = first.is_answered
        self.is_spread = first.sampler is None

    @property
    def record(self) -> TrackRecord:
        """What the provider has done so far."""
        return TrackRecord(
            answered=self.is_answered,
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

    @property
    def are_open(self) -> bool:
        """Whether refusals are held, or may be."""
        return bool(self.held or self.credit.held or not self.is_answered)

    def enter_now(self, key: int, model: str) -> bool:
        """Send a request without waiting; return False when it has to wait with `enter`."""
        if not (self.is_answered and self.credit.has_room and self.models.has_room(model)):
            return False
        self._enter(key, model)
        return True

    def begin_spread(self) -> None:
        """Note that rows from all over the input are being looked for."""
        self._is_spreading = True

    def prefer(self, requests: Sequence[PlannedRequest]) -> None:
        """Let these requests, from all over the input, be sent before all others."""
        refused = {one.request.key for one in self.held}
        self._preferred.update({request.key for request in requests} - refused)
        self.is_spread = True
        self._notify()

    def drop(self, key: int) -> bool:
        """Note that a request has ended; return whether it was preferred and never sent."""
        was_awaited = key in self._preferred
        self._preferred.discard(key)
        return was_awaited

    async def enter(self, key: int, model: str) -> None:
        """Wait until a request may be sent; `leave` must follow."""
        if self._started_at is None:
            self._started_at = anyio.current_time()
        while not (self.is_answered or key in self._preferred or self.record.has_room):
            # A slow first answer must not hold everything back; a refusal must.
            left_s = self._started_at + MOST_HELD_BACK_S - anyio.current_time()
            if not self.held and left_s <= 0:
                break
            with anyio.move_on_after(left_s if left_s > 0 else None):
                await self._news.wait()
        while not (self.credit.has_room and (not self.is_answered or self.models.has_room(model))):
            self._waiting += 1
            try:
                await self._news.wait()
            finally:
                self._waiting -= 1
        self._preferred.discard(key)
        self._enter(key, model)

    def leave(self, key: int, model: str) -> None:
        """A request has its outcome, or was not sent."""
        self._in_flight -= 1
        self.credit.left(key)
        self.models.left(model)
        if self.are_open or self._waiting:
            self._notify()

    def hold(self, request: PlannedRequest, attempt: Attempt, fault: ProviderFault) -> None:
        """Hold a refusal until it is known whose fault it is."""
        self.held.append(HeldRefusal(request, attempt, fault))
        self._reasons[reason_of(fault)] += 1

    def answered(self, request: PlannedRequest | None = None) -> None:
        """The provider has answered a request."""
        if request is not None:
            self.models.answered(request.request.model)
            self.credit.answered(request.key)
        if self.are_open or self._waiting:
            self.is_answered = True
            self._notify()

    def blame(self, *, is_over: bool = False) -> Blame:
        """Return whose fault the held refusals are; see `judgement.blame`."""
        return blame(self.record, is_over=is_over) if self.held else Blame.UNKNOWN

    def take(self) -> list[Attempt]:
        """Return the held attempts, whose rows are at fault. From now on each refusal is its row's fault."""
        held, self.held = self.held, []
        self._reasons.clear()
        self.answered()
        return [one.attempt for one in held]

    def verdict(self, request: PlannedRequest) -> ProviderFault | None:
        """Return why a request is not sent: its model cannot be used; None when it may be."""
        model = request.request.model
        fault = self.models.verdict(model) if self.is_answered else None
        if fault is None:
            return None
        reason = (
            f"not sent, because all {ALIKE} earlier requests for {printable(model)} were refused"
        )
        return replace(fault, message=f"{reason}: {fault.message}")

    def take_credit(self) -> list[HeldRefusal]:
        """Return refusals that quoted their rows: the credit is not used up."""
        held = self.credit.take()
        self._notify()
        return held

    def stop_for_credit(self) -> Stop:
        """Return why the run stops: credit is used up."""
        one = self.credit.held[0]
        return stop_for(one.fault, RunEnd.EXHAUSTED, one.request.request, self._first.variable)

    def stop(self) -> Stop:
        """Return why the run stops: for the most frequent refusal."""
        (reason, _), *_ = self._reasons.most_common(1)
        one = next(one for one in self.held if reason_of(one.fault) == reason)
        end = RunEnd.REFUSED if is_about_access(one.fault) else RunEnd.REJECTED
        return stop_for(one.fault, end, one.request.request, self._first.variable)

    def _enter(self, key: int, model: str) -> None:
        self._in_flight += 1
        self.models.sent(model)
        self.credit.sent(key)

    def _notify(self) -> None:
        self._news.set()
        self._news = anyio.Event()

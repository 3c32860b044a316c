"""`Limits`: the `Admission` of live dispatch. The docstring of `batchrun.limits` explains its steps."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import anyio

from batchrun.errors import short
from batchrun.limits.budgets import CapReached, CostBudget
from batchrun.limits.concurrency import MOST, START, InFlight
from batchrun.limits.endpoint import (
    CONCURRENCY,
    LONGEST_TROUBLE,
    MONEY,
    OUTAGE,
    PAUSE,
    RETRY,
    EndpointLimiter,
    EndpointPermit,
)
from batchrun.limits.memory import ANSWER_BYTES, REQUEST_BYTES, ByteBudget
from batchrun.limits.waiting import PriorityLock, Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.job import LimitsConfig
    from batchrun.limits.demand import Demand, LimitKey
    from batchrun.records import AttemptId

# Requests to a pausing endpoint that are held while requests to others are looked for.
LOOKAHEAD = 64
# Waits below the precision of the event loop would only keep it busy.
SHORTEST_WAIT_S = 0.001


class Limits:
    """Admits requests, for each model in the order in which they first asked.

    Args:
        config: the job's limits.
        waits: account for time spent waiting.
        money: what may be spent.
        most: the most requests in flight, whatever the job says.
        jitter: returns a number in [0, 1).
        clock: monotonic, in seconds; None for the event loop's.
    """

    def __init__(
        self,
        config: LimitsConfig,
        waits: Waits,
        *,
        money: CostBudget | None = None,
        most: int = MOST,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._config = config
        self._waits = waits
        self._cap = config.concurrency or most
        self.request_memory = ByteBudget(REQUEST_BYTES)
        self.answer_memory = ByteBudget(ANSWER_BYTES)
        self._jitter = jitter
        self._clock = clock
        self._endpoints: dict[LimitKey, tuple[EndpointLimiter, PriorityLock]] = {}
        self._ranks = itertools.count()
        self._in_flight = InFlight(self._cap)
        self.money = money or CostBudget()

    @property
    def caps_cost(self) -> bool:
        """Whether a request needs `Demand.most_cost`."""
        return self.money.cap is not None

    def next_rank(self) -> int:
        """Return the rank of a new request: behind all others."""
        return next(self._ranks)

    def unsendable(self, asked: Demand) -> tuple[str, str] | None:
        """Return error type and message when a request can never be admitted."""
        if (reason := self._endpoint(asked.key)[0].rates.too_large(asked)) is not None:
            return "over_token_limit", reason
        if self.caps_cost and asked.most_cost is None:
            return "unknown_price", (
                f"[limits] max_cost_usd: the price of {short(asked.key[1])} is not known, or max_tokens is "
                "missing, so the highest cost of the request is not known"
            )
        return None

    async def above_reported(self, asked: Demand) -> str | None:
        """Return why the provider will always refuse a request, by the limits in its headers."""
        return self._endpoint(asked.key)[0].rates.above_reported(asked)

    async def succeeded_since(self, since: float) -> bool:
        """Return whether any request was answered since then."""
        return any(each.succeeded_at > since for each, _ in self._endpoints.values())

    async def has_in_flight(self, asked: Demand) -> bool:
        """Return whether anything is in flight to the endpoint of this request."""
        return self._endpoint(asked.key)[0].concurrency.in_flight > 0

    def admit_now(self, asked: Demand) -> EndpointPermit | None:
        """Admit a request that need not wait; None if it must, or if money is short.

        Most requests are admitted here.
        """
        endpoint, lock = self._endpoint(asked.key)
        if lock.is_held or endpoint.limits_requests:
            return None
        try:
            if self._obstacle(endpoint, asked) is not None:
                return None
        except CapReached:
            return None
        self._in_flight.enter()
        return endpoint.grant(asked)

    async def admit(
        self,
        asked: Demand,
        rank: int | None = None,
        waits: Waits | None = None,
        attempt: AttemptId | None = None,
    ) -> EndpointPermit:
        """Wait until everything allows one more request.

        Args:
            asked: the demand of the request.
            rank: the lowest is served first; None for behind all others.
            waits: counts the waits of its run; None for those of all runs.
            attempt: not used here.

        Raises:
            CapReached: if the rest of the cost cap cannot cover it.
            CapReserved: if open batches reserve that rest, and they are not waited for.
        """
        del attempt
        endpoint, lock = self._endpoint(asked.key)
        waits = waits or self._waits
        await lock.acquire(self.next_rank() if rank is None else rank)
        try:
            await endpoint.take_request_turn(waits)
            while (obstacle := self._obstacle(endpoint, asked)) is not None:
                if obstacle[0] == MONEY and not self._in_flight.count:
                    self.money.check_wait()
                await self._wait_for(*obstacle, waits)
            self._in_flight.enter()
            return endpoint.grant(asked)
        finally:
            lock.release()

    def workers_wanted(self) -> int:
        """Return the number of requests that could be worked on now: more would only wait."""
        if len(self._endpoints) == 1:  # of nearly all runs, and asked for every row
            ((only, _),) = self._endpoints.values()
            return min(only.limit, self._cap) + (LOOKAHEAD if only.pause_s > 0 else 0)
        endpoints = [endpoint for endpoint, _ in self._endpoints.values()]
        if not endpoints:
            return self._config.concurrency or START
        # Behind requests to an endpoint that pauses there may be requests to another one.
        held_up = max(len(endpoints) - 1, sum(endpoint.pause_s > 0 for endpoint in endpoints))
        limit = sum(endpoint.limit for endpoint in endpoints)
        return min(limit, self._cap) + LOOKAHEAD * held_up

    def waiting_for(self) -> str | None:
        """Return what requests are waiting for now: a limit, or the server."""
        endpoints = [endpoint for endpoint, _ in self._endpoints.values()]
        current = self._waits.current
        if current in {None, PAUSE, OUTAGE, RETRY}:
            troubles = [each.trouble for each in endpoints if each.trouble is not None]
            if troubles:
                return troubles[0]
        if current == RETRY:
            error = self.waits_after()
            return RETRY if error is None else f"{RETRY}: {error}"[:LONGEST_TROUBLE]
        if current not in {None, CONCURRENCY}:
            return current
        if not self._in_flight.count:
            return current
        full = all(endpoint.concurrency.in_flight >= endpoint.limit for endpoint in endpoints)
        return f"{CONCURRENCY if full else 'server'} ({self._in_flight.count} in flight)"

    def waits_after(self) -> str | None:
        """Return the error after which requests wait now; None if they do not wait for that."""
        endpoints = [endpoint for endpoint, _ in self._endpoints.values()]
        is_trouble = any(each.trouble is not None for each in endpoints)
        if not is_trouble and self._waits.current not in {PAUSE, OUTAGE, RETRY}:
            return None
        return next((each.last_error for each in endpoints if each.last_error), None)

    def _endpoint(self, key: LimitKey) -> tuple[EndpointLimiter, PriorityLock]:
        found = self._endpoints.get(key)
        if found is None:
            endpoint = EndpointLimiter(
                self._config,
                money=self.money,
                cap=self._cap,
                jitter=self._jitter,
                in_flight=self._in_flight,
                # Asked several times a request, and anyio would look for its loop each time.
                clock=self._clock or asyncio.get_running_loop().time,
            )
            found = self._endpoints[key] = endpoint, PriorityLock()
        return found

    def _obstacle(self, endpoint: EndpointLimiter, asked: Demand) -> tuple[str, float] | None:
        if self._in_flight.is_full:
            return CONCURRENCY, float("inf")
        return endpoint.obstacle(asked)

    async def _wait_for(self, cause: str, seconds: float, waits: Waits) -> None:
        """Wait until a request is settled, but at most `seconds`."""
        with waits.waiting_for(cause), anyio.move_on_after(max(seconds, SHORTEST_WAIT_S)):
            await self._in_flight.changed()

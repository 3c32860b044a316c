"""What holds requests back: rates, concurrency, cooldowns, money, and errors that are too many.

Limits are kept for each base URL, model and key. What the job sets is an upper
bound; below it, the provider's own limits are followed: those that its headers tell, or what its
refusals teach.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import anyio

from batchrun.limits.concurrency import MOST, START
from batchrun.limits.demand import Demand, LimitKey, demand, most_output, most_tokens
from batchrun.limits.gate import CONCURRENCY, COOLDOWN, Gate, Permit
from batchrun.limits.memory import ANSWER_BYTES, REQUEST_BYTES, ByteBudget
from batchrun.limits.stops import CapReached, CostBudget, ErrorBudget, ErrorTally, above_bound
from batchrun.limits.turns import Turn
from batchrun.limits.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.job import LimitsConfig

# Requests that may wait for one model while others are looked for behind them.
LOOKAHEAD = 64
# Shorter waits than the loop's own precision would only keep it busy.
SHORTEST_WAIT_S = 0.001


class Limits:
    """Admits requests, for each model in the order in which they first asked.

    Args:
        config: the job's limits.
        waits: account for time spent waiting.
        money: what may be spent.
        most: the most requests in flight, whatever the job says.
        jitter: returns a number in [0, 1).
        clock: seconds that never go back; None for the event loop's.
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
        self._gates: dict[LimitKey, tuple[Gate, Turn]] = {}
        self._places = itertools.count()
        self._something = anyio.Event()
        self._heads_waiting = 0
        self._in_flight = 0
        self.money = money or CostBudget()

    def next_place(self) -> int:
        """Return the place of a request that asks for the first time: the last one."""
        return next(self._places)

    def too_large(self, asked: Demand) -> str | None:
        """Return why a request could never be admitted, None when it can."""
        return self._gate(asked.key)[0].too_large(asked)

    def above_told(self, asked: Demand) -> str | None:
        """Return why the provider refuses a request for good, by the limits that it tells."""
        return self._gate(asked.key)[0].above_told(asked)

    def admit_now(self, asked: Demand) -> Permit | None:
        """Admit a request that has nothing to wait for, which is the most frequent case.

        Returns None when there is something, or no money for it: then `admit` says what.
        """
        gate, turn = self._gate(asked.key)
        if turn.is_held or gate.is_paced:
            return None
        try:
            if self._obstacle(gate, asked) is not None:
                return None
        except CapReached:
            return None
        self._in_flight += 1
        return gate.grant(asked)

    async def admit(
        self, asked: Demand, place: int | None = None, waits: Waits | None = None
    ) -> Permit:
        """Wait until everything allows one more request.

        Args:
            asked: what it asks for.
            place: its place in the order of all; None for the last one.
            waits: the account of the run that it belongs to; None for that of all.

        Raises:
            CapReached: when what is left of the cost cap cannot cover it.
        """
        gate, turn = self._gate(asked.key)
        waits = waits or self._waits
        await turn.take(self.next_place() if place is None else place)
        try:
            await gate.take_request_turn(waits)
            while (obstacle := self._obstacle(gate, asked)) is not None:
                await self._wait_out(*obstacle, waits)
            self._in_flight += 1
            return gate.grant(asked)
        finally:
            turn.pass_on()

    def workers_wanted(self) -> int:
        """How many workers can have something to do: more than that would only wait."""
        gates = [gate for gate, _ in self._gates.values()]
        if not gates:
            return self._config.concurrency or START
        # Behind the requests to a model that has to wait there may be some to another.
        held_up = max(len(gates) - 1, sum(gate.cooldown_s > 0 for gate in gates))
        limit = sum(gate.concurrency.limit for gate in gates)
        return min(limit, self._cap) + LOOKAHEAD * held_up

    def waiting_for(self) -> str | None:
        """Say what requests are waiting for at this moment: a limit, or else the server."""
        cooling = [gate.cooldown_s for gate, _ in self._gates.values() if gate.cooldown_s > 0]
        current = self._waits.current
        if cooling and current in {None, COOLDOWN}:
            return f"{COOLDOWN} of {max(cooling):.0f} s"
        if current not in {None, CONCURRENCY}:
            return current
        if not self._in_flight:
            return current
        full = all(
            gate.concurrency.in_flight >= gate.concurrency.limit for gate, _ in self._gates.values()
        )
        return f"{CONCURRENCY if full else 'server'} ({self._in_flight} in flight)"

    def _gate(self, key: LimitKey) -> tuple[Gate, Turn]:
        found = self._gates.get(key)
        if found is None:
            gate = Gate(
                self._config,
                money=self.money,
                cap=self._cap,
                jitter=self._jitter,
                changed=self._left,
                # Asked several times a request, and anyio would look for its loop each time.
                clock=self._clock or asyncio.get_running_loop().time,
            )
            found = self._gates[key] = gate, Turn()
        return found

    def _obstacle(self, gate: Gate, asked: Demand) -> tuple[str, float] | None:
        if self._in_flight >= self._cap:
            return CONCURRENCY, float("inf")
        return gate.obstacle(asked)

    async def _wait_out(self, cause: str, seconds: float, waits: Waits) -> None:
        """Wait for so long, or until something has been settled."""
        self._heads_waiting += 1
        try:
            with (
                waits.waiting_for(cause),
                anyio.move_on_after(max(seconds, SHORTEST_WAIT_S)),
            ):
                await self._something.wait()
        finally:
            self._heads_waiting -= 1

    def _left(self) -> None:
        self._in_flight -= 1
        if self._heads_waiting:
            self._something.set()
            self._something = anyio.Event()


__all__ = [
    "MOST",
    "START",
    "ByteBudget",
    "CapReached",
    "CostBudget",
    "Demand",
    "ErrorBudget",
    "ErrorTally",
    "Limits",
    "Permit",
    "Waits",
    "above_bound",
    "demand",
    "most_output",
    "most_tokens",
]

"""Live dispatch under another admission than `Limits`: grants that somebody else gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from batchrun.client import Exchange
from batchrun.dispatch import Accounts, LiveDispatcher, Rules
from batchrun.errors import ProviderError, ProviderFault
from batchrun.job import RetryConfig
from batchrun.limits import Backoff, ByteBudget, ErrorBudget, Waits
from batchrun.pricing import PriceBook
from batchrun.records import Completion, PlannedRequest, Request, Usage, WireRequest
from tests.support.metered import Memory

if TYPE_CHECKING:
    from batchrun.limits import Demand, RetryDecision
    from batchrun.records import Attempt, AttemptId, LimitState

pytestmark = pytest.mark.anyio


@dataclass
class Grant:
    """Permission for one attempt; keeps what became of it."""

    asked: Demand
    sent_at: float
    cost: int | None = None
    outcomes: list[str | None] = field(default_factory=list)

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        del reported
        self.outcomes.append(attempt.cause)

    def withdraw(self) -> None:
        self.outcomes.append("withdrawn")

    async def cool_down(
        self, fault: ProviderFault, decision: RetryDecision, *, is_suspect: bool = False
    ) -> Backoff:
        del fault, decision, is_suspect
        return Backoff(is_shared=True, pause_s=0.0)

    async def is_own_fault(self, *, is_suspect: bool, is_last: bool) -> bool | None:
        del is_suspect, is_last
        return True


@dataclass
class Grants:
    """Admits as many attempts as were granted; the next ones wait for further grants."""

    left: int
    given: list[Grant] = field(default_factory=list)
    request_memory: ByteBudget = field(default_factory=lambda: ByteBudget(10**6))
    answer_memory: ByteBudget = field(default_factory=lambda: ByteBudget(10**6))
    caps_cost: bool = False
    more: anyio.Event = field(default_factory=anyio.Event)

    def next_rank(self) -> int:
        return 0

    def unsendable(self, asked: Demand) -> tuple[str, str] | None:
        del asked
        return None

    async def above_reported(self, asked: Demand) -> str | None:
        del asked
        return None

    def admit_now(self, asked: Demand) -> Grant | None:
        if not self.left:
            return None
        self.left -= 1
        self.given.append(Grant(asked, anyio.current_time()))
        return self.given[-1]

    async def admit(
        self,
        asked: Demand,
        rank: int | None,
        waits: Waits | None,
        attempt: AttemptId | None = None,
    ) -> Grant:
        del rank, waits, attempt
        while (grant := self.admit_now(asked)) is None:
            await self.more.wait()
        return grant

    def grant(self, count: int) -> None:
        self.left += count
        self.more.set()
        self.more = anyio.Event()

    async def succeeded_since(self, since: float) -> bool:
        del since
        return True

    async def has_in_flight(self, asked: Demand) -> bool:
        del asked
        return False

    def workers_wanted(self) -> int:
        return 4


class Provider:
    """Refuses the first attempt of every second request, and answers the others."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send(self, wire: WireRequest) -> Exchange:
        self.sent.append(wire.body)
        if int(wire.body) % 2 and self.sent.count(wire.body) == 1:
            raise ProviderError(ProviderFault("rate_limit_error", "slow down", 429))
        completion = Completion(("yes",), "stop", "m", "id", Usage(1, 1))
        return Exchange(completion, 200, None, {})


def planned(key: int) -> PlannedRequest:
    request = Request("messages", "http://x", "m", ())
    return PlannedRequest(key, str(key), request, WireRequest("http://x", (), b"%d" % key))


async def test_live_dispatch_sends_what_is_granted_and_settles_each_grant_once() -> None:
    admission, provider, journal = Grants(left=3), Provider(), Memory()
    dispatcher = LiveDispatcher(
        provider,
        journal,
        admission,
        accounts=Accounts(Waits(), ErrorBudget(10**9), PriceBook("anthropic")),
        rules=Rules(RetryConfig()),
    )
    send, receive = anyio.create_memory_object_stream["list[PlannedRequest]"](1)
    with anyio.fail_after(120), receive:
        async with anyio.create_task_group() as group:
            group.start_soon(dispatcher.run, receive)
            with send:
                await send.send([planned(key) for key in range(10)])
            await anyio.wait_all_tasks_blocked()
            assert len(provider.sent) == 3
            admission.grant(12)
    assert dispatcher.tally.succeeded == 10
    assert len(admission.given) == len(provider.sent) == 15
    outcomes: list[Any] = [grant.outcomes for grant in admission.given]
    assert outcomes.count([None]) == 10
    assert outcomes.count(["rate_limit"]) == 5

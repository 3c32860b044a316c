"""The workers: a stream of requests becomes a stream of attempts and results.

Each worker takes a request, waits for the limits, makes attempts and decides after each. It knows
no file, no table and no terminal: what happens is told to a `Journal`, and nothing goes on before
the journal has it. An answer that has arrived is recorded even when the run is being cancelled.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from batchrun import formats, retry
from batchrun.dispatch.conversation import MAX_TURNS, Conversation, concluded
from batchrun.dispatch.judgement import Verdict, judge, stop_for
from batchrun.dispatch.ports import Journal, Review, Sender, Spread, Tools, as_it_is
from batchrun.dispatch.progress import (
    Pause,
    Progress,
    errored,
    failed_attempt,
    settle,
)
from batchrun.dispatch.refusals import Refusals
from batchrun.dispatch.review import rejected, rejecting
from batchrun.dispatch.workers import Workers
from batchrun.errors import ProviderError, ProviderFault, RunEnd, Stop
from batchrun.limits import CapReached, above_bound, demand, most_tokens
from batchrun.records import Attempt, AttemptStart, Completion, Result, Status
from batchrun.retry import Cause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.client import Exchange
    from batchrun.job import RetryConfig
    from batchrun.limits import Demand, ErrorBudget, Limits, Permit, Waits
    from batchrun.pricing import PriceBook
    from batchrun.records import LimitState, PlannedRequest

# Refused so often in a row, a request goes behind the others: it may be the one that is too large.
PATIENCE_WITH_REFUSALS = 3


class Dispatcher:
    """Sends requests with as many workers as the limits have work for.

    Args:
        client: makes attempts.
        journal: records them.
        limits: admit requests.
        waits: account for time spent waiting.
        errors: decides when too many have failed.
        prices: put a cost on usage.
        config: how long to insist.
        jitter: returns a number in [0, 1).
        review: reads an answer further, and says why it is not accepted, if it is not.
        tools: carry out calls, so that an answer with calls is not the last one.
        max_turns: how many turns a conversation may have.
        account: the environment variable with the key; empty when no key is sent. It tells the
            limits of one key from those of another.
        answered_before: the provider answered in an earlier execution of the run.
    """

    def __init__(
        self,
        *,
        client: Sender,
        journal: Journal,
        limits: Limits,
        waits: Waits,
        errors: ErrorBudget,
        prices: PriceBook,
        config: RetryConfig,
        jitter: Callable[[], float] = random.random,
        review: Review = as_it_is,
        tools: Tools | None = None,
        max_turns: int = MAX_TURNS,
        account: str = "",
        answered_before: bool = False,
    ) -> None:
        self._client = client
        self._journal = journal
        self._limits = limits
        self._waits = waits
        self._errors = errors
        self._prices = prices
        self._config = config
        self._workers = Workers(self._complete, limits.workers_wanted, limits.request_memory)
        self._jitter = jitter
        self._review = review
        self._conversation = Conversation(journal, tools, max_turns)
        self._account = account
        self._refusals = Refusals(answered_before=answered_before, variable=account)
        self._spread: Spread | None = None
        self._active: set[int] = set()
        self._begun: set[int] = set()  # before rows from elsewhere were tried
        self._out_of_turn: set[int] = set()
        self._waiting: set[anyio.CancelScope] = set()
        self._on_drain: list[Callable[[], None]] = []
        self.is_draining = False
        self.in_flight = 0
        self.sent = 0
        self.succeeded = 0
        self.last_error: str | None = None
        self.stopped: Stop | None = None

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Send every request of the stream; returns when all have a result or the run drains."""
        await self._workers.run(requests)
        if not self.is_draining:
            await self._decide(is_over=True)

    def drain(self) -> None:
        """Send nothing more. What is in flight goes on to its end; what waits stays pending."""
        self.is_draining = True
        self._workers.stop()
        for scope in list(self._waiting):
            scope.cancel()
        for notify in self._on_drain:
            notify()

    def stop(self, stop: Stop) -> None:
        """Drain on purpose; the first reason counts."""
        self.stopped = self.stopped or stop
        self.drain()

    def on_drain(self, notify: Callable[[], None]) -> None:
        """Call `notify` when draining begins, so that the source of requests can stop too."""
        self._on_drain.append(notify)
        if self.is_draining:
            notify()

    def spread_by(self, spread: Spread) -> None:
        """When the first rows are all refused, try those that `spread` finds all over the input."""
        self._spread = spread
        self._refusals.is_spread = False

    async def _complete(self, request: PlannedRequest) -> None:
        """Take one request to its result, unless that has been done out of turn."""
        if request.key not in self._out_of_turn:
            await self._converse(request)

    async def _converse(self, request: PlannedRequest) -> None:
        """Take one request to its result, unless the run drains first.

        A conversation with tools has several turns, each with attempts of its own.
        """
        self._active.add(request.key)
        if not (self._refusals.is_answered or self._refusals.is_spread):
            self._begun.add(request.key)
        try:
            await self._take_turns(request)
        finally:
            self._active.discard(request.key)
        if self._refusals.drop(request.key):
            await self._decide()

    async def _take_turns(self, request: PlannedRequest) -> None:
        progress = Progress(request.attempts_made, self._limits.next_place())
        following = await self._caught_up(request, progress)
        while following is not None:
            following = await self._take_turn(following, progress)

    async def _caught_up(
        self, request: PlannedRequest, progress: Progress
    ) -> PlannedRequest | None:
        """Return the request as far as its conversation came in earlier executions."""
        conversation = self._conversation
        if not conversation.has_all(request.turns):
            return request
        if conversation.ends(len(request.turns)):
            await self._give_up_unsent(request, progress, *conversation.too_many_turns(request))
            return None
        following = replace(request, turns=())
        for turn in request.turns:
            following = await conversation.follow(following, turn)
        return following

    async def _take_turn(
        self, request: PlannedRequest, progress: Progress
    ) -> PlannedRequest | None:
        """Get one answer; return the request that has to follow it, None when there is none."""
        asked = demand(request, self._most_cost(request), self._account)
        progress.failures = 0
        progress.rejections.clear()
        if (problem := self._unsendable(asked)) is not None:
            await self._give_up_unsent(request, progress, *problem)
            return None
        while await self._may_send(request.key):
            try:
                if not await self._admitted(asked, progress):
                    return None
                follows = await self._attempt(request, progress)
            finally:
                self._refusals.leave()
            await self._decide()
            if not isinstance(follows, Pause):
                return follows
            if not await self._pause(follows):
                return None
        return None

    async def _may_send(self, key: int) -> bool:
        """Wait for the first answers of the provider; False when nothing more is to be sent."""
        if self._refusals.enter_now():
            return True
        return await self._interruptible(partial(self._refusals.enter, key))

    async def _decide(self, *, is_over: bool = False) -> None:
        """Settle whose fault the refusals before the first answer are, once that can be told."""
        if self._spread is not None and self._refusals.wants_spread:
            await self._try_elsewhere(self._spread)
        blame = self._refusals.verdict(is_over=is_over)
        if blame is Verdict.RUN:
            self.stop(self._refusals.stop())
        elif blame is Verdict.ROWS:
            for refused in self._refusals.take():
                attempt = replace(refused, cause=Cause.NO.value)
                await self._journal.finish(errored(attempt, retryable=False))

    async def _try_elsewhere(self, spread: Spread) -> None:
        """Send requests from all over the input: the first ones were all refused."""
        self._refusals.begin_spread()
        found = await spread()
        new = [request for request in found if request.key not in self._begun]
        waiting = [request for request in found if request.key in self._active]
        self._out_of_turn.update(request.key for request in new)
        self._refusals.prefer([*new, *waiting])
        async with anyio.create_task_group() as group:
            for request in new:
                group.start_soon(self._converse, request)

    def _most_cost(self, request: PlannedRequest) -> int | None:
        """Return the highest cost that a request can have, if it can be told and matters."""
        if not self._limits.money.is_capped or (most := most_tokens(request)) is None:
            return None
        tier = request.request.parameters.service_tier
        return self._prices.highest(*most, request.request.model, tier)

    def _unsendable(self, asked: Demand) -> tuple[str, str] | None:
        """Return the type and the message of the error that keeps a request from being sent."""
        if (reason := self._limits.too_large(asked)) is not None:
            return "over_token_limit", reason
        if self._limits.money.is_capped and asked.most_cost is None:
            return "unknown_price", (
                f"[limits] max_cost_usd: the price of {asked.key[1]} is not known, or max_tokens is "
                "missing, so there is no highest cost to hold against it"
            )
        return None

    async def _admitted(self, asked: Demand, progress: Progress) -> bool:
        """Wait until a request may be sent; False when it is not to be sent any more."""
        if self._admitted_now(asked, progress):
            return True
        start = anyio.current_time()
        left_s = math.inf if progress.refused is None else self._wait_left_s(progress)
        with anyio.move_on_after(left_s):
            await self._interruptible(partial(self._ask, asked, progress))
        if self.is_draining:
            if progress.permit is not None:
                progress.permit.withdraw()
                progress.permit = None
        elif progress.refused is not None:
            progress.waited_s += anyio.current_time() - start
            if progress.permit is None:
                await self._wait_in_vain(progress.refused)
        return progress.permit is not None

    def _admitted_now(self, asked: Demand, progress: Progress) -> bool:
        progress.permit = None if self.is_draining else self._limits.admit_now(asked)
        return progress.permit is not None

    async def _ask(self, asked: Demand, progress: Progress) -> None:
        progress.permit = None
        try:
            progress.permit = await self._limits.admit(asked, progress.place, self._waits)
        except CapReached as reason:
            self.stop(Stop(RunEnd.MAX_COST, str(reason)))

    def _wait_left_s(self, progress: Progress) -> float:
        return self._config.max_wait_s - progress.waited_s

    async def _pause(self, pause: Pause) -> bool:
        if not pause.seconds:
            await anyio.lowlevel.checkpoint()
            return True
        with self._waits.waiting_for("retry"):
            return await self._interruptible(partial(anyio.sleep, pause.seconds))

    async def _interruptible(self, wait: Callable[[], Awaitable[None]]) -> bool:
        """Wait, unless the run drains; say whether to go on afterwards."""
        if self.is_draining:
            return False
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                await wait()
            finally:
                self._waiting.discard(scope)
        return not self.is_draining

    async def _attempt(
        self, request: PlannedRequest, progress: Progress
    ) -> Pause | PlannedRequest | None:
        """Make one attempt; return the pause before the next, or the request of the next turn."""
        progress.number += 1
        sent, start = False, time.perf_counter()
        try:
            reserved = progress.permit.cost if progress.permit else None
            await self._journal.begin(
                AttemptStart(request.key, progress.number, datetime.now(UTC), reserved)
            )
            sent, start = True, time.perf_counter()
            self.sent += 1
            self.in_flight += 1
            exchange = await self._client.send(request.wire)
        except ProviderError as error:
            return await self._failed(request, progress, error.fault, time.perf_counter() - start)
        except anyio.get_cancelled_exc_class():
            await self._abandon(request, progress, time.perf_counter() - start, sent=sent)
            raise
        finally:
            self.in_flight -= sent
        try:
            return await self._answered(request, progress, exchange, time.perf_counter() - start)
        finally:
            exchange.close()

    async def _answered(
        self, request: PlannedRequest, progress: Progress, exchange: Exchange, latency_s: float
    ) -> Pause | PlannedRequest | None:
        self._refusals.answered()
        completion, rejection = exchange.completion, None
        goes_on = self._conversation.goes_on(completion)
        if not goes_on:
            completion, rejection = self._review(concluded(completion, request))
        attempt = Attempt(
            request.key,
            progress.number,
            latency_s,
            http_status=exchange.http_status,
            error_type=None if rejection is None else rejection.error_type,
            error_message=None if rejection is None else rejection.message,
            cause=None if rejection is None else Cause.INVALID.value,
            request_id=exchange.request_id,
            model=completion.model or request.request.model,
            asked_model=request.request.model,
            usage=completion.usage,
            billing=completion.billing,
        )
        attempt, _ = self._settled(progress, attempt, exchange.limits)
        if goes_on:
            return await self._turned(request, attempt, completion)
        if rejection is not None and progress.asks_again(rejection, self._config.max_attempts):
            await self._record(attempt)
            return Pause(0.0)
        # An answer that is not accepted is kept beside the reason: it was paid for.
        status = Status.SUCCEEDED if rejection is None else Status.ERRORED
        await self._finish(Result(request.key, status, attempt, datetime.now(UTC), completion))
        return None

    def _settled(
        self, progress: Progress, attempt: Attempt, told: LimitState | None
    ) -> tuple[Attempt, Permit | None]:
        """Put a cost on an attempt and give the limits back what it did not use.

        Where it cost more than a request can, the cap on the cost cannot be held: the run stops.
        """
        cost = self._prices.cost(
            attempt.usage, attempt.model, attempt.asked_model, billing=attempt.billing
        )
        attempt = replace(attempt, cost=cost)
        permit = settle(progress, attempt, told)
        if permit is not None and (stop := above_bound(attempt, permit.cost)) is not None:
            self.stop(stop)
        return attempt, permit

    async def _turned(
        self, request: PlannedRequest, attempt: Attempt, completion: Completion
    ) -> PlannedRequest | None:
        """Keep a turn before anything follows from it, since it is paid for; then go on."""
        turn = formats.turn(request.key, attempt.number, completion)
        with anyio.CancelScope(shield=True):
            await self._journal.turn(turn, attempt)
        if not self._conversation.ends(len(request.turns) + 1):
            return await self._conversation.follow(request, turn)
        error_type, message = self._conversation.too_many_turns(request)
        attempt = replace(
            attempt, error_type=error_type, error_message=message, cause=Cause.NO.value
        )
        completion = concluded(completion, request)
        await self._finish(
            Result(request.key, Status.ERRORED, attempt, datetime.now(UTC), completion)
        )
        return None

    async def _failed(
        self,
        request: PlannedRequest,
        progress: Progress,
        fault: ProviderFault,
        latency_s: float,
    ) -> Pause | None:
        decision = judge(fault, self._refusals.record)
        attempt = failed_attempt(request, progress.number, fault, latency_s, decision.cause)
        attempt, permit = self._settled(progress, attempt, fault.limits)
        if decision.end is not None:
            # Not the row's failure: it stays pending until the cause is removed.
            await self._record(attempt)
            self.stop(stop_for(fault, decision.end, request.request, self._account))
            return None
        if decision.cause is Cause.UNDECIDED:
            await self._hold(request, attempt, fault)
            return None
        if decision.cause is Cause.RATE_LIMIT and permit is not None:
            if (reason := self._limits.above_told(permit.asked)) is not None:
                attempt = replace(attempt, error_type="over_token_limit", error_message=reason)
                await self._finish(errored(attempt, retryable=True))
                return None
            return await self._refused(progress, attempt, permit.cool_down(fault, decision))
        delay = self._next_delay(decision, progress)
        if delay is None:
            await self._finish(errored(attempt, retryable=decision.cause is not Cause.NO))
            return None
        await self._record(attempt)
        return Pause(delay)

    async def _hold(self, request: PlannedRequest, attempt: Attempt, fault: ProviderFault) -> None:
        """Keep a refused row open: the next answers show whether it is the row's fault."""
        await self._record(attempt)
        self._refusals.hold(request, attempt, fault)
        self._count(attempt.error)

    async def _refused(self, progress: Progress, attempt: Attempt, pause_s: float) -> Pause | None:
        """The provider wants fewer requests: all wait, and this one is the first to go again.

        That uses up none of its attempts, but the time that one request may wait is bounded.
        """
        progress.refused = attempt
        progress.rate_limited += 1
        if pause_s > self._wait_left_s(progress):
            await self._wait_in_vain(attempt)
            if pause_s > self._config.max_wait_s:
                reason = (
                    f"the provider asks to wait {pause_s:.0f} s, longer than [retry] max_wait_s = "
                    f"{self._config.max_wait_s:g}"
                )
                self.stop(Stop(RunEnd.UNAVAILABLE, reason))
            return None
        if progress.rate_limited % PATIENCE_WITH_REFUSALS == 0:
            progress.place = self._limits.next_place()
        await self._record(attempt)
        self._workers.add()
        return Pause(0.0)

    async def _wait_in_vain(self, attempt: Attempt) -> None:
        """A request was refused for as long as it may wait; another execution may try again."""
        await self._finish(errored(attempt, retryable=True), waited_out=True)

    def _next_delay(self, decision: retry.RetryDecision, progress: Progress) -> float | None:
        """Return the seconds to wait, None when the request has used up its chances."""
        if decision.cause is Cause.NO:
            return None
        progress.failures += 1
        if progress.failures >= self._config.max_attempts:
            return None
        delay = retry.delay(decision, progress.failures, self._jitter)
        progress.waited_s += delay
        return delay if progress.waited_s <= self._config.max_wait_s else None

    async def _give_up_unsent(
        self, request: PlannedRequest, progress: Progress, error_type: str, message: str
    ) -> None:
        progress.number += 1
        await self._journal.begin(AttemptStart(request.key, progress.number, datetime.now(UTC)))
        fault = ProviderFault(error_type, message)
        attempt = failed_attempt(request, progress.number, fault, 0.0, Cause.NO)
        # Another execution may have a higher limit.
        await self._finish(errored(attempt, retryable=True))

    async def _abandon(
        self, request: PlannedRequest, progress: Progress, latency_s: float, *, sent: bool
    ) -> None:
        """Record that an attempt was cut off, before it left or while its answer was under way."""
        fault = ProviderFault("cancelled", "cancelled before the answer arrived", maybe_billed=sent)
        attempt = failed_attempt(request, progress.number, fault, latency_s, Cause.TRANSIENT)
        settle(progress, attempt)
        await self._record(attempt)

    async def _record(self, attempt: Attempt) -> None:
        await self._journal.fail(attempt)

    async def _finish(self, result: Result, *, waited_out: bool = False) -> None:
        await self._journal.finish(result)
        if result.status is Status.SUCCEEDED:
            self.succeeded += 1
            self._count(None)
        else:
            self._count(result.last.error or "failed", waited_out=waited_out)

    def _count(self, error: str | None, *, waited_out: bool = False) -> None:
        """Count a row that has its outcome, and stop when too many have failed."""
        self.last_error = error or self.last_error
        stop = self._errors.count(error, waited_out=waited_out)
        if stop is not None:
            self.stop(stop)


__all__ = [
    "Dispatcher",
    "Journal",
    "Review",
    "Sender",
    "Tools",
    "as_it_is",
    "rejected",
    "rejecting",
]

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

from batchrun import formats
from batchrun.dispatch.draining import Draining
from batchrun.dispatch.judgement import Verdict, judge, stop_for
from batchrun.dispatch.ports import (
    Journal,
    Pause,
    Progress,
    Review,
    Sender,
    Spread,
    Tools,
    answered_attempt,
    as_it_is,
    errored,
    failed_attempt,
    settle,
)
from batchrun.dispatch.refusals import Refusals
from batchrun.dispatch.retries import Retries
from batchrun.dispatch.review import rejected, rejecting
from batchrun.dispatch.toolbox import MAX_TURNS, Conversation, concluded
from batchrun.dispatch.workers import Workers
from batchrun.errors import ProviderError, ProviderFault, RunEnd, Stop
from batchrun.limits import RETRY, CapReached, above_bound, demand, most_tokens, retry_delays
from batchrun.limits.retry_delays import Cause
from batchrun.records import Attempt, AttemptStart, Completion, Result, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.client import Exchange
    from batchrun.job import RetryConfig
    from batchrun.limits import Backoff, Demand, ErrorBudget, Limits, Permit, Waits
    from batchrun.pricing import PriceBook
    from batchrun.records import LimitState, PlannedRequest

# How often a request that may not be sent again looks whether others succeed.
DOUBT_S = 0.1


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
        self._retries = Retries(config, limits, jitter)
        self._review = review
        self._conversation = Conversation(journal, tools, max_turns)
        self._account = account
        self._refusals = Refusals(answered_before=answered_before, variable=account)
        self._spread: Spread | None = None
        self._active: set[int] = set()
        self._begun: set[int] = set()  # before rows from elsewhere were tried
        self._out_of_turn: set[int] = set()
        self._draining = Draining()
        self.on_drain = self._draining.on_begin
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

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is sent."""
        return self._draining.has_begun

    def drain(self) -> None:
        """Send nothing more. What is in flight goes on to its end; what waits stays pending."""
        self._draining.begin()
        self._workers.stop()

    def stop(self, stop: Stop) -> None:
        """Drain on purpose; the first reason counts."""
        self.stopped = self.stopped or stop
        self.drain()

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
        progress.failures = progress.setbacks = 0
        progress.failed = progress.doubtful = None
        progress.rejections.clear()
        if (problem := self._limits.unsendable(asked)) is not None:
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
            if not await self._pause(follows) or await self._has_used_up(progress):
                return None
        return None

    async def _may_send(self, key: int) -> bool:
        """Wait for the first answers of the provider; False when nothing more is to be sent."""
        if self._refusals.enter_now():
            return True
        return await self._draining.interruptible(partial(self._refusals.enter, key))

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

    async def _admitted(self, asked: Demand, progress: Progress) -> bool:
        """Wait until a request may be sent; False when it is not to be sent any more."""
        if self._admitted_now(asked, progress):
            return True
        start = anyio.current_time()
        left_s = math.inf if progress.failed is None else self._retries.wait_left_s(progress)
        with anyio.move_on_after(left_s):
            await self._draining.interruptible(partial(self._ask, asked, progress))
        if self.is_draining:
            if progress.permit is not None:
                progress.permit.withdraw()
                progress.permit = None
        elif progress.failed is not None:
            progress.waited_s += anyio.current_time() - start
            if progress.permit is None:
                await self._wait_in_vain(progress, progress.failed, asked)
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

    async def _pause(self, pause: Pause) -> bool:
        if not pause.seconds:
            await anyio.lowlevel.checkpoint()
            return True
        with self._waits.waiting_for(RETRY), self._workers.resting():
            return await self._draining.interruptible(partial(anyio.sleep, pause.seconds))

    async def _attempt(
        self, request: PlannedRequest, progress: Progress
    ) -> Pause | PlannedRequest | None:
        """Make one attempt; return the pause before the next, or the request of the next turn."""
        progress.number += 1
        sent, start = False, time.perf_counter()
        reserved = progress.permit.cost if progress.permit else None
        begun = AttemptStart(request.key, progress.number, datetime.now(UTC), reserved)
        try:
            await self._journal.begin(begun)
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
        attempt = answered_attempt(
            request,
            progress.number,
            exchange,
            completion,
            rejection=rejection,
            latency_s=latency_s,
        )
        attempt, _ = self._settled(progress, attempt, exchange.limits)
        if goes_on:
            return await self._turned(request, attempt, completion)
        if rejection is not None and progress.asks_again(rejection, self._config.max_attempts):
            await self._journal.fail(attempt)
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
            await self._journal.fail(attempt)
            self.stop(stop_for(fault, decision.end, request.request, self._account))
            return None
        if decision.cause is Cause.UNDECIDED:
            await self._hold(request, attempt, fault)
            return None
        if decision.cause is Cause.NO or permit is None:
            await self._finish(errored(attempt, retryable=decision.cause is not Cause.NO))
            return None
        is_suspect = progress.failures > 0
        if decision.cause is Cause.RATE_LIMIT:
            if (reason := self._limits.above_reported(permit.asked)) is not None:
                attempt = replace(attempt, error_type="over_token_limit", error_message=reason)
                await self._finish(errored(attempt, retryable=True))
                return None
        elif self._retries.uses_up(progress, permit, fault):
            await self._finish(errored(attempt, retryable=True))
            return None
        backoff = permit.failed(fault, decision, is_suspect=is_suspect)
        return await self._set_back(progress, attempt, decision, permit, backoff)

    async def _hold(self, request: PlannedRequest, attempt: Attempt, fault: ProviderFault) -> None:
        """Keep a refused row open: the next answers show whether it is the row's fault."""
        await self._journal.fail(attempt)
        self._refusals.hold(request, attempt, fault)
        self._count(attempt.error)

    async def _known(self, look: Callable[[], bool | None]) -> bool | None:
        """Look until something can be told; None when the run drains before that."""
        while (found := look()) is None and await self._pause(Pause(DOUBT_S)):
            pass
        return found

    async def _has_used_up(self, progress: Progress) -> bool:
        """Wait until a failure that may have been the last is known to be the request's own or not."""
        used_up = await self._known(partial(self._retries.has_used_up, progress))
        if used_up and progress.failed is not None:
            await self._finish(errored(progress.failed, retryable=True))
        return used_up is not False

    async def _set_back(
        self,
        progress: Progress,
        attempt: Attempt,
        decision: retry_delays.RetryDecision,
        permit: Permit,
        backoff: Backoff,
    ) -> Pause | None:
        """Keep a request that is to be sent again: after a pause of all, or a rest of its own."""
        if progress.failed is None:
            progress.failing_since = permit.sent_at
        progress.failed = attempt
        await self._journal.fail(attempt)
        rest_s = self._retries.rest_s(progress, decision, backoff)
        if rest_s is None:
            await self._wait_in_vain(progress, attempt, permit.asked, decision.delay_s)
            return None
        self._workers.add()
        return Pause(rest_s)

    async def _wait_in_vain(
        self, progress: Progress, attempt: Attempt, asked: Demand, asked_s: float | None = None
    ) -> None:
        """A request has failed for as long as it may wait: its fault only if others succeed."""
        in_vain = await self._known(partial(self._retries.waits_in_vain, progress, asked))
        if in_vain:
            await self._finish(errored(attempt, retryable=True), waited_out=True)
        elif in_vain is not None:
            self.stop(self._retries.stop(attempt, asked_s or 0.0))

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

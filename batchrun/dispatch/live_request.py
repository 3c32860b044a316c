"""One request of live dispatch, from admission through its attempts to its result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from batchrun import formats
from batchrun.dispatch.judgement import Action, judge, stop_for
from batchrun.dispatch.refusals import HeldRefusal
from batchrun.dispatch.retries import RequestRetries
from batchrun.dispatch.toolbox import concluded
from batchrun.errors import ProviderError, ProviderFault, Stop
from batchrun.limits import RETRY, CapReached, Cause, above_bound, demand, most_tokens
from batchrun.records import Attempt, AttemptStart, Billing, Result, Status, Usage, changed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchrun.client import Exchange
    from batchrun.dispatch.judgement import Judgement
    from batchrun.dispatch.live import LiveDispatcher
    from batchrun.dispatch.ports import Permit
    from batchrun.errors import Rejection
    from batchrun.limits import Demand
    from batchrun.records import Completion, LimitState, PlannedRequest

# How often a request that may not be sent again checks whether others succeed.
CHECK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Retry:
    """The request is sent again after a pause, and after waiting for admission."""

    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NextTurn:
    """The conversation continues with another request."""

    request: PlannedRequest


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more is sent for this request now: it has its result, or stays pending."""


CLOSED = Closed()
AT_ONCE = Retry()
Step = Retry | NextTurn | Closed


class LiveRequest:
    """Takes one request to its result, unless the run drains first.

    Args:
        dispatcher: has what all requests of the run share.
        request: the planned request.
    """

    __slots__ = ("_live", "_number", "_permit", "_request", "_retries")

    def __init__(self, dispatcher: LiveDispatcher, request: PlannedRequest) -> None:
        self._live = dispatcher
        self._request = request
        self._number = request.attempts_made  # of the last attempt, over all executions
        self._permit: Permit | None = None  # of the attempt in flight
        self._retries = RequestRetries(dispatcher.rules, dispatcher.admission)

    async def run(self) -> None:
        """Make all turns: one, unless the model calls tools or the provider pauses."""
        following: PlannedRequest | None = self._request
        if self._request.turns:
            following = await self._continued()
        while following is not None:
            self._request = following
            following = await self._take_turn()

    async def _continued(self) -> PlannedRequest | None:
        """Return the request that follows the turns of earlier executions; None if none may follow."""
        conversation, request = self._live.conversation, self._request
        if not conversation.has_all(request.turns):
            return request
        if conversation.ends(len(request.turns)):
            await self._give_up_unsent(*conversation.too_many_turns(request))
            return None
        following = changed(request, turns=())
        for turn in request.turns:
            following = await conversation.follow(following, turn)
        return following

    async def _take_turn(self) -> PlannedRequest | None:
        """Get one answer; return the request of the next turn, None if there is none."""
        live = self._live
        asked = demand(self._request, self._highest_cost(), live.first.variable)
        self._retries.begin_turn()
        if (problem := live.admission.unsendable(asked)) is not None:
            await self._give_up_unsent(*problem)
            return None
        while await self._may_send():
            try:
                step = await self._attempt() if await self._admitted(asked) else CLOSED
            finally:
                live.refusals.leave(self._request.key, self._request.request.model)
            if live.refusals.are_open:
                await live.settle_refusals()
            if isinstance(step, NextTurn):
                return step.request
            if isinstance(step, Closed):
                return None
            if not await self._pause(step.pause_s) or await self._has_used_up():
                return None
        return None

    def _highest_cost(self) -> int | None:
        """Return the highest cost of the request in pico-dollars; None without a cap or a bound."""
        if not self._live.admission.caps_cost or (most := most_tokens(self._request)) is None:
            return None
        request = self._request.request
        prices = self._live.accounts.prices
        return prices.highest(*most, request.model, request.parameters.service_tier)

    async def _may_send(self) -> bool:
        """Wait for the first answers of the provider; False when nothing more is sent."""
        live = self._live
        key, model = self._request.key, self._request.request.model
        if live.refusals.enter_now(key, model):
            return True
        return await live.draining.interruptible(partial(live.refusals.enter, key, model))

    async def _admitted(self, asked: Demand) -> bool:
        """Wait until the request may be sent; False if it is not sent any more."""
        live = self._live
        if (fault := live.refusals.verdict(self._request)) is not None:
            await self._give_up_unsent(fault.error_type, fault.message)
            return False
        if not live.draining.has_begun:
            self._permit = live.admission.admit_now(asked)
            if self._permit is not None:
                return True
        if (failed := self._retries.failed) is None:
            await live.draining.interruptible(partial(self._ask, asked))
        else:
            await self._admitted_again(failed, asked)
        # A permit may have been granted at the moment when draining began.
        if live.is_draining:
            self._withdraw()
        return self._permit is not None

    async def _admitted_again(self, failed: Attempt, asked: Demand) -> None:
        """Wait after a failed attempt, but no longer than the request may wait in total."""
        live, start = self._live, anyio.current_time()
        with anyio.move_on_after(self._retries.wait_left_s):
            await live.draining.interruptible(partial(self._ask, asked))
        if not live.is_draining:
            self._retries.count_wait(anyio.current_time() - start)
            if self._permit is None:
                await self._give_up_waiting(failed, asked)

    async def _ask(self, asked: Demand) -> None:
        live = self._live
        self._permit = None
        try:
            self._permit = await live.admission.admit(
                asked,
                self._retries.rank,
                live.accounts.waits,
                (self._request.key, self._number + 1),
            )
        except CapReached as reason:
            live.stop(Stop(reason.end, str(reason)))

    def _withdraw(self) -> None:
        if self._permit is not None:
            self._permit.withdraw()
            self._permit = None

    async def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; False when the run drains meanwhile."""
        if not seconds:
            await anyio.lowlevel.checkpoint()
            return True
        live = self._live
        with live.accounts.waits.waiting_for(RETRY), live.pool.pausing():
            return await live.draining.interruptible(partial(anyio.sleep, seconds))

    async def _attempt(self) -> Step:
        """Make one attempt; return what follows."""
        live, request = self._live, self._request
        self._number += 1
        sent, start = False, time.perf_counter()
        reserved = self._permit.cost if self._permit else None
        wire = live.rules.dropped.sent(request)
        try:
            # On disk before the first byte is sent: after a crash, this attempt counts as possibly billed.
            await live.journal.begin(
                AttemptStart(request.key, self._number, datetime.now(UTC), reserved)
            )
            sent, start = True, time.perf_counter()
            live.tally.begin()
            exchange = await live.client.send(wire)
        except ProviderError as error:
            return await self._failed(error.fault, time.perf_counter() - start, wire.body)
        except anyio.get_cancelled_exc_class():
            await self._abandon(time.perf_counter() - start, sent=sent)
            raise
        finally:
            if sent:
                live.tally.end()
        try:
            return await self._answered(exchange, time.perf_counter() - start)
        finally:
            exchange.close()

    async def _answered(self, exchange: Exchange, latency_s: float) -> Step:
        live, request, rejection = self._live, self._request, None
        live.refusals.answered(request)
        completion = exchange.completion
        continues = live.conversation.continues(completion)
        if not continues:
            completion, rejection = live.rules.review(concluded(completion, request))
        attempt = self._answered_attempt(exchange, latency_s, completion, rejection)
        self._settle(attempt, exchange.limits)
        if continues:
            return await self._next_turn(attempt, completion)
        if rejection is not None:
            return await self._rejected(attempt, completion, rejection)
        await live.finish(
            Result(request.key, Status.SUCCEEDED, attempt, datetime.now(UTC), completion)
        )
        return CLOSED

    async def _rejected(
        self, attempt: Attempt, completion: Completion, rejection: Rejection
    ) -> Step:
        """Ask again, or store the answer with the reason for its rejection: it was paid for."""
        live = self._live
        tries = self._retries.count_rejection(rejection)
        if judge(rejection, live.refusals.record, tries).action is Action.RETRY:
            await live.journal.fail(attempt)
            return AT_ONCE
        return await self._finish(
            Result(attempt.key, Status.ERRORED, attempt, datetime.now(UTC), completion)
        )

    def _settle(self, attempt: Attempt, reported: LimitState | None) -> Permit | None:
        """Settle the permit of an attempt with the limits; return it.

        If the attempt cost more than the highest possible cost, the cost cap cannot be kept: the run stops.
        """
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.settle(attempt, reported)
            if (stop := above_bound(attempt, permit.cost)) is not None:
                self._live.stop(stop)
        return permit

    async def _next_turn(self, attempt: Attempt, completion: Completion) -> Step:
        """Store a turn, which is paid for; then return the next request of the conversation."""
        conversation, request = self._live.conversation, self._request
        turn = formats.turn(request.key, attempt.number, completion)
        with anyio.CancelScope(shield=True):
            await self._live.journal.turn(turn, attempt)
        if not conversation.ends(len(request.turns) + 1):
            return NextTurn(await conversation.follow(request, turn))
        error_type, message = conversation.too_many_turns(request)
        attempt = changed(
            attempt, error_type=error_type, error_message=message, cause=Cause.NO.value
        )
        completion = concluded(completion, request)
        return await self._finish(
            Result(request.key, Status.ERRORED, attempt, datetime.now(UTC), completion)
        )

    async def _failed(self, fault: ProviderFault, latency_s: float, sent: bytes) -> Step:
        live, request = self._live, self._request
        dropped = live.rules.dropped.learn(request.request.model, fault, sent)
        if dropped is not None:
            attempt = self._failed_attempt(fault, latency_s, Cause.UNSUPPORTED)
            attempt = changed(attempt, dropped=dropped)
            self._settle(attempt, fault.limits)
            await live.journal.fail(attempt)
            return AT_ONCE
        judgement = judge(fault, live.refusals.record, sent=sent)
        live.refusals.models.refused(request.request.model, fault)
        attempt = self._failed_attempt(fault, latency_s, judgement.cause)
        permit = self._settle(attempt, fault.limits)
        if judgement.action is Action.HOLD:
            return await self._held(attempt, fault, judgement)
        if judgement.end is not None:
            # Not the row's failure: it stays pending until the cause is removed.
            await live.journal.fail(attempt)
            live.stop(stop_for(fault, judgement.end, request.request, live.first.variable))
            return CLOSED
        if judgement.action is Action.FAIL or permit is None:
            return await self._finish(errored(attempt, retryable=judgement.cause is not Cause.NO))
        return await self._retry(attempt, fault, judgement, permit)

    async def _held(self, attempt: Attempt, fault: ProviderFault, judgement: Judgement) -> Step:
        """Hold a refused request until it is known whose fault that is."""
        live = self._live
        await live.journal.fail(attempt)
        if judgement.end is not None:
            live.refusals.credit.hold(HeldRefusal(self._request, attempt, fault))
        else:
            live.refusals.hold(self._request, attempt, fault)
            live.count(attempt.error)
        return CLOSED

    async def _retry(
        self, attempt: Attempt, fault: ProviderFault, judgement: Judgement, permit: Permit
    ) -> Step:
        """Send the request again, unless its attempts are used up or the limits never admit it."""
        live, retries = self._live, self._retries
        is_suspect = retries.is_suspect
        if judgement.cause is Cause.RATE_LIMIT:
            if (reason := await live.admission.above_reported(permit.asked)) is not None:
                attempt = changed(attempt, error_type="over_token_limit", error_message=reason)
                return await self._finish(errored(attempt, retryable=True))
        elif await retries.uses_up(permit, fault):
            return await self._finish(errored(attempt, retryable=True))
        backoff = await permit.cool_down(fault, judgement.decision, is_suspect=is_suspect)
        retries.count_failure(attempt, permit)
        await live.journal.fail(attempt)
        pause_s = retries.pause_s(judgement.decision, backoff)
        if pause_s is None:
            return await self._give_up_waiting(attempt, permit.asked, judgement.decision.delay_s)
        live.pool.add()
        return Retry(pause_s)

    async def _known(self, look: Callable[[], Awaitable[bool | None]]) -> bool | None:
        """Call `look` until it returns True or False; None if the run drains before that."""
        while (found := await look()) is None and await self._pause(CHECK_EVERY_S):
            pass
        return found

    async def _has_used_up(self) -> bool:
        """Wait until it is known whether the request caused its failure and so has used up its attempts."""
        used_up = await self._known(self._retries.has_used_up)
        if used_up and (failed := self._retries.failed) is not None:
            await self._finish(errored(failed, retryable=True))
        return used_up is not False

    async def _give_up_waiting(
        self, attempt: Attempt, asked: Demand, asked_s: float | None = None
    ) -> Closed:
        """End a request that has waited too long: as failed if others succeeded meanwhile.

        Args:
            attempt: the last failed one.
            asked: the demand of the request.
            asked_s: seconds that the provider asked to wait.
        """
        live, retries = self._live, self._retries
        is_own = await self._known(partial(retries.others_succeeded, asked))
        if is_own:
            if retries.is_too_long(asked_s):
                wait = f"the provider asked to wait {asked_s:g} s, longer than [retry] max_wait_s"
                attempt = changed(attempt, error_message=f"{attempt.error_message}; {wait}")
            await live.finish(errored(attempt, retryable=True), timed_out=True)
        elif is_own is not None:
            # Nothing succeeds, so the row is not at fault: it stays pending, and the run stops.
            live.stop(retries.stop(attempt, asked_s))
        return CLOSED

    async def _give_up_unsent(self, error_type: str, message: str) -> None:
        """End a request that cannot be sent. Another execution may have a higher limit."""
        # A result needs a last attempt, also if nothing was sent.
        self._number += 1
        start = AttemptStart(self._request.key, self._number, datetime.now(UTC))
        await self._live.journal.begin(start)
        fault = ProviderFault(error_type, message)
        attempt = self._failed_attempt(fault, 0.0, Cause.NO)
        await self._finish(errored(attempt, retryable=True))

    async def _abandon(self, latency_s: float, *, sent: bool) -> None:
        """Record an attempt that was cancelled before it was sent, or before its answer arrived."""
        fault = ProviderFault("cancelled", "cancelled before the answer arrived", maybe_billed=sent)
        attempt = self._failed_attempt(fault, latency_s, Cause.TRANSIENT)
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.settle(attempt)
        await self._live.journal.fail(attempt)

    async def _finish(self, result: Result) -> Closed:
        await self._live.finish(result)
        return CLOSED

    def _failed_attempt(self, fault: ProviderFault, latency_s: float, cause: Cause) -> Attempt:
        asked = self._request.request.model
        model, usage, billing = (
            fault.model or asked,
            fault.usage or Usage(),
            fault.billing or Billing(),
        )
        return Attempt(
            self._request.key,
            self._number,
            latency_s,
            http_status=fault.http_status,
            error_type=fault.error_type,
            error_message=fault.message,
            cause=cause.value,
            maybe_billed=fault.maybe_billed,
            request_id=fault.request_id,
            model=model,
            asked_model=asked,
            usage=usage,
            billing=billing,
            cost=self._live.accounts.prices.cost(usage, model, asked, billing=billing),
        )

    def _answered_attempt(
        self,
        exchange: Exchange,
        latency_s: float,
        completion: Completion,
        rejection: Rejection | None,
    ) -> Attempt:
        asked = self._request.request.model
        model, usage, billing = completion.model or asked, completion.usage, completion.billing
        return Attempt(
            self._request.key,
            self._number,
            latency_s,
            http_status=exchange.http_status,
            error_type=None if rejection is None else rejection.error_type,
            error_message=None if rejection is None else rejection.message,
            cause=None if rejection is None else Cause.INVALID.value,
            request_id=exchange.request_id,
            model=model,
            asked_model=asked,
            usage=usage,
            billing=billing,
            cost=self._live.accounts.prices.cost(usage, model, asked, billing=billing),
        )


def errored(attempt: Attempt, *, retryable: bool) -> Result:
    """Return the result of a request that failed, permanently or only in this execution."""
    return Result(attempt.key, Status.ERRORED, attempt, datetime.now(UTC), retryable=retryable)

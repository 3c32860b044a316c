"""Live dispatch: each attempt is one HTTP exchange of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from batchrun.dispatch.judgement import Blame
from batchrun.dispatch.live_request import LiveRequest, errored
from batchrun.dispatch.pool import Draining, TaskPool
from batchrun.dispatch.ports import FirstRequests, Tally
from batchrun.dispatch.refusals import Refusals
from batchrun.dispatch.toolbox import Conversation
from batchrun.limits import Cause
from batchrun.records import Status, changed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.dispatch.ports import (
        Accounts,
        Admission,
        Journal,
        Rules,
        Sampler,
        Sender,
    )
    from batchrun.errors import Stop
    from batchrun.records import PlannedRequest, Result


class LiveDispatcher:
    """Works on as many requests at a time as the limits admit; `LiveRequest` handles one of them.

    Args:
        client: makes attempts.
        journal: records them.
        admission: decides when a request may be sent.
        accounts: count waits, errors and cost.
        rules: what makes an answer final.
        first: helps to explain refusals before the first answer.
    """

    def __init__(
        self,
        client: Sender,
        journal: Journal,
        admission: Admission,
        *,
        accounts: Accounts,
        rules: Rules,
        first: FirstRequests | None = None,
    ) -> None:
        self.client = client
        self.journal = journal
        self.admission = admission
        self.accounts = accounts
        self.first = first or FirstRequests()
        self.tally = Tally()
        self.draining = Draining(self.tally)
        self.pool = TaskPool(self._complete, admission, self.draining)
        self.rules = rules
        self.conversation = Conversation(journal, rules.tools, rules.max_turns)
        self.refusals = Refusals(self.first)
        self._active: set[int] = set()
        self._begun: set[int] = set()  # before rows from all over the input were tried
        self._sent_early: set[int] = set()

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Send every request of the stream; returns when all have a result or the run drains."""
        await self.pool.run(requests)
        if not self.is_draining:
            await self.settle_refusals(is_over=True)

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is sent."""
        return self.draining.has_begun

    def drain(self) -> None:
        """Send nothing more, finish what is in flight, and leave the rest pending."""
        self.draining.begin()

    def stop(self, stop: Stop) -> None:
        """Drain, and keep the reason. The first reason counts."""
        self.draining.begin(stop)

    async def finish(self, result: Result, *, timed_out: bool = False) -> None:
        """Record and count a result."""
        await self.journal.finish(result)
        if result.status is Status.SUCCEEDED:
            self.tally.succeed()
            self.count(None)
        else:
            self.count(result.last.error or "failed", timed_out=timed_out)

    def count(self, error: str | None, *, timed_out: bool = False) -> None:
        """Count a row, and stop when too many have failed.

        Args:
            error: why it failed; None when it succeeded.
            timed_out: it waited for the whole of `[retry] max_wait_s`.
        """
        self.tally.fail(error)
        stop = self.accounts.errors.count(error, timed_out=timed_out)
        if stop is not None:
            self.stop(stop)

    async def settle_refusals(self, *, is_over: bool = False) -> None:
        """Decide about held refusals, as soon as it is known whose fault they are."""
        if self.refusals.credit.held:
            await self._settle_credit(is_over=is_over)
        if self.first.sampler is not None and self.refusals.wants_spread:
            await self._try_sample(self.first.sampler)
        blame = self.refusals.blame(is_over=is_over)
        if blame is Blame.RUN:
            self.stop(self.refusals.stop())
        elif blame is Blame.ROWS:
            for held in self.refusals.take():
                attempt = changed(held, cause=Cause.NO.value)
                await self.journal.finish(errored(attempt, retryable=False))

    async def _settle_credit(self, *, is_over: bool) -> None:
        blame = self.refusals.credit.blame(is_over=is_over)
        if blame is Blame.RUN:
            self.stop(self.refusals.stop_for_credit())
        elif blame is Blame.ROWS:
            for held in self.refusals.take_credit():
                attempt = changed(held.attempt, cause=Cause.NO.value)
                # 429 may also have been a rate limit, so the next execution tries again.
                is_passing = attempt.http_status == 429
                await self.finish(errored(attempt, retryable=is_passing))

    async def _complete(self, request: PlannedRequest) -> None:
        if request.key not in self._sent_early:
            await self._send(request)

    async def _send(self, request: PlannedRequest) -> None:
        refusals = self.refusals
        self._active.add(request.key)
        if not (refusals.is_answered or refusals.is_spread):
            self._begun.add(request.key)
        try:
            await LiveRequest(self, request).run()
        finally:
            self._active.discard(request.key)
        if refusals.drop(request.key):
            await self.settle_refusals()

    async def _try_sample(self, sampler: Sampler) -> None:
        """Send requests from all over the input: the first ones were all refused."""
        self.refusals.begin_spread()
        found: list[PlannedRequest] = []

        async def take_sample() -> None:
            found.extend(await sampler.sample())

        await self.draining.interruptible(take_sample)
        new = [request for request in found if request.key not in self._begun]
        waiting = [request for request in found if request.key in self._active]
        self._sent_early.update(request.key for request in new)
        self.refusals.prefer([*new, *waiting])
        async with anyio.create_task_group() as group:
            for request in new:
                group.start_soon(self._send, request)

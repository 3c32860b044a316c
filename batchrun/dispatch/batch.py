"""Batch dispatch: requests are handed to the vendor's batch endpoint together, at a lower price."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from batchrun import formats
from batchrun.dispatch.batch_collection import TIER, BatchCollector
from batchrun.dispatch.batch_drafts import BatchCutter, DraftRequest
from batchrun.dispatch.batch_ports import BatchMode, BatchVendor
from batchrun.dispatch.batch_submission import BatchSubmitter
from batchrun.dispatch.batch_tracking import BatchTracker
from batchrun.dispatch.factories import LIVE
from batchrun.dispatch.pool import Draining
from batchrun.dispatch.ports import Tally
from batchrun.errors import JobError, RunEnd, Stop, short
from batchrun.formats.parameters import is_template
from batchrun.limits import CapReached, demand, most_tokens
from batchrun.records import Attempt, AttemptStart, Request, Result, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ObjectReceiveStream, ObjectSendStream

    from batchrun.dispatch.batch_ports import BatchContext
    from batchrun.dispatch.ports import Assignment, Dispatcher
    from batchrun.errors import ProviderFault
    from batchrun.job import Job
    from batchrun.records import PlannedRequest

# With the simulator in this process, batches take moments.
_SIMULATED_POLL_S = 0.1
# Somebody waits for a batch that is canceled.
_CANCELING_POLL_S = 5.0


class BatchDispatcher:
    """Divides requests into batches, submits these, and collects their results.

    Args:
        assignment: what the run gives to its dispatcher.
        work: stores batches, and has the cost limit.
    """

    def __init__(self, assignment: Assignment, work: BatchContext) -> None:
        job = assignment.job
        self._assignment = assignment
        self._config = job.batch
        if assignment.provider.simulator is not None:
            self._config = replace(job.batch, poll_s=min(job.batch.poll_s, _SIMULATED_POLL_S))
        elif work.mode is BatchMode.CANCEL:
            self._config = replace(job.batch, poll_s=min(job.batch.poll_s, _CANCELING_POLL_S))
        self._work = work
        self._prices = assignment.accounts.prices
        self._tally = Tally()
        self._draining = Draining(self._tally)
        self._live_dispatchers: list[Dispatcher] = []
        vendor = vendor_of(assignment)
        self._endpoint = vendor.endpoint
        self._collector = BatchCollector(assignment, work, vendor, self._tally)
        self._tracker = BatchTracker(
            vendor,
            work,
            self._collector,
            config=self._config,
            retry=job.retry,
            tally=self._tally,
        )
        self._submitter = BatchSubmitter(
            vendor,
            work,
            self._tracker,
            self._draining,
            config=self._config,
            retry=job.retry,
        )
        self._follow_scope = anyio.CancelScope()
        self._has_left = False
        self._capped: Stop | None = None

    @property
    def tally(self) -> Tally:
        """The counts so far, including live requests."""
        mine, lives = self._tally, [live.tally for live in self._live_dispatchers]
        return Tally(
            sent=self._submitter.sent + sum(live.sent for live in lives),
            in_flight=self._submitter.in_flight + sum(live.in_flight for live in lives),
            succeeded=mine.succeeded + sum(live.succeeded for live in lives),
            last_error=next((t.last_error for t in (*lives, mine) if t.last_error), None),
            stop=next((t.stop for t in (mine, *lives) if t.stop), None),
            freed=mine.freed,
            held=self._submitter.held,
        )

    @property
    def unreached(self) -> ProviderFault | None:
        """Why the last check of the open batches failed; None if it succeeded."""
        return self._tracker.unreached

    def drain(self) -> None:
        """Submit nothing more, and leave the batches to the vendor."""
        self._has_left = True
        self._draining.begin()
        for live in self._live_dispatchers:
            live.drain()
        self._follow_scope.cancel()

    def stop(self, stop: Stop) -> None:
        """Submit nothing more. Open batches are still collected."""
        self._draining.begin(stop)
        for live in self._live_dispatchers:
            live.stop(stop)
        self._tracker.wake()

    async def prepare(self) -> None:
        """Find batches of earlier executions, and collect those that have ended. Submits nothing.

        Raises:
            JobError: if they were sent with another key, or to another address.
        """
        await self._tracker.load()
        if not self._tracker.open:
            return
        if (problem := await self._tracker.check_account()) is not None:
            raise JobError(problem)
        await self._tracker.look()
        fault = self._tracker.unreached
        if fault is not None and self._work.mode is BatchMode.ONE_PASS:
            reason = f"the batches could not be checked: {fault.error_type}: {fault.message}"
            self.stop(Stop(RunEnd.UNAVAILABLE, reason))

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Submit every request of the stream, and wait for the results if the mode says so."""
        # Also without open batches: earlier ones show what the vendor's queue has room for.
        await self._tracker.load()
        self._tracker.begin_round()
        async with anyio.create_task_group() as group:
            group.start_soon(self._follow)
            async with requests:
                if self._work.mode is not BatchMode.CANCEL:
                    await self._submit(requests)
            self._tracker.end_round()
            if self._work.mode is BatchMode.ONE_PASS:
                self._follow_scope.cancel()
        if self._work.mode is BatchMode.ONE_PASS and self._tracker.open and not self._has_left:
            await self._tracker.look()

    async def _follow(self) -> None:
        self._follow_scope = anyio.CancelScope()
        if self._has_left:
            return
        with self._follow_scope:
            await self._tracker.follow(cancel=self._work.mode is BatchMode.CANCEL)

    async def _submit(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        cutter = BatchCutter(
            self._assignment.job.request.wire_format,
            self._endpoint,
            self._config,
            with_primers=self._assignment.job.request.fills_cache,
            dropped=self._assignment.rules.dropped,
        )
        live = LIVE.create(self._assignment)
        self._live_dispatchers.append(live)
        send, receive = anyio.create_memory_object_stream["Sequence[PlannedRequest]"](1)
        async with anyio.create_task_group() as group:
            group.start_soon(live.run, receive)
            async with send:
                while (chunk := await self._next(requests)) is not None:
                    await self._take_all(chunk, cutter, send)
                for draft in cutter.rest():
                    await self._submitter.submit(draft)
        if self._capped is not None:
            self._draining.begin(self._capped)

    async def _next(
        self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]
    ) -> Sequence[PlannedRequest] | None:
        """Return the next chunk of requests; None when no more are sent."""
        if not self._submitter.may_send or self._capped is not None:
            return None
        found: list[Sequence[PlannedRequest]] = []

        async def receive() -> None:
            with suppress(anyio.EndOfStream):
                found.append(await requests.receive())

        await self._draining.interruptible(receive)
        return found[0] if found else None

    async def _take_all(
        self,
        chunk: Sequence[PlannedRequest],
        cutter: BatchCutter,
        live: ObjectSendStream[Sequence[PlannedRequest]],
    ) -> None:
        alone = [request for request in chunk if self._goes_live(request)]
        if alone:
            with suppress(anyio.BrokenResourceError):  # live dispatch has stopped
                await live.send(alone)
        for request in chunk:
            if self._goes_live(request):
                continue
            if not self._submitter.may_send or self._capped is not None:
                return
            await self._take(request, cutter)

    def _goes_live(self, request: PlannedRequest) -> bool:
        """Whether a request that a batch did not answer is now sent live."""
        return request.batch_error is not None and self._config.then == "live"

    async def _take(self, request: PlannedRequest, cutter: BatchCutter) -> None:
        model = request.request.model
        tokens = demand(request).input_tokens
        cost = self._highest_cost(request)
        if cost is None and self._work.money.cap is not None:
            await self._give_up(request)
            return
        if not await self._is_affordable(cost or 0, cutter):
            return
        self._work.money.reserve(cost or 0)
        draft_request = DraftRequest(request, tokens, cost)
        for draft in cutter.add(draft_request, self._tracker.most_tokens(model)):
            await self._submitter.submit(draft)

    def _highest_cost(self, request: PlannedRequest) -> int | None:
        if (most := most_tokens(request)) is None:
            return None
        return self._prices.highest(*most, request.request.model, TIER)

    async def _is_affordable(self, cost: int, cutter: BatchCutter) -> bool:
        """Wait until the cost limit has room for a request; False if it will never have."""
        money = self._work.money
        try:
            while not money.fits(cost):
                for draft in cutter.rest():
                    await self._submitter.submit(draft)
                if self._work.mode is not BatchMode.WAIT or not self._tracker.open:
                    self._submitter.hold(money.shortage())
                    return False
                await self._draining.interruptible(self._tracker.closed)
                if self._draining.has_begun:
                    return False
        except CapReached as reason:
            self._capped = Stop(RunEnd.MAX_COST, str(reason))
            return False
        return True

    async def _give_up(self, request: PlannedRequest) -> None:
        """End a request whose cost has no upper bound. Another execution may know its price."""
        number = request.attempts_made + 1
        start = AttemptStart(request.key, number, _now())
        message = (
            f"[limits] max_cost_usd: the batch price of {request.request.model} is not known, or "
            "max_tokens is missing, so the highest cost of the request is not known"
        )
        model = request.request.model
        attempt = Attempt(
            request.key,
            number,
            0.0,
            error_type="unknown_price",
            error_message=message,
            cause="no",
            model=model,
            asked_model=model,
        )
        await self._assignment.journal.begin(start)
        result = Result(request.key, Status.ERRORED, attempt, _now(), retryable=True)
        await self._assignment.journal.finish(result)
        stop = self._assignment.accounts.errors.count(message)
        if stop is not None:
            self.stop(stop)


def check_batch(job: Job) -> None:
    """Check that the requests of a job can be sent in batches.

    Raises:
        JobError: if they cannot.
    """
    if job.request.wire_format.batches is None:
        other = formats.use_another(lambda each: each.batches is not None)
        raise JobError(f"--batch: the format {job.request.format} has no batches; {other}")
    if job.tools.module is not None:
        raise JobError(
            "--batch: [tools] module needs several requests for a row, one after the other; remove "
            "the section, or run without --batch"
        )
    for name, value in job.request.extra_headers:
        if is_template(value):
            raise JobError(
                f"--batch: [request] extra_headers.{short(name)} is a template, and all requests of a batch "
                "share their headers; write a fixed value, or run without --batch"
            )


def vendor_of(assignment: Assignment) -> BatchVendor:
    """Return the vendor whose batch endpoint receives the requests of a run."""
    from batchrun.client import ClientOptions  # noqa: PLC0415 - slow to load, as below
    from batchrun.client.batch_client import BatchClient  # noqa: PLC0415

    config, provider = assignment.job.request, assignment.provider
    wire_format = config.wire_format
    request = Request(
        config.format,
        config.base_url,
        config.model,
        (),
        api_version=config.api_version,
        extra_headers=tuple(
            (name, value) for name, value in config.extra_headers if not is_template(value)
        ),
    )
    wire = wire_format.encode(request)
    simulator = provider.simulator
    options = ClientOptions(
        timeout_s=assignment.job.retry.timeout_s,
        auth=config.auth,
        keep_raw=config.keep_raw,
        reroute=None if simulator is None else (config.base_url, simulator),
    )
    client = BatchClient(
        wire_format,
        wire.url,
        wire.headers,
        credentials=provider.credentials,
        transport=provider.transport,
        options=options,
    )
    return BatchVendor(client, request, assignment.first.variable)


def _now() -> datetime:
    return datetime.now(UTC)

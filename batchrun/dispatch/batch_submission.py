"""Sends drafts to the vendor, as its queue has room: each is intended, uploaded, created and confirmed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anyio

from batchrun.dispatch.batch_ports import BatchMode
from batchrun.dispatch.batch_tracking import TOKEN_LIMIT
from batchrun.dispatch.judgement import Action, TrackRecord, judge, stop_for
from batchrun.errors import (
    BatchInDoubt,
    BatchNotCreated,
    JobError,
    NoBatchEndpoint,
    ProviderError,
    RunEnd,
    Stop,
)

if TYPE_CHECKING:
    from batchrun.dispatch.batch_drafts import BatchDraft
    from batchrun.dispatch.batch_ports import BatchContext, BatchVendor
    from batchrun.dispatch.batch_tracking import BatchTracker
    from batchrun.dispatch.pool import Draining
    from batchrun.errors import ProviderFault
    from batchrun.formats import RemoteBatch
    from batchrun.job import BatchConfig, RetryConfig

# How long other batches wait for the one that fills the prompt cache.
PRIMER_WAIT_S = 600.0
# Lost answers in a row to creations of batches that do not exist: the vendor is unreachable.
MOST_DOUBTS = 3
_QUEUE_IS_FULL = re.compile(r"enqueued|token_limit_exceeded", re.IGNORECASE)


class BatchSubmitter:
    """Submits the drafts of one run, one after the other.

    Args:
        vendor: receives the batches.
        work: stores batches, and has the cost limit.
        tracker: has the open batches.
        draining: whether nothing more is sent.
        config: the job's `[batch]`.
        retry: how often to try again.
    """

    def __init__(
        self,
        vendor: BatchVendor,
        work: BatchContext,
        tracker: BatchTracker,
        draining: Draining,
        *,
        config: BatchConfig,
        retry: RetryConfig,
    ) -> None:
        self._vendor = vendor
        self._endpoint = vendor.endpoint
        self._work = work
        self._journal = work.journal
        self._tracker = tracker
        self._draining = draining
        self._config = config
        self._retry = retry
        self._is_patient = work.mode is BatchMode.WAIT
        self._doubts = 0
        self._waited_s = 0.0
        self._is_checked = False
        self._was_full = False  # the queue, when the last batch was refused
        self.sent = self.in_flight = 0
        # Why nothing more is submitted for now: this execution does not wait for it.
        self.held: str | None = None

    @property
    def may_send(self) -> bool:
        """Whether another batch may be submitted."""
        return self.held is None and not self._draining.has_begun

    def hold(self, reason: str) -> None:
        """Submit nothing more in this execution. The first reason counts."""
        self.held = self.held or reason

    async def submit(self, draft: BatchDraft) -> None:
        """Submit a draft, or leave its requests pending. Its content is deleted afterwards."""
        try:
            if self.may_send and await self._has_room(draft):
                await self._send(draft)
            else:
                self._work.money.settle(draft.reserved, 0)
        finally:
            draft.close()

    async def _has_room(self, draft: BatchDraft) -> bool:
        """Wait until the vendor's queue has room for a draft; False if nothing more is sent."""
        model, tracker = draft.group.model, self._tracker
        if not await self._draining.interruptible(tracker.is_clear):
            return False
        while (queued := tracker.queued_tokens(model)) and (
            queued + draft.tokens > tracker.most_tokens(model)
        ):
            if not self._is_patient:
                most = f"{tracker.most_tokens(model):,.0f} input tokens"
                self.hold(f"the open batches fill the provider's queue for {model} ({most})")
                return False
            if not await self._draining.interruptible(tracker.closed):
                return False
        return True

    async def _send(self, draft: BatchDraft) -> None:
        if not self._is_checked:
            await self._check()
        queued = self._tracker.queued_tokens(draft.group.model) + draft.tokens
        batch = draft.intended(self._endpoint.account, self._vendor.request.base_url, queued)
        # On disk before it can exist: after a crash the vendor's list shows whether it does.
        await self._journal.intend(batch, draft.starts)
        self._tracker.add(batch)
        self.sent += batch.rows
        self.in_flight += 1
        try:
            remote = await self._created(draft)
        except BatchInDoubt as error:
            await self._doubted(draft.tag, error.fault)
            return
        finally:
            self.in_flight -= 1
        if remote is None:
            self.sent -= batch.rows
            # The next execution learns the limit of the queue from this reason.
            await self._tracker.void(draft.tag, TOKEN_LIMIT if self._was_full else "not created")
            return
        self._doubts, self._waited_s = 0, 0.0
        await self._tracker.confirm(draft.tag, remote)
        if draft.is_primer:
            await self._wait_for_primer(draft.tag)

    async def _check(self) -> None:
        """Check that there are batches, before anything is sent.

        Raises:
            JobError: if the server has none.
        """
        try:
            await self._endpoint.check()
        except NoBatchEndpoint as error:
            raise JobError(f"--batch: {error.fault.message}") from None
        except ProviderError:
            return  # the next step fails as well, with a message
        self._is_checked = True

    async def _doubted(self, tag: str, fault: ProviderFault) -> None:
        """Wait until it is known whether a batch exists: two in doubt could be confused."""
        self._tracker.doubt(tag)
        await self._draining.interruptible(self._tracker.is_clear)
        self._doubts = 0 if tag in self._tracker.open else self._doubts + 1
        if self._doubts >= MOST_DOUBTS:
            reason = (
                f"{self._doubts} batches in a row could not be created; the last error: "
                f"{fault.error_type}: {fault.message}"
            )
            self._draining.begin(Stop(RunEnd.UNAVAILABLE, reason))

    async def _created(self, draft: BatchDraft) -> RemoteBatch | None:
        """Create a batch; None if the vendor does not accept it and nothing exists.

        Raises:
            BatchInDoubt: if it may exist.
        """
        content = draft.content()
        input_file, failures = None, 0
        self._was_full = False
        while True:
            try:
                content.seek(0)
                # After a failed `create` the uploaded file is used again.
                if input_file is None:
                    input_file = await self._endpoint.upload(content, draft.tag)
                    if input_file is not None:
                        await self._tracker.uploaded(draft.tag, input_file)
                return await self._endpoint.create(
                    content, input_file, draft.tag, draft.group.headers
                )
            except BatchInDoubt:
                raise
            except ProviderError as error:
                failures += 1
                if not await self._goes_on(error, draft, failures):
                    return None

    async def _goes_on(self, error: ProviderError, draft: BatchDraft, failures: int) -> bool:
        """Wait before another try; False if there is none. Nothing exists at the vendor yet."""
        fault = error.fault
        if _QUEUE_IS_FULL.search(f"{fault.error_type} {fault.message}"):
            return await self._queue_was_full(draft)
        judgement = judge(fault, TrackRecord(answered=self._is_checked))
        if judgement.action is not Action.RETRY:
            end = judgement.end or RunEnd.REJECTED
            stop = stop_for(fault, end, self._vendor.request, self._vendor.variable)
            self._draining.begin(stop)
            return False
        if failures >= self._retry.max_attempts and not isinstance(error, BatchNotCreated):
            reason = f"the requests of a batch could not be uploaded: {fault.error_type}: {fault.message}"
            self._draining.begin(Stop(RunEnd.UNAVAILABLE, reason))
            return False
        return await self._pause(fault, failures)

    async def _queue_was_full(self, draft: BatchDraft) -> bool:
        """Learn the limit of the vendor's queue, and wait until one of our batches has ended."""
        model = draft.group.model
        others = self._tracker.queued_tokens(model) - draft.tokens
        self._tracker.learn(model, others + draft.tokens)
        self._was_full = True
        if self._is_patient and others > 0:
            return await self._draining.interruptible(self._tracker.closed)
        # It is too large even for an empty queue. Its requests will be divided into smaller batches.
        if not self._is_patient:
            self.hold(f"the provider's queue of batches for {model} is full")
        if len(draft.starts) == 1:
            reason = f"the provider's queue of batches has no room for one request for {model}"
            self._draining.begin(Stop(RunEnd.UNAVAILABLE, reason))
        return False

    async def _pause(self, fault: ProviderFault, failures: int) -> bool:
        pause_s = fault.retry_after_s or min(300.0, self._config.poll_s * 2 ** (failures - 1))
        self._waited_s += pause_s
        if not self._is_patient and self._waited_s > _SHORT_S:
            self.hold(f"the provider creates no batch now ({fault.error_type}: {fault.message})")
            return False
        is_alone = len(self._tracker.open) <= 1
        if is_alone and self._waited_s > self._retry.max_wait_s:
            reason = (
                f"no batch could be created within [retry] max_wait_s = {self._retry.max_wait_s:g} s; "
                f"the last error: {fault.error_type}: {fault.message}"
            )
            self._draining.begin(Stop(RunEnd.UNAVAILABLE, reason))
            return False

        async def wait() -> None:
            await anyio.sleep(pause_s)

        return await self._draining.interruptible(wait)

    async def _wait_for_primer(self, tag: str) -> None:
        """Wait until the prompt cache is filled, or until that takes too long."""

        async def wait() -> None:
            with anyio.move_on_after(PRIMER_WAIT_S):
                while tag in self._tracker.open:
                    await self._tracker.closed()

        await self._draining.interruptible(wait)


# The longest total pause of an execution that does not wait for batches (`--no-wait`).
_SHORT_S = 10.0

__all__ = ["BatchSubmitter"]

"""Follows the batches of a run at the vendor: finds lost ones, checks the others, collects their results.

A batch is in the checkpoint before it exists. If the answer to its creation was lost, because the process
died or the connection broke, the vendor's list shows whether it exists.
"""

from __future__ import annotations

import random
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from batchrun.dispatch.batch_collection import GONE, AnotherBatchError
from batchrun.dispatch.judgement import Action, TrackRecord, judge, stop_for
from batchrun.errors import ProviderError, RunEnd, Stop, printable
from batchrun.formats import BatchState
from batchrun.formats.sent_batches import DAMAGED, UNKNOWN_ACCOUNT, BatchStage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.dispatch.batch_collection import BatchCollector
    from batchrun.dispatch.batch_ports import BatchContext, BatchVendor
    from batchrun.dispatch.ports import Tally
    from batchrun.errors import ProviderFault
    from batchrun.formats import RemoteBatch
    from batchrun.formats.sent_batches import SentBatch
    from batchrun.job import BatchConfig, RetryConfig

_SECOND_US = 1_000_000
# A batch is looked for from this long before it was intended: clocks differ.
_CLOCKS_DIFFER_US = 600 * _SECOND_US
# Checks without news become rarer, by the factor _GROWTH, up to this interval.
LONGEST_POLL_S = 300.0
# A vendor may raise its limits: what was learned is tried again after a day.
_LEARNED_FOR_US = 86_400 * _SECOND_US
_GROWTH = 1.5
# Downloads of the results of one batch before those that are not there or cannot be read are given up,
# and the pause between them.
MOST_DOWNLOADS, DOWNLOAD_PAUSE_S = 3, 5.0
TOKEN_LIMIT = "token_limit_exceeded"  # noqa: S105 - an error code
_MISSING = frozenset({404, 410})
_CANNOT_CANCEL = frozenset({400, 404, 409})


class BatchTracker:
    """The open batches of a run.

    Args:
        vendor: has the batches.
        work: stores batches.
        collector: stores results.
        config: the job's `[batch]`.
        retry: how long a vendor may be unreachable.
        tally: has the reason to stop, and the number of requests that are pending again.

    Attributes:
        open: the open batches by tag, in the order in which they were intended.
        unreached: why the last check of the batches failed; None if it succeeded.
    """

    def __init__(
        self,
        vendor: BatchVendor,
        work: BatchContext,
        collector: BatchCollector,
        *,
        config: BatchConfig,
        retry: RetryConfig,
        tally: Tally,
    ) -> None:
        self._vendor = vendor
        self._endpoint = vendor.endpoint
        self._journal = work.journal
        self._money = work.money
        self._collector = collector
        self._config = config
        self._retry = retry
        self._tally = tally
        self.open: dict[str, SentBatch] = {}
        self.unreached: ProviderFault | None = None
        self._failing_since: float | None = None
        self._known_ids: set[str] = set()
        self._creating: set[str] = set()
        self._is_loaded = False
        self._is_expecting = True  # further batches may be submitted
        self._interval_s = config.poll_s
        self._closed = anyio.Event()
        self._changed = anyio.Event()  # of the stage of a batch
        self._wake = anyio.Event()
        # By model: half of the tokens with which the vendor's queue was full.
        self.learned: dict[str, float] = {}

    async def load(self) -> None:
        """Read the batches of earlier executions, once."""
        if self._is_loaded:
            return
        self._is_loaded = True
        for batch in await self._journal.batches(open_only=False):
            if batch.remote_id is not None:
                self._known_ids.add(batch.remote_id)
            if batch.is_open:
                self.open[batch.tag] = batch
            elif batch.reason == TOKEN_LIMIT and _is_recent(batch):
                self._learn(batch)

    async def check_account(self) -> str | None:
        """Return why the open batches cannot be reached with this key and address; None if they can.

        If a changed key finds the batches, it belongs to the same account.
        """
        ours = {self._endpoint.account, UNKNOWN_ACCOUNT}
        foreign = [batch for batch in self.open.values() if batch.account not in ours]
        lost = [batch for batch in foreign if not await self._is_found(batch)]
        if not lost:
            return None
        rows = sum(batch.out for batch in lost)
        place = lost[0].base_url
        return (
            f"{_counted(len(lost), 'batch', 'batches')} with {_counted(rows, 'row')} "
            f"{'was' if len(lost) == 1 else 'were'} sent to {place} with another API key or address, "
            "and cannot be found with the present ones. To collect them, run again with that key and "
            "base_url; to give them up, start over with --new --yes"
        )

    async def _is_found(self, batch: SentBatch) -> bool:
        if batch.remote_id is None:
            return False
        try:
            remote = await self._endpoint.get(batch.remote_id)
        except ProviderError:
            return False
        return remote.tag in {None, batch.tag}

    def add(self, batch: SentBatch) -> None:
        """Add a batch that is about to be created. It is not looked for until `confirm` or `doubt`."""
        self.open[batch.tag] = batch
        self._creating.add(batch.tag)

    async def uploaded(self, tag: str, file_id: str) -> None:
        """Record that the requests of a batch were uploaded; it is created next."""
        await self._journal.uploaded(tag, file_id)
        self.open[tag] = replace(self.open[tag], input_file=file_id, intended_us=_now_us())

    def doubt(self, tag: str) -> None:
        """Look for a batch from now on: it is unknown whether it was created."""
        self._creating.discard(tag)
        self.open[tag] = replace(self.open[tag], intended_us=_now_us())
        self._wake.set()

    async def confirm(self, tag: str, remote: RemoteBatch, *, is_proven: bool = True) -> None:
        """Record that the vendor has a batch."""
        await self._journal.sent(tag, remote, is_proven=is_proven)
        self._known_ids.add(remote.id)
        self._creating.discard(tag)
        batch = replace(self.open[tag], stage=BatchStage.SENT, is_proven=is_proven)
        self.open[tag] = batch.seen(remote)
        self._interval_s = self._config.poll_s
        self._wake.set()
        self._notify()

    async def void(self, tag: str, reason: str) -> None:
        """Record that a batch does not exist: its requests are pending again."""
        await self._journal.void(tag, reason)
        batch = self._close(tag)
        self._money.settle(batch.reserved or 0, 0)
        self._tally.free(batch.out)

    def queued_tokens(self, model: str) -> int:
        """Return the input tokens of the open batches of a model."""
        return sum(batch.tokens for batch in self.open.values() if batch.model == model)

    def most_tokens(self, model: str) -> float:
        """Return the maximum number of input tokens of a model in open batches."""
        configured = self._config.enqueued_tokens or float("inf")
        return min(configured, self.learned.get(model, float("inf")))

    async def closed(self, timeout_s: float | None = None) -> None:
        """Wait until a batch is closed, but at most this long, in seconds."""
        with anyio.move_on_after(timeout_s):
            await self._closed.wait()

    async def is_clear(self) -> None:
        """Wait until no batch is in doubt."""
        while self._in_doubt():
            await self._changed.wait()

    def _in_doubt(self) -> list[str]:
        """Return the tags of batches whose creation was not confirmed."""
        found = (tag for tag, batch in self.open.items() if batch.stage is BatchStage.INTENDED)
        return [tag for tag in found if tag not in self._creating]

    def begin_round(self) -> None:
        """Batches of further requests may be submitted."""
        self._is_expecting = True
        self._tally.begin_round()

    def end_round(self) -> None:
        """No other batch is submitted: only those that are open are followed."""
        self._is_expecting = False
        self._wake.set()

    async def follow(self, *, cancel: bool) -> None:
        """Check the batches repeatedly, until all are collected and no other is submitted.

        Args:
            cancel: whether every batch is canceled as soon as the vendor's id is known.
        """
        while self._tally.stop is None or self.open:
            if not self.open and not self._is_expecting:
                return
            await self._pause()
            if self.open:
                await self.look(cancel=cancel)
            if self._must_leave():
                return

    def wake(self) -> None:
        """Check again soon."""
        self._wake.set()

    async def look(self, *, cancel: bool = False) -> None:
        """Check all open batches once, and collect those that have ended.

        A failure to reach the vendor is stored in `unreached`; after `[retry] max_wait_s` it ends the run.
        """
        try:
            changed = await self._look()
            if cancel:
                await self._cancel()
        except ProviderError as error:
            self._failed(error.fault)
            return
        self.unreached = self._failing_since = None
        grown = min(self._interval_s * _GROWTH, LONGEST_POLL_S)
        self._interval_s = self._config.poll_s if changed else max(self._config.poll_s, grown)

    async def _cancel(self) -> None:
        """Ask the vendor to cancel every open batch that is certainly ours."""
        for tag, batch in list(self.open.items()):
            state = batch.state or BatchState.RUNNING
            is_running = not (state.is_final or state is BatchState.CANCELING)
            if batch.remote_id is None or not batch.is_proven or not is_running:
                continue
            try:
                await self._note(tag, await self._endpoint.cancel(batch.remote_id))
            except ProviderError as error:
                # It may have ended meanwhile, which the next check shows.
                if error.fault.http_status not in _CANNOT_CANCEL:
                    raise

    async def _pause(self) -> None:
        """Wait for the next check, or until something has changed."""
        interval_s = self._interval_s
        if self._in_doubt():
            interval_s = min(interval_s, max(0.05, self._config.doubt_s / 10))
        retry_after_s = 0.0 if self.unreached is None else self.unreached.retry_after_s or 0.0
        # Jitter, so that many runs do not ask at the same moment.
        interval_s = max(interval_s * (0.9 + 0.2 * random.random()), retry_after_s)  # noqa: S311
        if self.unreached is not None:
            await anyio.sleep(interval_s)
            return
        with anyio.move_on_after(interval_s if self.open else None):
            await self._wake.wait()
        self._wake = anyio.Event()

    def _must_leave(self) -> bool:
        """Whether the run stops and the vendor cannot be reached."""
        stop = self._tally.stop
        return stop is not None and self.unreached is not None

    def _failed(self, fault: ProviderFault) -> None:
        self.unreached = fault
        now = anyio.current_time()
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._interval_s = min(self._interval_s * 2, LONGEST_POLL_S)
        judgement = judge(fault, TrackRecord(answered=True))
        if judgement.end is not None:
            stop = stop_for(fault, judgement.end, self._vendor.request, self._vendor.variable)
        elif judgement.action is Action.FAIL:
            stop = stop_for(fault, RunEnd.REFUSED, self._vendor.request, self._vendor.variable)
        elif now - self._failing_since > self._retry.max_wait_s:
            reason = (
                f"the batches could not be checked within [retry] max_wait_s = "
                f"{self._retry.max_wait_s:g} s; the last error: {fault.error_type}: {fault.message}"
            )
            stop = Stop(RunEnd.UNAVAILABLE, reason)
        else:
            return
        self._tally.end_with(stop)

    async def _look(self) -> bool:
        """Check all open batches; return whether anything has changed."""
        changed = False
        for tag in self._in_doubt():
            changed = await self._recover(tag, self.open[tag]) or changed
        sent = {b.remote_id: tag for tag, b in self.open.items() if b.remote_id is not None}
        found = await self._listed(sent)
        for remote_id, tag in sent.items():
            # A list may lack a batch that still exists, so only a request for its id proves it gone.
            remote = found.get(remote_id) or await self._fetched(remote_id)
            if remote is None:
                await self._collector.close(self.open[tag], None, GONE)
                self._close(tag)
                changed = True
            else:
                changed = await self._note(tag, remote) or changed
        return changed

    async def _listed(self, sent: Mapping[str, str]) -> dict[str, RemoteBatch]:
        """Return the batches of these ids that the list shows."""
        found: dict[str, RemoteBatch] = {}
        if not sent:
            return found
        batches = [self.open[tag] for tag in sent.values()]
        since_us = min(batch.created_us or batch.intended_us for batch in batches)
        async with aclosing(self._endpoint.recent(since_us - _CLOCKS_DIFFER_US)) as listed:
            async for remote in listed:
                if remote.id in sent:
                    found[remote.id] = remote
                if len(found) == len(sent):
                    break
        return found

    async def _fetched(self, remote_id: str) -> RemoteBatch | None:
        try:
            return await self._endpoint.get(remote_id)
        except ProviderError as error:
            if error.fault.http_status in _MISSING:
                return None
            raise

    async def _note(self, tag: str, remote: RemoteBatch) -> bool:
        """Store the new state of a batch, and collect the batch if it has ended."""
        before = self.open[tag]
        batch = before.seen(remote)
        if batch != before:
            await self._journal.seen(tag, remote)
            self.open[tag] = batch
        if remote.state is BatchState.FAILED:
            await self._refused(batch, remote)
        elif remote.state.is_final:
            await self._collect(batch, remote)
        return batch != before or batch.state is None or batch.state.is_final

    async def _collect(self, batch: SentBatch, remote: RemoteBatch) -> None:
        try:
            await self._download(batch, remote)
        except AnotherBatchError:
            await self._journal.disown(batch.tag, remote.id)
            refused = (*batch.refused_ids, remote.id)
            self.open[batch.tag] = replace(
                batch, stage=BatchStage.INTENDED, remote_id=None, refused_ids=refused, state=None
            )
            return
        except ProviderError as error:
            if error.fault.http_status not in _MISSING:
                if judge(error.fault, TrackRecord(answered=True)).action is Action.RETRY:
                    return  # the results that were read are stored; the next check reads the rest
                raise
            await self._collector.close(batch, remote, GONE)
        self._close(batch.tag)
        if batch.input_file is not None:
            await self._endpoint.delete_input(batch.input_file)

    async def _download(self, batch: SentBatch, remote: RemoteBatch) -> None:
        """Collect results; incomplete ones are downloaded again at once.

        Raises:
            AnotherBatchError: see `BatchCollector.collect`.
            ProviderError: if they cannot be downloaded now.
        """
        for more in reversed(range(MOST_DOWNLOADS)):
            try:
                await self._collector.collect(batch, remote, is_last_try=not more)
            except ProviderError as error:
                if error.fault.error_type != "invalid_response" or not more:
                    raise
                await anyio.sleep(min(self._config.poll_s, DOWNLOAD_PAUSE_S))
            else:
                return

    async def _refused(self, batch: SentBatch, remote: RemoteBatch) -> None:
        """Void a batch that the vendor refused as a whole after its creation; nothing was billed."""
        problem = remote.problem
        code = "failed" if problem is None else problem.code
        line = None if problem is None else problem.line
        row = None if line is None else await self._journal.row_at(batch.tag, line)
        await self.void(batch.tag, code)
        if code == TOKEN_LIMIT:
            self._learn(batch)
            return
        message = "" if problem is None else f": {problem.message}"
        named = "" if row is None else f", row {printable(row)}"
        where = "" if line is None else f" (line {line}{named})"
        reason = f"the provider refused a batch{where}: {code}{message}"
        self._tally.end_with(Stop(RunEnd.REJECTED, reason))

    def learn(self, model: str, tokens: int) -> None:
        """Note that the vendor's queue was full with this many tokens; half of them are tried next."""
        self.learned[model] = max(1.0, min(self.learned.get(model, float("inf")), tokens) / 2)

    def _learn(self, batch: SentBatch) -> None:
        if batch.model is not None:
            self.learn(batch.model, batch.queued_tokens)

    async def _recover(self, tag: str, batch: SentBatch) -> bool:
        """Look for a batch whose creation was not confirmed; void it after `doubt_s` without success."""
        candidates: list[RemoteBatch] = []
        since_us = batch.intended_us - _CLOCKS_DIFFER_US
        async with aclosing(self._endpoint.recent(since_us)) as listed:
            async for remote in listed:
                if _is_same(batch, remote):
                    await self.confirm(tag, remote)
                    return True
                if self._may_be(batch, remote):
                    candidates.append(remote)
        if candidates:
            # Only a guess, which the `custom_id`s of the results prove or refute.
            nearest = min(candidates, key=lambda one: abs(_created_us(one) - batch.intended_us))
            await self.confirm(tag, nearest, is_proven=False)
            return True
        age_s = (_now_us() - batch.intended_us) / _SECOND_US
        if age_s < self._config.doubt_s:
            return False
        if batch.reason == DAMAGED:
            # Not void: it may exist under a tag that the damage has destroyed.
            await self._collector.close(batch, None, GONE)
            self._close(tag)
        else:
            await self.void(tag, "not found at the provider")
        return True

    def _may_be(self, batch: SentBatch, remote: RemoteBatch) -> bool:
        """Whether an unknown batch may be this one, if the vendor stores no tag."""
        is_unknown = remote.id not in self._known_ids and remote.id not in batch.refused_ids
        has_no_tag = remote.tag is None and remote.input_file is None
        return is_unknown and has_no_tag and remote.rows == batch.rows

    def _close(self, tag: str) -> SentBatch:
        batch = self.open.pop(tag)
        self._creating.discard(tag)
        self._closed.set()
        self._closed = anyio.Event()
        self._notify()
        return batch

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _is_same(batch: SentBatch, remote: RemoteBatch) -> bool:
    is_file = batch.input_file is not None and remote.input_file == batch.input_file
    return remote.tag == batch.tag or is_file


def _is_recent(batch: SentBatch) -> bool:
    return (batch.closed_us or 0) > _now_us() - _LEARNED_FOR_US


def _created_us(remote: RemoteBatch) -> int:
    return remote.created_us or 0


def _now_us() -> int:
    return int(datetime.now(UTC).timestamp() * _SECOND_US)


def _counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


__all__ = ["TOKEN_LIMIT", "BatchTracker"]

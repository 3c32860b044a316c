"""Collects the results of a batch: streams them, judges them like live answers, stores them in chunks.

A download may break and start again, and a process may die in between. So members that already have an
outcome are skipped.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchrun.dispatch.judgement import (
    Action,
    Blame,
    TrackRecord,
    Tries,
    blame,
    is_about_access,
    judge,
    stop_for,
)
from batchrun.errors import ProviderError, ProviderFault, RunEnd, Stop, short
from batchrun.formats import BatchOutcome, BatchState
from batchrun.limits import Cause, above_bound
from batchrun.records import Attempt, Billing, Result, Status, Usage, changed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.dispatch.batch_ports import BatchContext, BatchVendor
    from batchrun.dispatch.ports import Assignment, Tally
    from batchrun.formats import BatchAnswer, RemoteBatch
    from batchrun.formats.sent_batches import BatchMember, SentBatch

# Rows that are committed together.
CHUNK = 500
# The price of every answer of a batch, whatever the answer calls its tier.
TIER = "batch"
EXPIRED, CANCELED, MISSING = "batch_expired", "batch_canceled", "batch_missing"


class AnotherBatchError(Exception):
    """The results belong to another batch: the id was only a guess."""


@dataclass(frozen=True, slots=True)
class _LeftOver:
    """What happens to the requests of a batch that are in none of its results."""

    error_type: str
    message: str
    maybe_billed: bool = False


_LEFT_OVER = {
    BatchState.EXPIRED: _LeftOver(EXPIRED, "the batch expired before this request was answered"),
    BatchState.CANCELED: _LeftOver(
        CANCELED, "the batch was canceled before this request was answered"
    ),
}
_NO_ANSWER = _LeftOver(
    MISSING, "the results of the batch have no answer to this request", maybe_billed=True
)
GONE = _LeftOver(MISSING, "the provider no longer has the results of the batch", maybe_billed=True)


@dataclass(slots=True)
class _Chunk:
    """Outcomes that are committed together, with the reserved and actual costs."""

    attempts: list[Attempt] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    settled: list[tuple[int, Attempt]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.settled)

    def add(self, member: BatchMember, attempt: Attempt, result: Result | None) -> None:
        """Add the outcome of a request; `result` is None if it is sent again."""
        if result is None:
            self.attempts.append(attempt)
        else:
            self.results.append(result)
        self.settled.append((member.reserved or 0, attempt))


class BatchCollector:
    """Judges and stores the results of the batches of one run.

    Args:
        assignment: has the rules of the run.
        work: stores batches, and has the cost limit.
        vendor: has the results.
        tally: counts results.
    """

    def __init__(
        self,
        assignment: Assignment,
        work: BatchContext,
        vendor: BatchVendor,
        tally: Tally,
    ) -> None:
        self._then = assignment.job.batch.then
        self._rules = assignment.rules
        self._accounts = assignment.accounts
        self._work = work
        self._vendor = vendor
        self._endpoint = vendor.endpoint
        self._tally = tally

    async def collect(
        self, batch: SentBatch, remote: RemoteBatch, *, is_last_try: bool = False
    ) -> None:
        """Store all results of a batch in a final state, and close it.

        Args:
            batch: the batch.
            remote: its state as the vendor reports it.
            is_last_try: close it even if some of its results are missing or cannot be read.

        Raises:
            AnotherBatchError: if these are the results of another batch.
            ProviderError: if they cannot be read to the end, or if some are missing (`invalid_response`).
                The results that were read are stored.
        """
        # Only members without an outcome: results that were stored before a crash are skipped.
        collection = _Collection(self, batch, remote, await self._work.journal.members(batch.tag))
        try:
            async with aclosing(self._endpoint.results(remote)) as answers:
                async for answer in answers:
                    await collection.take(answer)
        except ProviderError as error:
            if not (is_last_try and error.fault.error_type == "invalid_response"):
                raise
        finally:
            await collection.flush()
        left = _LEFT_OVER.get(remote.state, _NO_ANSWER)
        if left is _NO_ANSWER and collection.unanswered and not is_last_try:
            # The download may have been cut short. These answers are paid for, so it is repeated.
            message = f"the results of the batch lack {collection.unanswered:,} of its requests"
            raise ProviderError(ProviderFault("invalid_response", message, maybe_billed=True))
        if not (batch.is_proven or collection.is_proven):
            raise AnotherBatchError(batch.remote_id)
        await collection.settle_refusals()
        count = await self.close(batch, remote, left)
        expired = collection.expired + (count if left.error_type == EXPIRED else 0)
        if expired and self._then == "stop":
            reason = f'{expired:,} rows of a batch expired, and [batch] then = "stop"'
            self.stop(Stop(RunEnd.EXPIRED, reason))

    async def close(self, batch: SentBatch, remote: RemoteBatch | None, left: _LeftOver) -> int:
        """Close a batch; return the number of requests without an outcome. These are pending again.

        Requests whose answers were lost `[retry] max_attempts` times end in an error, because each time
        may have been billed.
        """
        if left.maybe_billed:
            await self._end_lost(batch, remote, left)
        members = await self._work.journal.members(batch.tag)
        count = await self._work.journal.close(
            batch.tag,
            left.error_type,
            left.message,
            maybe_billed=left.maybe_billed,
            latency_s=_latency_s(batch, remote),
        )
        reserved = sum(member.reserved or 0 for member in members.values())
        # Nobody knows what lost answers cost, so the whole reserved amount counts as spent.
        spent = reserved if left.maybe_billed else 0
        self._work.money.settle(reserved, spent, spent)
        self._tally.free(count)
        if count:
            self._tally.fail(f"{left.error_type}: {left.message}")
        return count

    async def _end_lost(
        self, batch: SentBatch, remote: RemoteBatch | None, left: _LeftOver
    ) -> None:
        """End the requests of a batch whose answers were lost too often."""
        latency_s = _latency_s(batch, remote)
        chunk = _Chunk()
        for key, member in (await self._work.journal.members(batch.tag)).items():
            if member.failures + 1 < self._rules.retry.max_attempts:
                continue
            attempt = Attempt(
                key,
                member.number,
                latency_s,
                error_type=left.error_type,
                error_message=left.message,
                cause=Cause.TRANSIENT.value,
                maybe_billed=True,
                model=batch.model,
                asked_model=batch.model,
            )
            chunk.add(
                member,
                attempt,
                Result(key, Status.ERRORED, attempt, datetime.now(UTC), retryable=True),
            )
            if len(chunk) >= CHUNK:
                await self.keep(batch, chunk)
                chunk = _Chunk()
        await self.keep(batch, chunk)

    def judged(
        self, answer: BatchAnswer, key: int, member: BatchMember, batch: SentBatch, latency_s: float
    ) -> tuple[Attempt, Result | ProviderFault | None]:
        """Return the attempt of an answer, with its result, or with a fault for `failed` to judge.

        None in their place: the request is sent again.
        """
        if answer.completion is not None:
            return self._answered(answer, key, member, batch, latency_s)
        fault = answer.fault
        if fault is None:  # an outcome without an explanation
            raise ValueError(f"{short(answer.custom_id)}: neither an answer nor an error")
        attempt = Attempt(
            key,
            member.number,
            latency_s,
            http_status=fault.http_status,
            error_type=fault.error_type,
            error_message=fault.message,
            cause=Cause.TRANSIENT.value,
            maybe_billed=fault.maybe_billed,
            request_id=fault.request_id,
            model=fault.model or batch.model,
            asked_model=batch.model,
            usage=fault.usage or Usage(),
            billing=fault.billing or Billing(),
        )
        attempt = self._priced(attempt)
        if answer.outcome in {BatchOutcome.EXPIRED, BatchOutcome.CANCELED}:
            return attempt, None
        return attempt, fault

    def _answered(
        self, answer: BatchAnswer, key: int, member: BatchMember, batch: SentBatch, latency_s: float
    ) -> tuple[Attempt, Result | None]:
        if answer.completion is None:
            raise ValueError("not an answer")
        completion, rejection = self._rules.review(answer.completion)
        billing = changed(completion.billing, service_tier=TIER)
        model = completion.model or batch.model
        attempt = Attempt(
            key,
            member.number,
            latency_s,
            http_status=answer.http_status,
            error_type=None if rejection is None else rejection.error_type,
            error_message=None if rejection is None else rejection.message,
            cause=None if rejection is None else Cause.INVALID.value,
            request_id=answer.request_id,
            model=model,
            asked_model=batch.model,
            usage=completion.usage,
            billing=billing,
            cost=self._accounts.prices.cost(completion.usage, model, batch.model, billing=billing),
        )
        now = datetime.now(UTC)
        if rejection is None:
            return attempt, Result(key, Status.SUCCEEDED, attempt, now, completion)
        failures = member.failures + 1
        tries = Tries(failures, self._rules.retry.max_attempts, failures)
        if judge(rejection, TrackRecord(answered=True), tries).action is Action.RETRY:
            return attempt, None
        return attempt, Result(key, Status.ERRORED, attempt, now, completion)

    def _priced(self, attempt: Attempt) -> Attempt:
        billing = changed(attempt.billing, service_tier=TIER)
        cost = self._accounts.prices.cost(
            attempt.usage, attempt.model, attempt.asked_model, billing=billing
        )
        return changed(attempt, billing=billing, cost=cost)

    def failed(
        self, attempt: Attempt, fault: ProviderFault, member: BatchMember, record: TrackRecord
    ) -> tuple[Attempt, Result | None, Action]:
        """Judge a request without an answer like a failed live attempt."""
        is_last = member.failures + 1 >= self._rules.retry.max_attempts
        dropped = self._rules.dropped.learn(attempt.asked_model or "", fault)
        if dropped is not None and not is_last:
            cause = Cause.UNSUPPORTED.value
            return changed(attempt, cause=cause, dropped=dropped), None, Action.RETRY
        judgement = judge(fault, record)
        attempt = changed(attempt, cause=judgement.cause.value)
        if judgement.action is Action.STOP and judgement.end is not None:
            self.stop(stop_for(fault, judgement.end, self._vendor.request, self._vendor.variable))
            return attempt, None, Action.STOP
        if judgement.action is Action.HOLD:
            return attempt, None, Action.HOLD
        counts = judgement.cause is not Cause.RATE_LIMIT
        is_last = member.failures + counts >= self._rules.retry.max_attempts
        if judgement.action is Action.RETRY and not is_last:
            return attempt, None, Action.RETRY
        result = Result(
            attempt.key,
            Status.ERRORED,
            attempt,
            datetime.now(UTC),
            retryable=judgement.cause is not Cause.NO,
        )
        return attempt, result, Action.FAIL

    def stop(self, stop: Stop) -> None:
        """Submit nothing more. The first reason counts."""
        self._tally.end_with(stop)

    def stop_for_refusals(self, held: Sequence[tuple[Attempt, ProviderFault]]) -> None:
        """Stop because all requests of a batch were refused."""
        _, fault = held[0]
        end = judge(fault, TrackRecord()).end
        if end is None:
            end = RunEnd.REFUSED if is_about_access(fault) else RunEnd.REJECTED
        self.stop(stop_for(fault, end, self._vendor.request, self._vendor.variable))

    async def keep(self, batch: SentBatch, chunk: _Chunk) -> None:
        """Commit outcomes, then count them."""
        if not chunk:
            return
        # On disk first: what is counted here ends the run or frees money for other requests.
        await self._work.journal.collect(batch.tag, chunk.attempts, chunk.results)
        for reserved, attempt in chunk.settled:
            self._settle(reserved, attempt)
        for result in chunk.results:
            if result.status is Status.SUCCEEDED:
                self._tally.succeed()
                self._count(None)
            else:
                self._count(result.last.error or "failed")
        self._tally.free(len(chunk.attempts))

    def _settle(self, reserved: int, attempt: Attempt) -> None:
        cost, unsure = 0 if attempt.cost is None else attempt.cost.total, 0
        if attempt.maybe_billed or (attempt.cost is None and attempt.error_type is None):
            cost = unsure = max(reserved, cost)
        self._work.money.settle(reserved, cost, unsure)
        if self._work.money.cap is not None:
            stop = above_bound(attempt, reserved)
            if stop is not None:
                self.stop(stop)

    def _count(self, error: str | None) -> None:
        self._tally.fail(error)
        if (stop := self._accounts.errors.count(error)) is not None:
            self.stop(stop)


class _Collection:
    """One pass through the results of one batch."""

    def __init__(
        self,
        collector: BatchCollector,
        batch: SentBatch,
        remote: RemoteBatch,
        members: Mapping[int, BatchMember],
    ) -> None:
        self._collector = collector
        self._batch = batch
        self._members: dict[int, BatchMember] = dict(members)
        self._latency_s = _latency_s(batch, remote)
        # Without any answer, a refusal may be everybody's; with one, it is its row's.
        self._record = TrackRecord(answered=bool(remote.done))
        self._held: list[tuple[Attempt, ProviderFault, BatchMember]] = []
        self._chunk = _Chunk()
        self.is_proven = False
        self.expired = 0

    @property
    def unanswered(self) -> int:
        """Number of requests that have not been in the results so far."""
        return len(self._members)

    async def take(self, answer: BatchAnswer) -> None:
        tag, _, number = answer.custom_id.rpartition("-")
        if tag != self._batch.tag:
            if not (self._batch.is_proven or self.is_proven):
                raise AnotherBatchError(self._batch.remote_id)
            return
        self.is_proven = True
        key = int(number) if number.isdecimal() else -1
        if (member := self._members.pop(key, None)) is None:
            return
        self.expired += answer.outcome is BatchOutcome.EXPIRED
        attempt, found = self._collector.judged(answer, key, member, self._batch, self._latency_s)
        if found is None or isinstance(found, Result):
            if found is not None and not self._record.answered:
                self._record = replace(self._record, answered=True)
            await self._put(attempt, found, member)
            return
        attempt, result, action = self._collector.failed(attempt, found, member, self._record)
        if action is Action.HOLD:
            self._held.append((attempt, found, member))
        else:
            await self._put(attempt, result, member)

    async def settle_refusals(self) -> None:
        """Decide about refused requests, after it is known whether the batch had any answer."""
        held, self._held = self._held, []
        if not held:
            return
        reasons = [fault for _, fault, _ in held]
        record = replace(
            self._record,
            held=len(held),
            refused=sum(map(is_about_access, reasons)),
            alike=len(held),
        )
        is_rows = blame(record, is_over=True) is Blame.ROWS
        if not is_rows:
            self._collector.stop_for_refusals([(attempt, fault) for attempt, fault, _ in held])
        for attempt, _, member in held:
            result = None
            if is_rows:
                attempt = changed(attempt, cause=Cause.NO.value)  # noqa: PLW2901
                is_passing = attempt.http_status == 429
                result = Result(
                    attempt.key, Status.ERRORED, attempt, datetime.now(UTC), retryable=is_passing
                )
            await self._put(attempt, result, member)
        await self.flush()

    async def _put(self, attempt: Attempt, result: Result | None, member: BatchMember) -> None:
        self._chunk.add(member, attempt, result)
        if len(self._chunk) >= CHUNK:
            await self.flush()

    async def flush(self) -> None:
        """Commit the collected outcomes."""
        chunk, self._chunk = self._chunk, _Chunk()
        await self._collector.keep(self._batch, chunk)


def _latency_s(batch: SentBatch, remote: RemoteBatch | None) -> float:
    """Return how long a batch took, in seconds."""
    ended_us = None if remote is None else remote.ended_us
    start_us = batch.created_us or batch.intended_us
    now_us = int(datetime.now(UTC).timestamp() * 1_000_000)
    return max(0.0, ((ended_us or now_us) - start_us) / 1e6)

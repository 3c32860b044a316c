"""One process working on a run: it sends pending requests and records what happens."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from batchrun import checkpoint
from batchrun.dispatch import (
    BATCH,
    Accounts,
    Assignment,
    BatchContext,
    BatchMode,
    FirstRequests,
    Provider,
    Rules,
)
from batchrun.errors import (
    BatchesOut,
    BatchrunError,
    CheckpointError,
    HeldRows,
    Interrupted,
    JobError,
    OutputError,
    RunEnd,
    RunStopped,
    Stop,
    sentences,
)
from batchrun.formats.unsupported import DroppedParameters
from batchrun.limits import ErrorBudget, Waits
from batchrun.pricing import price_book
from batchrun.report.open_batches import come_back, keep_running
from batchrun.run.events import RunLog
from batchrun.run.execution_start import begin
from batchrun.run.finished_rows import finished_rows
from batchrun.run.journals import ObservedBatches, ObservedJournal
from batchrun.run.pipeline import Feed, FirstPass
from batchrun.run.precision import stopping_at

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from batchrun.client import TransportPort
    from batchrun.limits import CostBudget, ErrorTally, Limits
    from batchrun.records import PlannedRequest
    from batchrun.run.events import EventFile
    from batchrun.run.interrupts import Interrupts
    from batchrun.run.pipeline import OpenRun
    from batchrun.run.progress import Progress
    from batchrun.run.run_options import RunOptions


REFRESH_S = 0.5
# Rarer, because each note of what the run waits for is a commit.
NOTE_S = 2.0
# How long answers are kept in memory while the disk has no room for them.
FULL_DISK_RETRY_S = 20.0


@dataclass(frozen=True, slots=True)
class Shared:
    """The objects that all runs of one process share.

    Attributes:
        limits: admits requests of all runs.
        money: the cost limit of all runs, and what they have spent.
        waits: counts the waits of all runs.
        errors: counts the failed rows of all runs.
        simulator: address that replaces every base URL; None for none.
        planning: limits how many runs plan rows at the same time; None for no limit.
    """

    options: RunOptions
    limits: Limits
    money: CostBudget
    waits: Waits
    errors: ErrorTally
    transport: TransportPort
    simulator: str | None
    progress: Progress
    interrupts: Interrupts
    events: EventFile
    planning: anyio.CapacityLimiter | None = None


@dataclass(frozen=True, slots=True)
class ExecutionEnd:
    """Why an execution ended.

    Attributes:
        end: what ended it.
        reason: details; None if there are none.
        error: the error for the caller; None if the execution did not end early.
    """

    end: RunEnd
    reason: str | None = None
    error: BatchrunError | None = None


class Execution:
    """One process working on a run.

    Args:
        run: the run.
        shared: what it shares with other runs of this process.

    Attributes:
        log: reports what happens.
    """

    def __init__(self, run: OpenRun, shared: Shared) -> None:
        self._plan = run.plan
        self._store = run.store
        self._run = run
        self._shared = shared
        self.log = RunLog(shared.events, shared.progress, run.plan.job.name, run.label)
        self._full_disk_retry = checkpoint.FullDiskRetry(FULL_DISK_RETRY_S)
        self._journal = checkpoint.CheckpointJournal(run.store, self._full_disk_retry)
        self._waits = Waits(parent=shared.waits)
        self._rows = finished_rows(run, self._journal, shared.options.rows_to)
        self._precision = stopping_at(run.plan, run.store, self._journal)
        first = FirstPass(shared.progress, self._precision, self._rows)
        self._feed = self._new_feed(first)
        assignment = self._assignment()
        self._dispatcher = shared.options.dispatcher.create(assignment)
        # Few runs have batches, and a run without any does not load what works with them.
        has_batches = shared.options.dispatcher is BATCH or checkpoint.has_open_batches(run.store)
        self._batches = BATCH.beside(self._dispatcher, assignment) if has_batches else None
        self._work_scope = anyio.CancelScope()
        self._error: BatchrunError | None = None

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return self._dispatcher.tally.in_flight

    @property
    def max_wait_s(self) -> float:
        """The longest time that a row may wait, in seconds."""
        return self._plan.job.retry.max_wait_s

    @property
    def is_planned(self) -> bool:
        """Whether every row has its request."""
        return self._feed.is_planned

    async def run(self) -> BatchrunError | None:
        """Send pending requests; return the error that ended the execution early, if there is one.

        Raises:
            CheckpointError: if the checkpoint cannot be used any more.
        """
        begin(self._run, self._shared.options, self.log)
        await self._with_journal()
        self._restore_checkpoint()
        ended = self._ended()
        self._store.finish_execution(ended.end, ended.reason, dict(self._waits.seconds))
        return ended.error

    async def wind_up(self) -> None:
        """Send nothing more; cancel what is in flight after `grace_s`, or after a second signal."""
        self._dispatcher.drain()
        with anyio.move_on_after(self._shared.options.grace_s):
            await self._shared.interrupts.cancel_requested.wait()
        # Commits are shielded from cancellation, so a wait for disk space must be ended separately.
        self._full_disk_retry.end()
        self._work_scope.cancel()

    async def _with_journal(self) -> None:
        """Keep the journal open until everything that happened is on disk."""
        # Two groups: a failing helper cancels the inner one, and the journal still commits what arrived.
        async with anyio.create_task_group() as keeper:
            await keeper.start(self._journal.run)
            try:
                async with anyio.create_task_group() as helpers:
                    helpers.start_soon(self._note_waits)
                    helpers.start_soon(self._watch_checkpoint)
                    helpers.start_soon(self._stop_with_others)
                    helpers.start_soon(self._watch_precision)
                    await self._send_everything()
                    helpers.cancel_scope.cancel()
            finally:
                self._journal.close()

    def _new_feed(self, first: FirstPass | None) -> Feed:
        return Feed(self._run, self._journal, self._shared.options, self.log, first)

    def _assignment(self) -> Assignment:
        plan, shared = self._plan, self._shared
        job = plan.job
        prices = price_book(job, self._run.price_provider)
        observers: dict[str, Any] = {
            "store": self._store,
            "prices": prices,
            "progress": shared.progress,
            "log": self.log,
            "rows": self._rows,
        }
        journal = ObservedJournal(self._journal, **observers)
        batches = BatchContext(
            ObservedBatches(self._journal, **observers), shared.limits.money, shared.options.batches
        )
        errors = ErrorBudget(job.limits.max_errors, shared.errors)
        return Assignment(
            job=job,
            journal=journal,
            admission=shared.limits,
            accounts=Accounts(self._waits, errors, prices),
            rules=Rules(
                job.retry, plan.review, plan.tools, job.tools.max_turns, self._dropped_parameters()
            ),
            first=FirstRequests(job.request.key_source, self._feed),
            provider=Provider(plan.credentials, shared.transport, shared.simulator),
            batches=batches,
        )

    def _dropped_parameters(self) -> DroppedParameters:
        """Return the parameters that earlier executions have learned to leave out."""
        is_on = self._plan.job.request.drops_unsupported
        known = checkpoint.dropped_parameters(self._store) if is_on else ()
        return DroppedParameters(known, is_on=is_on)

    async def _send_everything(self) -> None:
        with self._work_scope:
            if not await self._collect_batches():
                return
            await self._send_round()
            # Requests that batches did not answer are planned and sent again.
            while self._may_repeat():
                await self._send_round(self._new_feed(None))

    async def _collect_batches(self) -> bool:
        """Collect batches of earlier executions that have ended; return whether to continue."""
        if self._batches is None or not await self._journal.call(
            checkpoint.has_open_batches, self._store
        ):
            return True
        try:
            await self._batches.prepare()
        except JobError as error:
            if self._shared.options.dispatcher is not BATCH:
                self.log.note(str(error))
                return True
            self._error = error
            return False
        return True

    async def _send_round(self, feed: Feed | None = None) -> None:
        # One chunk is planned ahead: more would only take memory.
        send, receive = anyio.create_memory_object_stream["list[PlannedRequest]"](1)
        async with receive, anyio.create_task_group() as work:
            work.start_soon(self._feed_all, send, feed or self._feed)
            work.start_soon(self._dispatch, receive)

    async def _dispatch(self, requests: MemoryObjectReceiveStream[list[PlannedRequest]]) -> None:
        try:
            await self._dispatcher.run(requests)
        except BaseExceptionGroup as group:
            error = first_batchrun_error(group)
            if not isinstance(error, JobError | OutputError):
                raise
            self._error = error
            self._dispatcher.drain()

    def _may_repeat(self) -> bool:
        tally, options = self._dispatcher.tally, self._shared.options
        is_over = tally.stop is not None or self._error is not None
        waits = options.batches is BatchMode.WAIT and options.rows is None
        return bool(tally.freed) and waits and not is_over and self._shared.interrupts.first is None

    async def _stop_with_others(self) -> None:
        """Stop when too many rows of all runs together have failed."""
        self._dispatcher.stop(await self._shared.errors.spent())

    async def _feed_all(
        self, send: MemoryObjectSendStream[list[PlannedRequest]], feed: Feed
    ) -> None:
        async with send:
            try:
                async with self._shared.planning or nullcontext():
                    await feed.run(send)
            except BatchrunError as error:
                self._error = error
                self._dispatcher.drain()
        if feed.stop is not None:
            self._dispatcher.stop(feed.stop)

    async def _watch_precision(self) -> None:
        """Stop when the scores of the answers are as precise as `stop_at` says."""
        stop = None
        while self._precision is not None and stop is None:
            await anyio.sleep(REFRESH_S)
            if (stop := await self._precision.look()) is not None:
                self._dispatcher.stop(stop)

    async def _note_waits(self) -> None:
        """Record what the run is waiting for in the checkpoint, for `batchrun status`."""
        noted = None
        while True:
            await anyio.sleep(NOTE_S)
            if (reason := self._shared.limits.waiting_for()) != noted:
                await self._journal.call(self._store.note_waiting, reason)
                self.log.write("waiting", reason=reason)
                noted = reason
            self._note_keys()

    def _note_keys(self) -> None:
        """Write renewals of the key to the log."""
        command = self._plan.credentials.command
        for renewal in () if command is None else command.taken_renewals():
            self.log.write("key_renewed", reason=renewal.reason, error=renewal.error)

    async def _watch_checkpoint(self) -> None:
        """Report a full disk; stop when the run directory is removed or moved.

        Without its directory the run could not be resumed.
        """
        while True:
            await anyio.sleep(REFRESH_S)
            if (note := self._full_disk_retry.take_note()) is not None:
                self.log.note(note)
            if not self._store.is_in_place():
                await self.wind_up()

    def _restore_checkpoint(self) -> None:
        """Write the checkpoint again if the run directory was removed or moved."""
        if self._store.is_in_place():
            return
        gone = f"{self._store.path}: was removed or moved during the run, so the run stopped"
        try:
            self._store.restore_file()
        except CheckpointError as error:
            raise CheckpointError(f"{gone}, and could not be written again: {error}") from error
        self._error = CheckpointError(
            f"{gone}; the checkpoint with every answer was written there again"
        )

    def _ended(self) -> ExecutionEnd:
        """Return why the execution ended. This is decided only here."""
        self._note_keys()
        tally, interrupts, error = self._dispatcher.tally, self._shared.interrupts, self._error
        if error is not None:
            return ExecutionEnd(RunEnd.FAILED, str(error), error)
        stop, out = tally.stop, checkpoint.batches(self._store, open_only=True)
        if stop is None and interrupts.first is not None:
            stay = f"; {keep_running(out, self._plan.directory)}" if out else ""
            error = Interrupted(interrupts.first, f"interrupted; all answers are saved{stay}")
            return ExecutionEnd(RunEnd.INTERRUPTED, interrupts.first.name, error)
        held, unchecked = self._held_rows(), self._unchecked()
        if stop is not None and stop.end is RunEnd.BATCHES_OUT:
            stop = None  # what open batches reserve leaves no money for the rows that are held
        if stop is None and (out or held):
            reason = come_back(out, held, unchecked)
            return ExecutionEnd(RunEnd.BATCHES_OUT, reason, BatchesOut(reason, held, unchecked))
        if stop is not None and out:
            stop = Stop(stop.end, sentences(stop.reason, come_back(out, held, unchecked)))
        if stop is None and tally.sent and not (tally.succeeded or self._run.has_succeeded):
            stop = Stop(RunEnd.NOTHING_SUCCEEDED, f"{tally.last_error}")
        if stop is not None and stop.end is RunEnd.PRECISE:
            return ExecutionEnd(stop.end, stop.reason)
        if stop is not None:
            error = RunStopped(stop, is_judge=self._plan.judge is not None)
            return ExecutionEnd(stop.end, stop.reason, error)
        is_whole = self._shared.options.rows is None
        return ExecutionEnd(RunEnd.FINISHED if is_whole else RunEnd.SAMPLED)

    def _held_rows(self) -> HeldRows | None:
        """Return the rows that wait for room at the provider; None if there are none."""
        tally = self._dispatcher.tally
        reason = tally.held
        if tally.stop is not None and tally.stop.end is RunEnd.BATCHES_OUT:
            reason = tally.stop.reason
        rows = 0 if reason is None else checkpoint.rows_not_submitted(self._store)
        return HeldRows(rows, reason) if reason is not None and rows else None

    def _unchecked(self) -> str | None:
        """Return why the provider could not be asked about batches, unless it ended the run."""
        fault = None if self._batches is None else self._batches.unreached
        stop = self._dispatcher.tally.stop
        if fault is None or (stop is not None and fault.message in stop.reason):
            return None
        return f"{fault.error_type}: {fault.message}"


def first_batchrun_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first BatchrunError in a group, or the group if there is none."""
    for error in group.exceptions:
        found = first_batchrun_error(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, BatchrunError):
            return found
    return group

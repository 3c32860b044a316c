"""Running a job: the one file that knows the order of the stages.

prepare → open the checkpoint → (read → render → plan → dispatch → record) → outputs → report
"""

from __future__ import annotations

import importlib.util
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread

from batchrun import __version__, checkpoint
from batchrun.changes import agree, needs_consent, reuse_of, told
from batchrun.client import Client, PyreqwestTransport
from batchrun.conclusion import InterruptibleRows, RunReport, conclude
from batchrun.dispatch import Dispatcher
from batchrun.errors import BatchrunError, CheckpointError, Interrupted, RunStopped
from batchrun.interrupts import Interrupts
from batchrun.limits import CostBudget, ErrorBudget, Limits, Waits
from batchrun.prepare import (
    Prepared,
    RunOptions,
    model_hint,
    prepare,
    price_book,
    run_directory,
)
from batchrun.progress import Progress
from batchrun.records import PICO_PER_USD
from batchrun.render import sampled
from batchrun.simulator import Simulator
from batchrun.terminal import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.abc import ObjectSendStream, TaskGroup

    from batchrun.errors import ProviderFault
    from batchrun.job import Job
    from batchrun.records import (
        Attempt,
        AttemptStart,
        Item,
        PlannedRequest,
        Result,
        Reuse,
        Turn,
    )

CHUNK_ROWS = 512
IMAGE_CHUNK_ROWS = 8
REFRESH_S = 0.5
NOTE_S = 2.0
# How long answers are kept in memory while the disk has no room for them.
PATIENCE_S = 20.0


def run_job(job: Job, options: RunOptions | None = None) -> RunReport:
    """Run or resume a job and return when it is through.

    Raises:
        JobError: when the job or the input is wrong; nothing was sent.
        CheckpointError: when the run directory cannot be used.
    """
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(arun_job, job, options, backend_options={"use_uvloop": has_uvloop})


async def arun_job(job: Job, options: RunOptions | None = None) -> RunReport:
    """Run or resume a job inside an event loop; see `run_job`."""
    options = options or RunOptions()
    checkpoint.refuse_locked(run_directory(job, options))
    plan = await anyio.to_thread.run_sync(prepare, job, options, abandon_on_cancel=True)
    interrupts = Interrupts()
    with (
        checkpoint.open_directory(plan.directory, new=options.new),
        closing(checkpoint.Checkpoint(plan.directory, writable=True)) as store,
    ):
        reuse = await _agreed(plan, store, options)
        with interrupts.caught():
            return await _execute(plan, store, options, interrupts, reuse)


async def _agreed(
    plan: Prepared, store: checkpoint.Checkpoint, options: RunOptions
) -> Reuse | None:
    """Return what a changed plan uses again, when whoever runs it agrees with what it does not."""
    # Until something has been sent there is nothing to save: a signal ends it at once.
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    reuse: Reuse | None = await in_thread(reuse_of, plan, store, options)
    if reuse is not None and needs_consent(reuse, options):
        await in_thread(agree, plan, reuse, options.ask)
    return reuse


async def _execute(
    plan: Prepared,
    store: checkpoint.Checkpoint,
    options: RunOptions,
    interrupts: Interrupts,
    reuse: Reuse | None,
) -> RunReport:
    execution = _Execution(plan, store, options, interrupts, reuse)
    error = await execution.run()
    place = execution.is_planned or not store.has_unplaced_results()
    rows = InterruptibleRows(store, interrupts)
    return await anyio.to_thread.run_sync(conclude, plan, store, rows, error, place)


class _Execution:
    """One process working on a run."""

    def __init__(
        self,
        plan: Prepared,
        store: checkpoint.Checkpoint,
        options: RunOptions,
        interrupts: Interrupts,
        reuse: Reuse | None,
    ) -> None:
        self._plan = plan
        self._reuse = reuse
        self._store = store
        self._options = options
        self._interrupts = interrupts
        self._samples = plan.job.request.samples
        unit = "row" if self._samples == 1 else "sample"
        total = plan.total * self._samples
        self._progress = Progress(plan.job.name, total, unit=unit, quiet=options.quiet)
        self._patience = checkpoint.Patience(PATIENCE_S, self._note_from_thread)
        self._journal = checkpoint.Journal(store, self._patience)
        self._waits = Waits()
        self._work_scope = anyio.CancelScope()
        # A row with images takes megabytes once it is rendered.
        chunk_rows = IMAGE_CHUNK_ROWS if plan.job.request.images else CHUNK_ROWS
        self._chunk_rows = max(1, chunk_rows // self._samples)
        self._reused = 0
        self._sent = 0
        self._sending = anyio.CancelScope()
        self._has_unplaced: bool | None = None
        self._is_through = True
        self.is_planned = False
        self._error: BatchrunError | None = None

    async def run(self) -> BatchrunError | None:
        """Send what is pending; return what ended the execution early, if anything did.

        Raises:
            CheckpointError: when the checkpoint stops working.
        """
        self._begin()
        try:
            with self._progress:
                await self._with_journal()
        except BaseExceptionGroup as group:
            raise _ours(group) from group
        self._look_at_place()
        error = self._outcome()
        outcome = "finished" if error is None else f"stopped: {error}"
        self._store.finish_execution(outcome, dict(self._waits.seconds))
        return error

    def _begin(self) -> None:
        plan = self._plan
        in_flight = self._store.start_execution(
            name=plan.job.name,
            job=plan.job.document,
            base=plan.job.base,
            signature=plan.signature,
            total=plan.total,
            version=__version__,
            samples=self._samples,
        )
        if (hint := model_hint(plan.job)) is not None:
            self._progress.note(hint)
        if self._reuse is not None:
            self._progress.note(told(self._reuse))
        if in_flight:
            self._progress.note(
                f"{in_flight} requests were in flight when an earlier execution ended; "
                "they may have been billed, and are sent again"
            )

    async def _with_journal(self) -> None:
        """Keep the journal open until everything that happened is on disk."""
        async with anyio.create_task_group() as keeper:
            await keeper.start(self._journal.run)
            try:
                async with anyio.create_task_group() as helpers, self._client(helpers) as client:
                    self._dispatcher = self._make_dispatcher(client)
                    helpers.start_soon(self._show_waits)
                    helpers.start_soon(self._note_waits)
                    helpers.start_soon(self._heed_signals)
                    helpers.start_soon(self._watch_place)
                    await self._send_everything()
                    helpers.cancel_scope.cancel()
            finally:
                self._journal.close()

    @asynccontextmanager
    async def _client(self, helpers: TaskGroup) -> AsyncIterator[Client]:
        job, options = self._plan.job, self._options
        reroute = None
        if options.simulate is not None:
            address = await helpers.start(Simulator(options.simulate).serve)
            reroute = (job.request.base_url, address)
        transport = options.transport or PyreqwestTransport(connections=self._plan.most_in_flight)
        client = Client(
            job.request.format,
            self._plan.key,
            timeout_s=job.retry.timeout_s,
            transport=transport,
            reroute=reroute,
            auth=job.request.auth,
        )
        try:
            yield client
        finally:
            with anyio.CancelScope(shield=True):
                await client.aclose()

    def _make_limits(self) -> Limits:
        config = self._plan.job.limits
        cap = config.max_cost_usd
        money = CostBudget(None if cap is None else int(cap * PICO_PER_USD), self._store.spent())
        return Limits(config, self._waits, money=money, most=self._plan.most_in_flight)

    def _make_dispatcher(self, client: Client) -> Dispatcher:
        job = self._plan.job
        self._limits = self._make_limits()
        return Dispatcher(
            client=client,
            journal=_ObservedJournal(self._journal, self._progress),
            limits=self._limits,
            waits=self._waits,
            errors=ErrorBudget(job.limits.max_errors),
            prices=price_book(job),
            config=job.retry,
            review=self._plan.review,
            tools=self._plan.tools,
        )

    async def _send_everything(self) -> None:
        send, receive = anyio.create_memory_object_stream["list[PlannedRequest]"](1)
        with self._work_scope:
            async with receive, anyio.create_task_group() as work:
                work.start_soon(self._feed, send)
                work.start_soon(self._dispatcher.run, receive)

    async def _feed(self, send: ObjectSendStream[list[PlannedRequest]]) -> None:
        """Read, render and plan ahead of the workers."""
        self._dispatcher.on_drain(self._stop_sending)
        async with send:
            try:
                await self._plan_all(send)
            except BatchrunError as error:
                self._error = error
                self._dispatcher.drain()

    async def _plan_all(self, send: ObjectSendStream[list[PlannedRequest]]) -> None:
        mark = self._plan.mark
        is_known = await self._journal.call(self._store.is_planned, mark)
        if not (is_known and await self._is_settled(0, self._plan.total)):
            await self._plan_rows(send, is_known=is_known)
            if not self._is_through:
                return
        await self._journal.call(self._store.finish_plan, self._plan.total, mark)
        self.is_planned = True
        if self._reused and self._reuse is None:
            rest = f"{self._sent} to send" if self._sent else "nothing to send"
            shared = ", or share one" if self._plan.job.request.dedupe else ""
            unit = self._progress.unit
            self._progress.note(f"{self._reused} {unit}s have their result already{shared}; {rest}")

    async def _plan_rows(
        self, send: ObjectSendStream[list[PlannedRequest]], *, is_known: bool
    ) -> None:
        chunks = self._plan.source.items(self._plan.renderer.columns, self._chunk_rows)
        while items := await anyio.to_thread.run_sync(_next_chunk, chunks):
            if is_known and await self._is_settled(items[0].ordinal, items[-1].ordinal + 1):
                continue
            rendered = sampled(self._plan.renderer.render(items), self._samples)
            pending = await self._journal.call(
                self._store.plan,
                rendered,
                retry_errored=self._options.retry_errored,
                dedupe=self._plan.job.request.dedupe,
            )
            bad = sum(item.fingerprint is None for item in rendered)
            self._count(len(rendered), bad, len(pending))
            await self._hand_over(pending, send)
            if self._dispatcher.is_draining and not await self._must_plan_on():
                self._is_through = False
                return

    async def _is_settled(self, first: int, end: int) -> bool:
        """Say whether rows that have their requests already need nothing more; then count them.

        A run that is nearly done is resumed without rendering what is done.
        """
        first, end = first * self._samples, end * self._samples
        to_send, bad = await self._journal.call(
            self._store.standing, first, end, retry_errored=self._options.retry_errored
        )
        if not to_send:
            self._count(end - first, bad, 0)
        return not to_send

    async def _hand_over(
        self, pending: list[PlannedRequest], send: ObjectSendStream[list[PlannedRequest]]
    ) -> None:
        with anyio.CancelScope() as self._sending:
            if pending and not self._dispatcher.is_draining:
                await send.send(pending)

    def _stop_sending(self) -> None:
        self._sending.cancel()

    async def _must_plan_on(self) -> bool:
        """Whether answers of earlier executions are still to be matched to their rows.

        After a change of the input or the template they are; the outputs would lack them.
        """
        if self._has_unplaced is None:
            self._has_unplaced = await self._journal.call(self._store.has_unplaced_results)
        return self._has_unplaced

    def _count(self, rows: int, unrenderable: int, to_send: int) -> None:
        self._progress.unrenderable(unrenderable)
        reused = rows - unrenderable - to_send
        self._progress.reused(reused)
        self._reused += reused
        self._sent += to_send

    async def _show_waits(self) -> None:
        while True:
            await anyio.sleep(REFRESH_S)
            self._progress.waiting(self._limits.waiting_for())

    async def _note_waits(self) -> None:
        """Tell those who ask for the status of this run what it is waiting for."""
        noted = None
        while True:
            await anyio.sleep(NOTE_S)
            if (reason := self._limits.waiting_for()) != noted:
                await self._journal.call(self._store.note_waiting, reason)
                noted = reason

    async def _heed_signals(self) -> None:
        """The first signal lets what is in flight finish; the second cancels it."""
        await self._interrupts.asked.wait()
        self._progress.note(
            f"stopping: {self._dispatcher.in_flight} requests in flight may finish within "
            f"{self._options.grace_s:g} s; once more to cancel them"
        )
        await self._wind_up()

    async def _watch_place(self) -> None:
        """Stop when somebody removes or moves the run directory: nothing could be resumed."""
        while True:
            await anyio.sleep(REFRESH_S)
            if not self._store.is_in_place():
                await self._wind_up()

    async def _wind_up(self) -> None:
        """Send nothing more; cancel what is in flight after the grace, or when the user insists."""
        self._dispatcher.drain()
        with anyio.move_on_after(self._options.grace_s):
            await self._interrupts.insisted.wait()
        self._patience.end()
        self._work_scope.cancel()

    def _look_at_place(self) -> None:
        """After the last request: see that what was answered can be found again."""
        if self._store.is_in_place():
            return
        gone = f"{self._store.path}: was removed or moved during the run, which stopped"
        try:
            self._store.put_back()
        except CheckpointError as error:
            raise CheckpointError(f"{gone}, and could not be written again: {error}") from error
        self._error = CheckpointError(
            f"{gone}; the checkpoint with every answer was written there again"
        )

    def _note_from_thread(self, message: str) -> None:
        anyio.from_thread.run_sync(self._progress.note, message)

    def _outcome(self) -> BatchrunError | None:
        dispatcher = self._dispatcher
        if self._error is not None:
            return self._error
        if dispatcher.fatal is not None:
            return RunStopped(_fatal_message(self._plan.job, dispatcher.fatal))
        if dispatcher.stop_reason is not None:
            return RunStopped(f"stopped: {dispatcher.stop_reason}; what was answered is saved")
        if self._interrupts.first is not None:
            return Interrupted(self._interrupts.first, "interrupted; what was answered is saved")
        return None


class _ObservedJournal:
    """The checkpoint's journal, with the progress bar told once a result is safe."""

    def __init__(self, journal: checkpoint.Journal, progress: Progress) -> None:
        self._journal = journal
        self._progress = progress

    async def begin(self, start: AttemptStart) -> None:
        await self._journal.begin(start)

    async def fail(self, attempt: Attempt) -> None:
        await self._journal.fail(attempt)

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        await self._journal.turn(turn, attempt)

    async def finish(self, result: Result) -> None:
        await self._journal.finish(result)
        self._progress.finished(result)


def _next_chunk(chunks: Iterator[list[Item]]) -> list[Item] | None:
    return next(chunks, None)


def _fatal_message(job: Job, fault: ProviderFault) -> str:
    """Say what the provider refused, and what to look at."""
    status = f"HTTP {fault.http_status} " if fault.http_status else ""
    if fault.http_status in {401, 403}:
        variable = job.request.api_key_env or "no variable (api_key_env is empty)"
        hint = f"check the key in the environment variable {variable}"
    elif fault.http_status == 404:
        hint = f"check the model ({job.request.model}) and base_url ({job.request.base_url})"
    else:
        hint = "the account's quota or credit is exhausted; raise it"
    message = f"{printable(fault.error_type)}: {printable(fault.message)}"
    return f"{job.request.base_url} refused: {status}{message}; {hint}. What was answered is saved"


def _ours(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return our own error from a group of tasks' errors, or the group when there is none."""
    for error in group.exceptions:
        found = _ours(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, BatchrunError):
            return found
    return group


__all__ = ["RunOptions", "RunReport", "arun_job", "run_job"]

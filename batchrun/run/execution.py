"""One process working on a run: what is pending is sent, and all that happens is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import orjson

from batchrun import __version__, checkpoint
from batchrun.checkpoint import note_price
from batchrun.client import Client, ClientOptions
from batchrun.dispatch import Dispatcher
from batchrun.errors import BatchrunError, CheckpointError, Interrupted, RunEnd, RunStopped, Stop
from batchrun.limits import MOST, ErrorBudget, Waits
from batchrun.pricing import NewPrices
from batchrun.run.events import EventLog
from batchrun.run.pipeline import Feed, hints, judge_again, missing_bodies, told
from batchrun.run.preparation import price_book

if TYPE_CHECKING:
    from anyio.abc import ObjectSendStream

    from batchrun.checkpoint import Checkpoint, Journal
    from batchrun.client import TransportPort
    from batchrun.limits import ErrorTally, Limits
    from batchrun.pricing import PriceBook
    from batchrun.records import Attempt, AttemptStart, PlannedRequest, Result, Reuse, Turn
    from batchrun.run.events import EventFile
    from batchrun.run.interrupts import Interrupts
    from batchrun.run.preparation import Prepared, RunOptions
    from batchrun.run.progress import Progress


REFRESH_S = 0.5
NOTE_S = 2.0
# How long answers are kept in memory while the disk has no room for them.
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that this process may work on: its directory is locked, its checkpoint is open.

    `reuse` is what a changed plan uses again; None when nothing has changed. `label` says in
    messages which of several runs is meant; empty when there is only one.
    """

    plan: Prepared
    store: checkpoint.Checkpoint
    reuse: Reuse | None = None
    label: str = ""
    price_provider: str | None = None
    price_note: str | None = None

    @property
    def name(self) -> str:
        """What the run is called among those of this process."""
        return f"{self.plan.job.name} {self.label}".strip()


@dataclass(frozen=True, slots=True)
class Common:
    """What all runs of one process share: limits and budgets, the way out, the bar, the signals.

    `simulator` is the address that takes the place of every base URL.
    """

    options: RunOptions
    limits: Limits
    waits: Waits
    errors: ErrorTally
    transport: TransportPort
    simulator: str | None
    progress: Progress
    interrupts: Interrupts
    log: EventFile


class Execution:
    """One process working on a run.

    Args:
        run: the run.
        common: what it shares with other runs of this process.
    """

    def __init__(self, run: OpenRun, common: Common) -> None:
        self._plan = run.plan
        self._store = run.store
        self._run = run
        self._common = common
        self._log = EventLog(common.log, run.name)
        self._patience = checkpoint.Patience(PATIENCE_S, self._note_from_thread)
        self._journal = checkpoint.Journal(run.store, self._patience)
        self._waits = Waits(parent=common.waits)
        request = run.plan.job.request
        self._peer = orjson.dumps(
            [request.provider_name, request.api_key_env, request.model]
        ).decode()
        self._dispatcher = self._make_dispatcher()
        self._feed = Feed(
            run.plan,
            store=run.store,
            journal=self._journal,
            dispatcher=self._dispatcher,
            options=common.options,
            progress=common.progress,
            note=self._note,
            log=self._log,
            reuse=run.reuse,
        )
        self._dispatcher.spread_by(self._feed.elsewhere)
        self._work_scope = anyio.CancelScope()
        self._error: BatchrunError | None = None

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return self._dispatcher.in_flight

    @property
    def is_planned(self) -> bool:
        """Whether every row has its request."""
        return self._feed.is_planned

    async def run(self) -> BatchrunError | None:
        """Send what is pending; return what ended the execution early, if anything did.

        Raises:
            CheckpointError: when the checkpoint stops working.
        """
        self._begin()
        await self._with_journal()
        self._look_at_place()
        error = self._outcome()
        self._store.finish_execution(*self._ended(error), dict(self._waits.seconds))
        return error

    async def wind_up(self) -> None:
        """Send nothing more; cancel what is in flight after the grace, or when the user insists."""
        self._dispatcher.drain()
        with anyio.move_on_after(self._common.options.grace_s):
            await self._common.interrupts.insisted.wait()
        self._patience.end()
        self._work_scope.cancel()

    def _begin(self) -> None:
        plan = self._plan
        repair = None
        if self._common.options.retry_errored:
            repair = checkpoint.repair(self._store)
        else:
            checkpoint.check_places(self._store)
        # Before the job is kept: a process that dies here does it again.
        judged = judge_again(plan, self._store)
        missing = missing_bodies(plan, self._store)
        in_flight = self._store.start_execution(
            name=plan.job.name,
            job=plan.job.document,
            base=plan.job.base,
            signature=plan.signature,
            total=plan.total,
            version=__version__,
            samples=plan.job.request.samples,
            provider=plan.job.request.provider,
            base_url=plan.job.request.base_url,
            peer=self._peer,
        )
        self._log.write("start", **started(plan, self._store.execution, self._common.options))
        for hint in hints(plan.job, self._common.options):
            self._note(hint)
        if plan.job.limits.concurrency is None and plan.most_in_flight < MOST:
            self._note(
                f"at most {plan.most_in_flight:,} requests in flight, because of the limit on open "
                "files; raise it for more, for example: ulimit -n 65536"
            )
        for said in (judged, missing, self._run.price_note):
            if said is not None:
                self._note(said)
        if self._run.reuse is not None:
            self._note(told(self._run.reuse))
        if repair is not None:
            self._note_repair(repair)
        if in_flight:
            self._note(
                f"{in_flight} requests were in flight when an earlier execution ended; "
                "they may have been billed, and are sent again"
            )

    def _note_repair(self, repair: checkpoint.Repair) -> None:
        if repair.restored:
            self._note(
                f"{repair.restored} records of the checkpoint did not match their checksums and "
                "were restored from the others and the input"
            )
        if repair.given_up:
            self._note(
                f"{repair.given_up} records of the checkpoint did not match their checksums and "
                "were given up; their rows are sent again"
            )

    async def _with_journal(self) -> None:
        """Keep the journal open until everything that happened is on disk."""
        async with anyio.create_task_group() as keeper:
            await keeper.start(self._journal.run)
            try:
                async with anyio.create_task_group() as helpers:
                    helpers.start_soon(self._note_waits)
                    helpers.start_soon(self._watch_place)
                    await self._send_everything()
                    helpers.cancel_scope.cancel()
            finally:
                self._journal.close()

    def _make_client(self) -> Client:
        request, common = self._plan.job.request, self._common
        simulator = common.simulator
        return Client(
            request.wire_format,
            self._plan.credentials,
            common.transport,
            ClientOptions(
                timeout_s=self._plan.job.retry.timeout_s,
                auth=request.auth,
                keep_raw=request.keep_raw,
                reroute=None if simulator is None else (request.base_url, simulator),
            ),
            common.limits.answer_memory,
        )

    def _make_dispatcher(self) -> Dispatcher:
        job, common = self._plan.job, self._common
        errors = ErrorBudget(job.limits.max_errors, common.errors)
        prices = price_book(job, self._run.price_provider)
        dispatcher = Dispatcher(
            client=self._make_client(),
            journal=ObservedJournal(
                self._journal,
                store=self._store,
                prices=prices,
                progress=common.progress,
                log=self._log,
            ),
            limits=common.limits,
            waits=self._waits,
            errors=errors,
            prices=prices,
            config=job.retry,
            review=self._plan.review,
            tools=self._plan.tools,
            max_turns=self._plan.job.tools.max_turns,
            account=job.request.api_key_env,
            answered_before=self._store.has_answered(self._peer),
        )
        common.errors.on_spent(dispatcher.stop)
        return dispatcher

    async def _send_everything(self) -> None:
        send, receive = anyio.create_memory_object_stream["list[PlannedRequest]"](1)
        with self._work_scope:
            async with receive, anyio.create_task_group() as work:
                work.start_soon(self._feed_all, send)
                work.start_soon(self._dispatcher.run, receive)

    async def _feed_all(self, send: ObjectSendStream[list[PlannedRequest]]) -> None:
        async with send:
            try:
                await self._feed.run(send)
            except BatchrunError as error:
                self._error = error
                self._dispatcher.drain()

    async def _note_waits(self) -> None:
        """Tell those who ask for the status of this run what it is waiting for."""
        noted = None
        while True:
            await anyio.sleep(NOTE_S)
            if (reason := self._common.limits.waiting_for()) != noted:
                await self._journal.call(self._store.note_waiting, reason)
                self._log.write("waiting", reason=reason)
                noted = reason

    async def _watch_place(self) -> None:
        """Stop when somebody removes or moves the run directory: nothing could be resumed."""
        while True:
            await anyio.sleep(REFRESH_S)
            if not self._store.is_in_place():
                await self.wind_up()

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

    def _note(self, message: str) -> None:
        label = self._run.label
        self._common.progress.note(f"{label}: {message}" if label else message)
        self._log.write("note", message=message)

    def _note_from_thread(self, message: str) -> None:
        anyio.from_thread.run_sync(self._note, message)

    def _outcome(self) -> BatchrunError | None:
        dispatcher, interrupts = self._dispatcher, self._common.interrupts
        if self._error is not None:
            return self._error
        if dispatcher.stopped is not None:
            return RunStopped(dispatcher.stopped)
        if interrupts.first is not None:
            return Interrupted(interrupts.first, "interrupted; all answers are saved")
        if dispatcher.sent and not dispatcher.succeeded:
            return RunStopped(Stop(RunEnd.NOTHING_SUCCEEDED, f"{dispatcher.last_error}"))
        return None

    def _ended(self, error: BatchrunError | None) -> tuple[RunEnd, str | None]:
        """Return what ended the execution, and why where there is more to say."""
        if isinstance(error, RunStopped):
            return error.stop.end, error.stop.reason
        if isinstance(error, Interrupted):
            return RunEnd.INTERRUPTED, error.signum.name
        if error is not None:
            return RunEnd.FAILED, str(error)
        is_whole = self._common.options.rows is None
        return RunEnd.FINISHED if is_whole else RunEnd.SAMPLED, None


def ours(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return our own error from a group of tasks' errors, or the group when there is none."""
    for error in group.exceptions:
        found = ours(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, BatchrunError):
            return found
    return group


class ObservedJournal:
    """The checkpoint's journal, with the bar and the log told once something is safe.

    The prices that are used are kept beside the attempts.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        store: Checkpoint,
        prices: PriceBook,
        progress: Progress,
        log: EventLog,
    ) -> None:
        self._journal = journal
        self._store = store
        self._prices = NewPrices(prices)
        self._progress = progress
        self._log = log
        # Attempts that are counted already and may be the last of their row all the same: of
        # conversations that go on, and of rows whose refusal may be the run's fault.
        self._counted: dict[int, int] = {}

    async def begin(self, start: AttemptStart) -> None:
        """See `dispatch.Journal`, as for the following."""
        await self._journal.begin(start)

    async def fail(self, attempt: Attempt) -> None:
        """An attempt failed, and the request goes on or stays pending."""
        await self._journal.fail(attempt)
        self._progress.used(attempt)
        self._counted[attempt.key] = attempt.number
        self._log.failed(attempt)
        await self._note_price(attempt)

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """A conversation has a turn of the model."""
        await self._journal.turn(turn, attempt)
        if attempt is not None:
            self._progress.used(attempt)
            self._counted[attempt.key] = attempt.number
        await self._note_price(attempt)

    async def finish(self, result: Result) -> None:
        """A request has its result."""
        await self._journal.finish(result)
        is_counted = self._counted.pop(result.key, None) == result.last.number
        self._progress.finished(result, is_counted=is_counted)
        self._log.finished(result)
        await self._note_price(result.last)

    async def _note_price(self, attempt: Attempt | None) -> None:
        """Keep by which price a model's costs are counted, when it is new."""
        if attempt is None:
            return
        models, now = (attempt.model, attempt.asked_model), datetime.now(UTC)
        price = self._prices.of(attempt.usage, *models, billing=attempt.billing, at=now)
        if price is not None:
            await self._journal.call(note_price, self._store, price)


def started(plan: Prepared, execution: int, options: RunOptions) -> dict[str, Any]:
    """Return what the log says of an execution that begins."""
    request = plan.job.request
    return {
        "version": __version__,
        "execution": execution,
        "directory": str(plan.directory),
        "rows": plan.total,
        "format": request.format,
        "base_url": request.base_url,
        "provider": request.provider_name,
        "model": request.model,
        "simulated": options.simulate is not None,
        "date": plan.job.date,
    }

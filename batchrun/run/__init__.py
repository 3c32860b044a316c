"""Runs a job: the one file that knows the order of the stages.

prepare → open the checkpoint → (read → render → plan → dispatch → record) → outputs → report
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import signal
from concurrent import futures
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from batchrun import checkpoint
from batchrun.dispatch import LIVE
from batchrun.errors import BatchrunError, JobError, keyboard_interrupt
from batchrun.limits import CostBudget, ErrorTally, Limits, Waits
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import counted
from batchrun.run.conclusion import InterruptibleRows, RunReport, conclude
from batchrun.run.events import EventFile, event_file
from batchrun.run.execution import REFRESH_S, Execution, Shared, first_batchrun_error
from batchrun.run.interrupts import Interrupts, counted_sigint
from batchrun.run.pipeline import OpenRun, ask_consent, needs_consent, reuse_of, with_given_price
from batchrun.run.preparation import (
    SIMULATED_BATCHES,
    Prepared,
    RunOptions,
    check_places,
    over_answers,
    prepare,
    run_directory,
)
from batchrun.run.progress import Progress, Show
from batchrun.workers import RayCluster, WorkersFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from batchrun.checkpoint import Reuse
    from batchrun.client import TransportPort
    from batchrun.dispatch import DispatcherFactory
    from batchrun.job import Job, LimitsConfig


# `--workers auto`: one process sends more than this per second, and a shorter run is over before further
# processes are of use.
FEWEST_PER_S_FOR_WORKERS = 1_500
FEWEST_FOR_WORKERS = 20_000
# In a notebook Ctrl-C is noticed within this time.
POLL_S = 0.1


class Report(Protocol):
    """How runs ended; `error` is what ended them early."""

    @property
    def error(self) -> BatchrunError | None: ...


R = TypeVar("R", bound=Report)


def run_job(job: Job, options: RunOptions | None = None) -> RunReport:
    """Run or resume a job and return when it has ended.

    If an event loop is already running, as in a notebook, the job runs in another thread.

    Raises:
        JobError: when the job or the input is wrong; nothing was sent.
        CheckpointError: when the run directory cannot be used.
        KeyboardInterrupt: after Ctrl-C if an event loop is already running; all answers are saved.
            Otherwise the report has the error `Interrupted`.
    """
    return run_loop(partial(run_with_interrupts, job, options or RunOptions()))


async def arun_job(job: Job, options: RunOptions | None = None) -> RunReport:
    """Run or resume a job inside an event loop; see `run_job`."""
    return await run_with_interrupts(job, options or RunOptions(), Interrupts())


async def run_with_interrupts(job: Job, options: RunOptions, interrupts: Interrupts) -> RunReport:
    """Run or resume a job inside an event loop; `interrupts` end it like signals."""
    if job.cells:
        raise JobError(f"{job.name}: has a [matrix] of {len(job.cells)} cells; call run_matrix")
    check_places(job, options)
    (report,) = await run_together([job], options, interrupts)
    return report


def run_loop(function: Callable[[Interrupts], Awaitable[R]]) -> R:
    """Run an asynchronous function in a new event loop: uvloop's if it is installed.

    Raises:
        KeyboardInterrupt: after Ctrl-C if another event loop is already running.
    """
    backend = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(_with_interrupts, function, backend_options=backend)
    with counted_sigint() as sigint, start_blocking_portal(backend_options=backend) as portal:
        interrupts = portal.call(Interrupts)
        future = portal.start_task_soon(function, interrupts)
        forwarded = 0
        # polars makes the system resume waits for locks after a signal: Python sees the signal only
        # when a wait times out.
        while not futures.wait([future], timeout=POLL_S).done:
            if sigint.value > forwarded:
                forwarded += 1
                if not interrupts.forward(signal.SIGINT):
                    future.cancel()
    if sigint.value:
        raise _interrupted(future)
    return future.result()


async def _with_interrupts(function: Callable[[Interrupts], Awaitable[R]]) -> R:
    return await function(Interrupts())


def _interrupted(future: futures.Future[R]) -> BaseException:
    """Return what ends the call after Ctrl-C, when the run has ended."""
    if future.cancelled():
        return keyboard_interrupt("interrupted; nothing was sent")
    error = future.exception() or future.result().error
    if error is None or isinstance(error, BatchrunError):
        return keyboard_interrupt(f"{error or 'interrupted; all answers are saved'}")
    return error


async def run_together(
    jobs: Sequence[Job], options: RunOptions, interrupts: Interrupts, *, spent_before: int = 0
) -> list[RunReport]:
    """Run or resume jobs at the same time, with shared limits and one budget.

    All use the `[limits]` of the first. None sends anything before all have been checked.

    Args:
        jobs: each has a run directory of its own.
        options: how to run them.
        interrupts: the signals that end them.
        spent_before: what other runs have spent of `max_cost_usd`, in pico-dollars.
    """
    with event_file(options.log_file) as log:
        return await _run_together(jobs, options, interrupts, spent_before, log)


async def _run_together(
    jobs: Sequence[Job],
    options: RunOptions,
    interrupts: Interrupts,
    spent_before: int,
    log: EventFile,
) -> list[RunReport]:
    for job in jobs:
        checkpoint.refuse_locked(run_directory(job, options))
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    plans: list[Prepared] = []
    for job in jobs:
        plans.append(await in_thread(prepare, job, options, plans[0] if plans else None))
    options = replace(options, dispatcher=dispatcher_of(plans, options))
    with ExitStack() as stack:
        runs = [stack.enter_context(_opened(plan, options)) for plan in plans]
        runs = [replace(run, reuse=await _agreed(run, options)) for run in runs]
        runs = [await _agreed_judges(run, options) for run in runs]
        with interrupts.caught():
            return await _execute(runs, options, interrupts, spent_before, log)


def dispatcher_of(plans: Sequence[Prepared], options: RunOptions) -> DispatcherFactory:
    """Return the way to dispatch: in this process, or from workers.

    Raises:
        JobError: when the workers cannot do what the options say.
    """
    count, on = options.workers, options.on
    if count is None and on is None:
        return options.dispatcher
    if options.dispatcher.name != LIVE.name:
        raise JobError(
            "workers send requests one by one; leave out either --batch, or --workers and --on"
        )
    if options.transport is not None:
        raise JobError(
            "workers have transports of their own; leave out either workers or transport"
        )
    if on is not None:
        return WorkersFactory(None if count == "auto" else count, RayCluster.of(on))
    if count == "auto":
        rows = sum(plan.total * plan.job.request.samples for plan in plans)
        return (
            WorkersFactory() if calls_for_workers(rows, plans[0].job.limits) else options.dispatcher
        )
    return WorkersFactory(count)


def calls_for_workers(requests: int, limits: LimitsConfig) -> bool:
    """Say whether a run may be so fast and so long that one process holds it up."""
    per_minute = limits.requests_per_minute or math.inf
    return requests >= FEWEST_FOR_WORKERS and per_minute >= 60 * FEWEST_PER_S_FOR_WORKERS


@dataclass(frozen=True, slots=True)
class PlanEnd:
    """How a plan without outputs ended; `error` is what ended it early."""

    error: BatchrunError | None = None


async def run_plan(plan: Prepared, options: RunOptions, interrupts: Interrupts) -> PlanEnd:
    """Send what a plan has to send, and write no outputs."""
    with event_file(options.log_file) as log, _opened(plan, options) as opened:
        run = replace(opened, reuse=await _agreed(opened, options))
        with interrupts.caught():
            try:
                async with _shared([run], options, interrupts, 0, log) as shared:
                    execution = Execution(run, shared)
                    with shared.progress:
                        (error,) = await _run_all([execution], shared)
            except BaseExceptionGroup as group:
                raise first_batchrun_error(group) from group
    return PlanEnd(error)


@contextmanager
def _opened(plan: Prepared, options: RunOptions) -> Iterator[OpenRun]:
    with (
        checkpoint.open_directory(plan.directory, new=options.new, files=plan.job.output.files),
        closing(checkpoint.Checkpoint(plan.directory, writable=True)) as store,
    ):
        plan, provider, note = with_given_price(plan, store)
        label = cell.name if (cell := plan.job.cell) else ""
        with ExitStack() as stack:
            # The directory of an earlier run has been moved with those of its judges.
            kept = replace(options, new=False)
            judges = tuple(stack.enter_context(_opened(judge, kept)) for judge in plan.judges)
            judges = tuple(replace(judge, label=label) for judge in judges)
            yield OpenRun(
                plan,
                store,
                label=label,
                price_provider=provider,
                price_note=note,
                judges=judges,
            )


async def _agreed(run: OpenRun, options: RunOptions) -> Reuse | None:
    """Return which answers a changed plan uses again; ask the user if too many are unused."""
    # Until something has been sent there is nothing to save: a signal ends the run at once.
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    reuse: Reuse | None = await in_thread(reuse_of, run.plan, run.store, options)
    if reuse is not None and needs_consent(reuse, options):
        await in_thread(ask_consent, run.plan, reuse, options.ask)
    return reuse


async def _agreed_judges(run: OpenRun, options: RunOptions) -> OpenRun:
    """Ask the user if too many paid verdicts would be unused, as far as the rows are the same."""
    if run.reuse is not None:
        return run
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    judges = []
    for judge in run.judges:
        plan = await in_thread(over_answers, judge.plan, run.store)
        reuse = await _agreed(replace(judge, plan=plan), options)
        judges.append(replace(judge, reuse=reuse))
    return replace(run, judges=tuple(judges))


async def _execute(
    runs: Sequence[OpenRun],
    options: RunOptions,
    interrupts: Interrupts,
    spent_before: int,
    log: EventFile,
) -> list[RunReport]:
    try:
        async with _shared(runs, options, interrupts, spent_before, log) as shared:
            executions = [Execution(run, shared) for run in runs]
            with shared.progress:
                errors = await _run_all(executions, shared)
            errors = await _judge_all(runs, errors, shared)
    except BaseExceptionGroup as group:
        raise first_batchrun_error(group) from group
    rows = [InterruptibleRows(run.store, interrupts) for run in runs]
    reports = [
        await anyio.to_thread.run_sync(_concluded, *each, options)
        for each in zip(runs, executions, rows, errors, strict=True)
    ]
    for execution, report in zip(executions, reports, strict=True):
        execution.log.ended(report.exit_code, report.error, report.summary())
    return reports


@asynccontextmanager
async def _shared(
    runs: Sequence[OpenRun],
    options: RunOptions,
    interrupts: Interrupts,
    spent_before: int,
    log: EventFile,
) -> AsyncIterator[Shared]:
    """Provide what the runs share while they execute."""
    most = min(run.plan.most_in_flight for run in runs)
    waits = Waits()
    money = _money(runs, spent_before)
    async with anyio.create_task_group() as helpers:
        simulator = None
        if options.simulate is not None:
            from batchrun.simulator import Simulator  # noqa: PLC0415 - slow to load

            # The batches of this run outlive this process, as they would at a provider.
            kept = runs[0].plan.directory / SIMULATED_BATCHES
            config = replace(options.simulate, batch_directory=kept)
            simulator = await helpers.start(Simulator(config).serve)
        shared = Shared(
            options=options,
            limits=Limits(runs[0].plan.job.limits, waits, money=money, most=most),
            waits=waits,
            errors=ErrorTally(),
            transport=options.transport or _transport(most),
            simulator=simulator,
            money=money,
            progress=_progress(runs, options, money),
            interrupts=interrupts,
            events=log,
        )
        try:
            yield shared
        finally:
            with anyio.CancelScope(shield=True):
                await shared.transport.aclose()
        helpers.cancel_scope.cancel()


def _transport(connections: int) -> TransportPort:
    from batchrun.client import PyreqwestTransport  # noqa: PLC0415 - slow to load

    return PyreqwestTransport(connections=connections)


def _money(runs: Sequence[OpenRun], spent_before: int) -> CostBudget:
    cap = runs[0].plan.job.limits.max_cost_usd
    every = [each for run in runs for each in (run, *run.judges)]
    spent = spent_before + sum(run.store.spent() for run in every)
    unsure = sum(run.store.spent() - run.store.known_cost() for run in every)
    # What is in batches may still cost less: it is reserved, not spent.
    reserved = sum(checkpoint.reserved_by_batches(run.store) for run in every)
    budget = CostBudget(
        None if cap is None else int(cap * PICO_PER_USD), spent - reserved, unsure - reserved
    )
    budget.reserve(reserved)
    return budget


def _progress(runs: Sequence[OpenRun], options: RunOptions, money: CostBudget) -> Progress:
    jobs = [run.plan.job for run in runs]
    unit = "row" if all(job.request.samples == 1 for job in jobs) else "sample"
    unit = "verdict" if runs[0].plan.answers is not None else unit
    rows = [run.plan.total if options.rows is None else len(options.rows) for run in runs]
    total = sum(n * job.request.samples for n, job in zip(rows, jobs, strict=True))
    show = Show.NOTHING if options.quiet else Show.AUTO
    return Progress(jobs[0].name, total, unit=unit, show=show, money=money)


async def _run_all(executions: Sequence[Execution], shared: Shared) -> list[BatchrunError | None]:
    """Run all at the same time; return what ended each early."""
    errors: dict[Execution, BatchrunError | None] = {}

    async def run(execution: Execution) -> None:
        errors[execution] = await execution.run()

    async with anyio.create_task_group() as helpers:
        helpers.start_soon(_show_waits, shared)
        helpers.start_soon(_handle_signals, executions, shared)
        async with anyio.create_task_group() as work:
            for execution in executions:
                work.start_soon(run, execution)
        helpers.cancel_scope.cancel()
    return [errors[execution] for execution in executions]


async def _judge_all(
    runs: Sequence[OpenRun], errors: Sequence[BatchrunError | None], shared: Shared
) -> list[BatchrunError | None]:
    """Let the judges of the runs that ended well judge what they have not judged yet.

    Returns:
        What ended each run early, its own end or that of a judge.
    """
    ended = list(errors)
    asked = [
        (
            number,
            replace(
                judge, plan=await anyio.to_thread.run_sync(over_answers, judge.plan, run.store)
            ),
        )
        for number, run in enumerate(runs)
        if errors[number] is None
        for judge in run.judges
    ]
    if not asked:
        return ended
    judging = _shared_by_judges([judge for _, judge in asked], shared)
    executions = [Execution(judge, judging) for _, judge in asked]
    with judging.progress:
        found = await _run_all(executions, judging)
    for (number, _), error in zip(asked, found, strict=True):
        ended[number] = ended[number] or error
    return ended


def _shared_by_judges(judges: Sequence[OpenRun], shared: Shared) -> Shared:
    """Return what judges share: the limits of the run, a bar and a count of errors of their own."""
    name = judges[0].plan.job.name if len(judges) == 1 else "judges"
    total = sum(judge.plan.total * judge.plan.job.request.samples for judge in judges)
    show = Show.NOTHING if shared.options.quiet else Show.AUTO
    progress = Progress(name, total, unit="verdict", show=show, money=shared.money)
    return replace(shared, errors=ErrorTally(), progress=progress)


async def _show_waits(shared: Shared) -> None:
    while True:
        await anyio.sleep(REFRESH_S)
        shared.progress.waiting(shared.limits.waiting_for())


async def _handle_signals(executions: Sequence[Execution], shared: Shared) -> None:
    """After the first signal, finish what is in flight; after the second, cancel it."""
    await shared.interrupts.stop_requested.wait()
    in_flight = sum(execution.in_flight for execution in executions)
    requests = counted(in_flight, "request")
    shared.progress.note(
        f"stopping: waiting up to {shared.options.grace_s:g} s for {requests} in flight; "
        f"interrupt again (Ctrl-C) to cancel {'it' if in_flight == 1 else 'them'}"
    )
    async with anyio.create_task_group() as group:
        for execution in executions:
            group.start_soon(execution.wind_up)


def _concluded(
    run: OpenRun,
    execution: Execution,
    rows: InterruptibleRows,
    error: BatchrunError | None,
    options: RunOptions,
) -> RunReport:
    if options.rows is not None:
        return RunReport(checkpoint.totals(run.store), run.plan.directory, error=error)
    is_placed = execution.is_planned or not run.store.has_unused_results()
    return conclude(run.plan, run.store, rows, error, is_placed)


__all__ = [
    "PlanEnd",
    "RunOptions",
    "RunReport",
    "arun_job",
    "run_job",
    "run_plan",
    "run_together",
    "run_with_interrupts",
]

"""Steps for all runs of one process: opening them, sharing limits and money, executing, judging."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun import checkpoint
from batchrun.dispatch import BATCH
from batchrun.limits import CostBudget, ErrorTally, Limits, Waits
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import counted
from batchrun.run.changed_jobs import ask_consent, needs_consent, reuse_of, with_given_price
from batchrun.run.conclusion import InterruptibleRows, RunReport, conclude
from batchrun.run.execution import REFRESH_S, Execution, Shared
from batchrun.run.pipeline import OpenRun
from batchrun.run.preparation import Prepared, over_answers
from batchrun.run.progress import Progress, RunCosts, Show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from pathlib import Path

    from batchrun.checkpoint import Reuse
    from batchrun.client import TransportPort
    from batchrun.errors import BatchrunError
    from batchrun.job import Job
    from batchrun.run.events import EventFile
    from batchrun.run.interrupts import Interrupts
    from batchrun.run.run_options import RunOptions


@contextmanager
def opened_run(plan: Prepared, options: RunOptions) -> Iterator[OpenRun]:
    """Lock the directory of a run and open its checkpoint, and those of its judges."""
    with (
        checkpoint.open_directory(plan.directory, new=options.new, files=plan.job.output.files),
        closing(checkpoint.Checkpoint(plan.directory, writable=True)) as store,
    ):
        plan, provider, note = with_given_price(plan, store)
        label = cell.name if (cell := plan.job.cell) else ""
        with ExitStack() as stack:
            # The directory of an earlier run has been moved with those of its judges.
            kept = replace(options, new=False)
            judges = tuple(stack.enter_context(opened_run(judge, kept)) for judge in plan.judges)
            judges = tuple(replace(judge, label=label) for judge in judges)
            yield OpenRun(
                plan,
                store,
                label=label,
                price_provider=provider,
                price_note=note,
                judges=judges,
            )


async def confirmed_reuse(run: OpenRun, options: RunOptions) -> Reuse | None:
    """Return which answers a changed plan reuses; ask the user if too many would be unused."""
    # Until something has been sent there is nothing to save: a signal ends the run at once.
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    reuse: Reuse | None = await in_thread(reuse_of, run.plan, run.store, options)
    if reuse is not None and needs_consent(reuse, options):
        await in_thread(ask_consent, run.plan, reuse, options.ask)
    return reuse


async def confirmed_judges(run: OpenRun, options: RunOptions) -> OpenRun:
    """Ask the user if too many paid verdicts would be unused; not if the rows have changed, too."""
    if run.reuse is not None:
        return run
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    judges = []
    for judge in run.judges:
        plan = await in_thread(over_answers, judge.plan, run.store)
        reuse = await confirmed_reuse(replace(judge, plan=plan), options)
        judges.append(replace(judge, reuse=reuse))
    return replace(run, judges=tuple(judges))


@asynccontextmanager
async def shared_by(
    plans: Sequence[Prepared],
    money: CostBudget,
    options: RunOptions,
    interrupts: Interrupts,
    log: EventFile,
) -> AsyncIterator[Shared]:
    """Provide the objects that runs share while they execute."""
    most = min(plan.most_in_flight for plan in plans)
    waits = Waits()
    # The batches of this run outlive this process, as they would at a provider.
    kept = plans[0].directory / checkpoint.SIMULATED_BATCHES
    async with anyio.create_task_group() as helpers:
        simulator = None
        if options.simulator is not None:
            from batchrun.simulator import Simulator  # noqa: PLC0415 - slow to load

            config = replace(options.simulator, batch_directory=kept)
            simulator = await helpers.start(Simulator(config).serve)
        shared = Shared(
            options=options,
            limits=Limits(plans[0].job.limits, waits, money=money, most=most),
            waits=waits,
            errors=ErrorTally(),
            transport=options.transport or _transport(most),
            simulator=simulator,
            money=money,
            progress=_progress(plans, options, money),
            interrupts=interrupts,
            events=log,
        )
        try:
            yield shared
        finally:
            with anyio.CancelScope(shield=True):
                await shared.transport.aclose()
        helpers.cancel_scope.cancel()
    if kept.is_dir() and not any(_has_open_batches(plan.directory) for plan in plans):
        shutil.rmtree(kept, ignore_errors=True)


def _has_open_batches(directory: Path) -> bool:
    """Return whether a run, or its parts, or one of their judges has batches that are not collected."""
    runs = checkpoint.part_folders(directory) or [directory]
    for each in (each for run in runs for each in (run, *checkpoint.judge_folders(run))):
        with closing(checkpoint.Checkpoint(each, writable=False)) as store:
            if checkpoint.has_open_batches(store):
                return True
    return False


def _transport(connections: int) -> TransportPort:
    from batchrun.client import PyreqwestTransport  # noqa: PLC0415 - slow to load

    return PyreqwestTransport(connections=connections)


def money_of(runs: Sequence[OpenRun], options: RunOptions, spent_before: int = 0) -> CostBudget:
    """Return the cost limit of runs, with their costs so far.

    Args:
        runs: the open runs.
        options: how to run them.
        spent_before: cost of other runs, in pico-dollars.
    """
    stores = [each.store for run in runs for each in (run, *run.judges)]
    spending = spending_of(stores) + Spending(spent_before)
    return budget_of(runs[0].plan.job, spending, options)


@dataclass(frozen=True, slots=True)
class Spending:
    """The costs of runs, in pico-dollars.

    Attributes:
        spent: an upper bound of the costs.
        unsure: the part of it that may not have been billed.
        reserved: the part of it that is reserved for open batches, and may become less.
    """

    spent: int = 0
    unsure: int = 0
    reserved: int = 0

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.spent + other.spent, self.unsure + other.unsure, self.reserved + other.reserved
        )


def spending_of(stores: Iterable[checkpoint.Checkpoint]) -> Spending:
    """Add up the costs of runs so far."""
    found = Spending()
    for store in stores:
        spent = store.spent()
        reserved = checkpoint.reserved_by_batches(store)
        found += Spending(spent, spent - store.known_cost(), reserved)
    return found


def budget_of(job: Job, before: Spending, options: RunOptions) -> CostBudget:
    """Return the cost limit of a job, with the costs so far."""
    cap, reserved = job.limits.max_cost_usd, before.reserved
    pico = None if cap is None else int(cap * PICO_PER_USD)
    # Open batches are reserved, not spent: when they are collected, the rest is free again.
    budget = CostBudget(
        pico,
        before.spent - reserved,
        before.unsure - reserved,
        awaits_batches=options.dispatcher is BATCH,
    )
    budget.reserve(reserved)
    return budget


def _progress(plans: Sequence[Prepared], options: RunOptions, money: CostBudget) -> Progress:
    jobs = [plan.job for plan in plans]
    unit = "row" if all(job.request.samples == 1 for job in jobs) else "sample"
    unit = "verdict" if plans[0].answers is not None else unit
    rows = [plan.total if options.rows is None else len(options.rows) for plan in plans]
    total = sum(n * job.request.samples for n, job in zip(rows, jobs, strict=True))
    show = Show.NOTHING if options.quiet else Show.AUTO
    costs = RunCosts(money, are_simulated=options.simulator is not None)
    return Progress(jobs[0].name, total, unit=unit, show=show, costs=costs)


async def run_all(executions: Sequence[Execution], shared: Shared) -> list[BatchrunError | None]:
    """Run all at the same time; return the error that ended each early."""
    errors: dict[Execution, BatchrunError | None] = {}

    async def run(execution: Execution) -> None:
        errors[execution] = await execution.run()

    async with anyio.create_task_group() as helpers:
        helpers.start_soon(_show_waits, executions, shared)
        helpers.start_soon(_handle_signals, executions, shared)
        async with anyio.create_task_group() as work:
            for execution in executions:
                work.start_soon(run, execution)
        helpers.cancel_scope.cancel()
    return [errors[execution] for execution in executions]


async def judge_all(
    runs: Sequence[OpenRun], errors: Sequence[BatchrunError | None], shared: Shared
) -> list[BatchrunError | None]:
    """Let the judges of the runs that ended without error judge the answers without a verdict.

    Returns:
        The error that ended each run early, its own or that of a judge.
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
        found = await run_all(executions, judging)
    for (number, _), error in zip(asked, found, strict=True):
        ended[number] = ended[number] or error
    return ended


def _shared_by_judges(judges: Sequence[OpenRun], shared: Shared) -> Shared:
    """Return what judges share: the limits of the run, with a separate bar and count of errors."""
    name = judges[0].plan.job.name if len(judges) == 1 else "judges"
    total = sum(judge.plan.total * judge.plan.job.request.samples for judge in judges)
    show = Show.NOTHING if shared.options.quiet else Show.AUTO
    costs = RunCosts(shared.money, are_simulated=shared.options.simulator is not None)
    progress = Progress(name, total, unit="verdict", show=show, costs=costs)
    return replace(shared, errors=ErrorTally(), progress=progress)


async def _show_waits(executions: Sequence[Execution], shared: Shared) -> None:
    most_s = max(execution.max_wait_s for execution in executions)
    while True:
        await anyio.sleep(REFRESH_S)
        shared.progress.waiting(shared.limits.waiting_for())
        if (error := shared.limits.waits_after()) is not None:
            shared.progress.failing(error, most_s)


async def _handle_signals(executions: Sequence[Execution], shared: Shared) -> None:
    """After the first signal, finish what is in flight; after the second, cancel it."""
    await shared.interrupts.stop_requested.wait()
    in_flight = sum(execution.in_flight for execution in executions)
    requests = counted(in_flight, "request")
    shared.progress.note(
        "stopping: interrupt again (Ctrl-C) to end at once"
        if not in_flight
        else f"stopping: waiting up to {shared.options.grace_s:g} s for {requests} in flight; "
        f"interrupt again (Ctrl-C) to cancel {'it' if in_flight == 1 else 'them'}"
    )
    async with anyio.create_task_group() as group:
        for execution in executions:
            group.start_soon(execution.wind_up)


def concluded(
    run: OpenRun,
    execution: Execution,
    rows: InterruptibleRows,
    error: BatchrunError | None,
    options: RunOptions,
) -> RunReport:
    """Write the outputs of a run that has ended; return its state."""
    if options.rows is not None:
        return RunReport(checkpoint.totals(run.store), run.plan.directory, error=error)
    is_placed = execution.is_planned or not run.store.has_unused_results()
    return conclude(run.plan, run.store, rows, error, is_placed)

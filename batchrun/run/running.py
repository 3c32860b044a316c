"""Runs a job: the only file that knows the order of the stages.

prepare → open the checkpoint → (read → render → plan → dispatch → record) → outputs → report
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun import checkpoint
from batchrun.dispatch import LIVE
from batchrun.errors import BatchrunError, JobError
from batchrun.job import Job
from batchrun.run.conclusion import InterruptibleRows, RunReport
from batchrun.run.division import division_of
from batchrun.run.events import EventFile, event_file
from batchrun.run.execution import Execution, first_batchrun_error
from batchrun.run.interrupts import Interrupts
from batchrun.run.loop_threads import run_loop
from batchrun.run.partitioned_execution import DividedRun, run_in_parts
from batchrun.run.preparation import Prepared, prepare
from batchrun.run.run_directories import check_written_paths, run_directory
from batchrun.run.run_options import RunOptions
from batchrun.run.steps import (
    concluded,
    confirmed_judges,
    confirmed_reuse,
    judge_all,
    money_of,
    opened_run,
    run_all,
    shared_by,
)
from batchrun.workers import RayCluster, WorkersFactory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.dispatch import DispatcherFactory
    from batchrun.job import LimitsConfig
    from batchrun.run.pipeline import OpenRun


# `--workers auto`: one process sends more than this per second, and a shorter run is over before further
# processes are of use.
FEWEST_PER_S_FOR_WORKERS = 1_500
FEWEST_FOR_WORKERS = 20_000


def run_job(job: Job | Path | str, options: RunOptions | None = None) -> RunReport:
    """Run or resume a job, or that of a job file, and return when it has ended.

    If an event loop is already running, as in a notebook, the job runs in another thread.

    Raises:
        JobError: when the job or the input is wrong; nothing was sent.
        CheckpointError: when the run directory cannot be used.
        KeyboardInterrupt: after Ctrl-C if an event loop is already running; all answers are saved.
            Otherwise the report has the error `Interrupted`.
    """
    return run_loop(partial(run_with_interrupts, _job(job), options or RunOptions()))


async def arun_job(job: Job | Path | str, options: RunOptions | None = None) -> RunReport:
    """Run or resume a job inside an event loop; see `run_job`."""
    return await run_with_interrupts(_job(job), options or RunOptions(), Interrupts())


def _job(job: Job | Path | str) -> Job:
    return job if isinstance(job, Job) else Job.load(job)


async def run_with_interrupts(job: Job, options: RunOptions, interrupts: Interrupts) -> RunReport:
    """Run or resume a job inside an event loop; `interrupts` end it like signals."""
    if job.cells:
        raise JobError(f"{job.name}: has a [matrix] of {len(job.cells)} cells; call run_matrix")
    check_written_paths(job, options)
    (report,) = await run_together([job], options, interrupts)
    return report


async def run_together(
    jobs: Sequence[Job], options: RunOptions, interrupts: Interrupts, *, spent_before: int = 0
) -> list[RunReport]:
    """Run or resume jobs at the same time, with shared limits and one budget.

    All use the `[limits]` of the first. Nothing is sent before all have been checked.

    Args:
        jobs: the jobs; each has a separate run directory.
        options: how to run them.
        interrupts: the signals that end them.
        spent_before: cost of other runs that counts against `max_cost_usd`, in pico-dollars.
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
    # Before the input is read, which can take long. The lock itself is taken when the run is opened.
    for job in jobs:
        checkpoint.refuse_locked(run_directory(job, options))
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    plans: list[Prepared] = []
    for job in jobs:
        plans.append(await in_thread(prepare, job, options, plans[0] if plans else None))
    options = replace(options, dispatcher=dispatcher_of(plans, options))
    divided = [DividedRun(plan, division_of(plan, options)) for plan in plans]
    if any(run.parts is not None for run in divided):
        return await run_in_parts(divided, options, interrupts, spent_before, log)
    with ExitStack() as stack:
        runs = [stack.enter_context(opened_run(plan, options)) for plan in plans]
        runs = [replace(run, reuse=await confirmed_reuse(run, options)) for run in runs]
        runs = [await confirmed_judges(run, options) for run in runs]
        with interrupts.caught():
            return await _execute(runs, options, interrupts, spent_before, log)


def dispatcher_of(plans: Sequence[Prepared], options: RunOptions) -> DispatcherFactory:
    """Return the dispatcher factory: for this process, or for workers.

    Raises:
        JobError: if workers do not support the other options.
    """
    count, on = options.workers, options.on
    if count is None and on is None:
        return options.dispatcher
    if options.dispatcher.name != LIVE.name:
        raise JobError(
            "workers send requests one by one; remove either --batch, or --workers and --on"
        )
    if options.transport is not None:
        raise JobError("workers use their own transports; remove either workers or transport")
    if on is not None:
        return WorkersFactory(None if count == "auto" else count, RayCluster.of(on))
    if count == "auto":
        rows = sum(plan.total * plan.job.request.samples for plan in plans)
        return (
            WorkersFactory() if calls_for_workers(rows, plans[0].job.limits) else options.dispatcher
        )
    return WorkersFactory(count)


def calls_for_workers(requests: int, limits: LimitsConfig) -> bool:
    """Return whether a run may be so fast and so long that one process would slow it down."""
    per_minute = limits.requests_per_minute or math.inf
    return requests >= FEWEST_FOR_WORKERS and per_minute >= 60 * FEWEST_PER_S_FOR_WORKERS


@dataclass(frozen=True, slots=True)
class PlanEnd:
    """How a plan without outputs ended; `error` is the error that ended it early."""

    error: BatchrunError | None = None


async def run_plan(plan: Prepared, options: RunOptions, interrupts: Interrupts) -> PlanEnd:
    """Send the requests of a plan, and write no outputs."""
    with event_file(options.log_file) as log, opened_run(plan, options) as opened:
        run = replace(opened, reuse=await confirmed_reuse(opened, options))
        with interrupts.caught():
            try:
                async with shared_by(
                    [run.plan], money_of([run], options), options, interrupts, log
                ) as shared:
                    execution = Execution(run, shared)
                    with shared.progress:
                        (error,) = await run_all([execution], shared)
            except BaseExceptionGroup as group:
                raise first_batchrun_error(group) from group
    return PlanEnd(error)


async def _execute(
    runs: Sequence[OpenRun],
    options: RunOptions,
    interrupts: Interrupts,
    spent_before: int,
    log: EventFile,
) -> list[RunReport]:
    try:
        money = money_of(runs, options, spent_before)
        async with shared_by([run.plan for run in runs], money, options, interrupts, log) as shared:
            executions = [Execution(run, shared) for run in runs]
            with shared.progress:
                errors = await run_all(executions, shared)
            errors = await judge_all(runs, errors, shared)
    except BaseExceptionGroup as group:
        raise first_batchrun_error(group) from group
    rows = [InterruptibleRows(run.store, interrupts) for run in runs]
    reports = [
        await anyio.to_thread.run_sync(concluded, *each, options)
        for each in zip(runs, executions, rows, errors, strict=True)
    ]
    for execution, report in zip(executions, reports, strict=True):
        execution.log.ended(report.exit_code, report.error, report.summary())
    return reports

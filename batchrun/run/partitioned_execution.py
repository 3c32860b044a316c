"""Runs partitioned runs: one part after the other, with common limits and money.

Several runs, such as the cells of a matrix, work on their first parts at the same time, then on their second
parts, and so on. With batches, all parts are worked on at the same time, because a batch may take a day.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun import checkpoint
from batchrun.checkpoint import Reuse
from batchrun.dispatch import BATCH, BatchMode
from batchrun.errors import (
    BatchesOut,
    CheckpointError,
    Interrupted,
    JobError,
    OutputError,
    RunEnd,
    RunStopped,
)
from batchrun.report.open_batches import come_back_together, keep_running
from batchrun.run.changed_jobs import ask_consent, needs_consent, reuse_of
from batchrun.run.conclusion import InterruptibleRows, RunReport, Written
from batchrun.run.division import division_notes, options_of_part, plan_of_part
from batchrun.run.execution import Execution, first_batchrun_error
from batchrun.run.partitioned_run import PartitionedRun
from batchrun.run.parts import PartList, missing_message, missing_parts, write_parts
from batchrun.run.run_folders import totals_of_run
from batchrun.run.steps import (
    Spending,
    budget_of,
    concluded,
    confirmed_judges,
    confirmed_reuse,
    judge_all,
    opened_run,
    run_all,
    shared_by,
    spending_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from signal import Signals

    from batchrun.errors import BatchrunError
    from batchrun.run.events import EventFile
    from batchrun.run.execution import Shared
    from batchrun.run.interrupts import Interrupts
    from batchrun.run.pipeline import OpenRun
    from batchrun.run.preparation import Prepared
    from batchrun.run.run_options import RunOptions

INTERRUPTED = "interrupted; all answers are saved"
# Parts that are read and cut into batches at the same time: each holds a batch in memory.
MOST_PLANNING = 2


class EndedParts:
    """How the parts of a run have ended in this execution.

    Attributes:
        reports: reports of the parts that have ended.
        succeeded: number of requests that succeeded.
    """

    def __init__(self) -> None:
        self.reports: list[RunReport] = []
        self.succeeded = 0
        self._error: BatchrunError | None = None
        self._nothing_succeeded: RunStopped | None = None

    def add(self, report: RunReport) -> None:
        """Note how a part has ended. While its batches are out, other parts are worked on."""
        self.reports.append(report)
        error = report.error
        if isinstance(error, RunStopped) and _is_without_success(error):
            self._nothing_succeeded = error
        elif not isinstance(error, BatchesOut):
            self._error = self._error or error
        last = report.totals.last_execution
        self.succeeded += 0 if last is None else last.succeeded

    def interrupt(self, signum: Signals) -> None:
        """Note a signal that arrived before the remaining parts."""
        self._error = Interrupted(signum, INTERRUPTED)

    @property
    def error(self) -> BatchrunError | None:
        """The error that ended the run early, so that no further part is worked on.

        A part in which nothing succeeded ends the run only if no other part had a success.
        """
        return self._error or (None if self.succeeded else self._nothing_succeeded)


@dataclass(frozen=True, slots=True)
class DividedRun:
    """A run and its parts.

    Attributes:
        plan: plan of the whole run.
        parts: how it is divided; None for a run in one part.
        number: number of this execution over all parts.
        reuse: earlier answers that a changed plan reuses, by number of the part.
        ended: the parts that have ended in this execution.
    """

    plan: Prepared
    parts: PartList | None
    number: int = 1
    reuse: Mapping[int, Reuse] = field(default_factory=dict)
    ended: EndedParts = field(default_factory=EndedParts)

    @property
    def count(self) -> int:
        """Number of parts."""
        return 1 if self.parts is None else self.parts.count

    def has_begun(self, index: int) -> bool:
        """Return whether a part, counted from 0, has a checkpoint."""
        if self.parts is None:
            return True
        folder = self.plan.directory / self.parts.parts[index].name
        return checkpoint.holds_run(folder)

    def part_plan(self, index: int, options: RunOptions) -> tuple[Prepared, RunOptions]:
        """Return the plan of a part, counted from 0, and its options."""
        if self.parts is None:
            return self.plan, options
        part = self.parts.parts[index]
        return plan_of_part(self.plan, self.parts, part, options), options_of_part(options, part)


async def run_in_parts(
    runs: Sequence[DividedRun],
    options: RunOptions,
    interrupts: Interrupts,
    spent_before: int,
    log: EventFile,
) -> list[RunReport]:
    """Run or resume runs of which at least one is divided.

    Args:
        runs: the runs that this process works on.
        options: how to run them.
        interrupts: the signals that end them.
        spent_before: cost of other runs that counts against `max_cost_usd`, in pico-dollars.
        log: receives the events.
    """
    plans = [run.plan for run in runs]
    with ExitStack() as stack:
        for run in runs:
            if run.parts is not None:
                stack.enter_context(
                    checkpoint.open_directory(
                        run.plan.directory, new=options.new, files=run.plan.job.output.files
                    )
                )
        runs = [await anyio.to_thread.run_sync(_begun, run, options) for run in runs]
        before = Spending(spent_before)
        for run in runs:
            before += await anyio.to_thread.run_sync(_spending, run, options)
        money = budget_of(plans[0].job, before, options)
        with interrupts.caught():
            try:
                async with shared_by(plans, money, options, interrupts, log) as shared:
                    for run in runs:
                        for note in division_notes(run.plan, run.parts) if run.parts else ():
                            shared.progress.note(note)
                    for group in _groups(runs, options):
                        await _run_group(group, shared)
            except BaseExceptionGroup as group:
                raise first_batchrun_error(group) from group
            return [
                await anyio.to_thread.run_sync(_ended, run, options, interrupts) for run in runs
            ]


def _begun(run: DividedRun, options: RunOptions) -> DividedRun:
    """Ask for consent to a changed plan, and write the division of the run.

    Returns:
        The run with the number of this execution, and the answers that it reuses.
    """
    if run.parts is None:
        return run
    directory = run.plan.directory
    if (missing := missing_parts(directory)) and not options.yes and options.simulator is None:
        raise CheckpointError(missing_message(directory, missing))
    number, found = run.number, {}
    for part in run.parts.parts:
        folder = run.plan.directory / part.name
        if not checkpoint.holds_run(folder):
            continue
        plan = plan_of_part(run.plan, run.parts, part, options)
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            number = max([number, *(known + 1 for known in store.executions())])
            reuse = reuse_of(plan, store, options_of_part(options, part))
        if reuse is not None:
            found[part.number] = reuse
    together = _added(list(found.values()))
    if needs_consent(together, options):
        ask_consent(run.plan, together, options.ask)
    write_parts(run.plan.directory, run.parts)
    return replace(run, number=number, reuse=found)


def _added(every: Sequence[Reuse]) -> Reuse:
    return Reuse(
        reused=sum(one.reused for one in every),
        new=sum(one.new for one in every),
        paid=sum(one.paid for one in every),
        left_behind=sum(one.left_behind for one in every),
        left_out=sum(one.left_out for one in every),
        out=sum(one.out for one in every),
    )


def _spending(run: DividedRun, options: RunOptions) -> Spending:
    """Add up the costs of a run and its judges in all parts."""
    if options.new and run.parts is None:
        return Spending()
    home = run.plan.directory
    runs = [home] if run.parts is None else checkpoint.part_folders(home)
    found = Spending()
    for folder in (each for one in runs for each in (one, *checkpoint.judge_folders(one))):
        if checkpoint.holds_run(folder):
            with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
                found += spending_of([store])
    return found


def _groups(runs: Sequence[DividedRun], options: RunOptions) -> list[list[tuple[DividedRun, int]]]:
    """Return groups of parts of runs; those of a group are worked on at the same time, groups in order."""
    most = max(run.count for run in runs)
    groups = [[(run, index) for run in runs if index < run.count] for index in range(most)]
    if options.dispatcher is not BATCH:
        return groups
    every = [one for group in groups for one in group]
    if options.batches is BatchMode.CANCEL:
        every = [(run, index) for run, index in every if run.has_begun(index)]
    return [every]


async def _run_group(group: Sequence[tuple[DividedRun, int]], shared: Shared) -> None:
    """Run parts of runs that have not ended, at the same time."""
    signal = shared.interrupts.first
    active = [(run, index) for run, index in group if run.ended.error is None]
    if signal is not None:
        for run, _ in active:
            run.ended.interrupt(signal)
        return
    if not active:
        return
    shared = replace(shared, planning=anyio.CapacityLimiter(max(MOST_PLANNING, _runs_in(active))))
    with ExitStack() as stack:
        opened, options = [], []
        for run, index in active:
            plan, of_part = run.part_plan(index, shared.options)
            found = stack.enter_context(opened_run(plan, of_part))
            opened.append(await _confirmed_part(run, index, found, of_part))
            options.append(of_part)
        executions = [
            Execution(one, replace(shared, options=each))
            for one, each in zip(opened, options, strict=True)
        ]
        with shared.progress:
            errors = await run_all(executions, shared)
        errors = await judge_all(opened, errors, shared)
        for (run, _), one, execution, error in zip(active, opened, executions, errors, strict=True):
            rows = InterruptibleRows(one.store, shared.interrupts)
            done = await anyio.to_thread.run_sync(
                concluded, one, execution, rows, error, shared.options
            )
            execution.log.ended(done.exit_code, done.error, done.summary())
            run.ended.add(done)


def _is_without_success(error: RunStopped) -> bool:
    return error.stop.end is RunEnd.NOTHING_SUCCEEDED and not error.is_judge


def _runs_in(group: Sequence[tuple[DividedRun, int]]) -> int:
    return len({id(run) for run, _ in group})


async def _confirmed_part(
    run: DividedRun, index: int, opened: OpenRun, options: RunOptions
) -> OpenRun:
    if run.parts is None:
        found = replace(opened, reuse=await confirmed_reuse(opened, options))
        return await confirmed_judges(found, options)
    part = run.parts.parts[index]
    label = f"{opened.label} {part.name}".strip()
    found = replace(
        opened,
        reuse=run.reuse.get(part.number),
        label=label,
        judges=tuple(replace(judge, label=label) for judge in opened.judges),
        number=run.number,
        has_succeeded=run.ended.succeeded > 0,
    )
    return await confirmed_judges(found, options)


def _ended(run: DividedRun, options: RunOptions, interrupts: Interrupts) -> RunReport:
    """Write the outputs of a whole run; return its state."""
    if run.parts is None:
        return run.ended.reports[0]
    directory = run.plan.directory
    error = run.ended.error
    whole = PartitionedRun(directory, run.plan.job, run.plan.source, run.parts)
    written = Written()
    try:
        if options.rows is None and whole.is_placed():
            written = whole.write(partial(InterruptibleRows, interrupts=interrupts))
    except Interrupted as interrupted:
        error = error or interrupted
    except (OutputError, JobError) as problem:
        error = error or OutputError(str(problem))
    totals = written.totals or totals_of_run(directory)
    out = totals.open_batches
    waiting = [one.error for one in run.ended.reports if isinstance(one.error, BatchesOut)]
    if error is None and (out or any(one.held for one in waiting)):
        error = come_back_together(out, waiting)
    elif out and isinstance(error, Interrupted):
        error = Interrupted(error.signum, f"{INTERRUPTED}; {keep_running(out, directory)}")
    return RunReport(totals, directory, written.files, error, written.score, written.notes)


__all__ = ["DividedRun", "run_in_parts"]

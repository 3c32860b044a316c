"""The start of an execution: repairs, a new review of stored answers, its record, and messages."""

from __future__ import annotations

import shlex
from itertools import groupby
from typing import TYPE_CHECKING

from batchrun import __version__, checkpoint
from batchrun.dispatch import BATCH, LIVE
from batchrun.errors import CheckpointError
from batchrun.limits import MOST
from batchrun.report.formatting import counted
from batchrun.run.changed_jobs import (
    change_message,
    hints,
    judge_again,
    missing_bodies,
    nothing_to_do,
)
from batchrun.run.damage import restore_copies
from batchrun.run.division import division_notes
from batchrun.run.events import RunLog, started
from batchrun.workers import WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.dispatch import DispatcherFactory
    from batchrun.records import UnfinishedAttempt
    from batchrun.run.pipeline import OpenRun
    from batchrun.run.run_options import RunOptions


# All dispatcher factories that may have left attempts unfinished.
FACTORIES = (LIVE, WORKERS, BATCH)


def begin(run: OpenRun, options: RunOptions, log: RunLog) -> None:
    """Repair the checkpoint, record the execution in it, and show messages to the user.

    Raises:
        CheckpointError: when the checkpoint cannot be used by this version, or is damaged.
    """
    plan, store = run.plan, run.store
    # First: an unknown dispatcher must leave the checkpoint as it is.
    lost = lost_attempts(store.unfinished_attempts(), options.dispatcher)
    repair, copied = None, 0
    if options.retry_errored:
        copied = restore_copies(store, plan.directory, plan.job.output)
        repair = checkpoint.repair(store)
    else:
        checkpoint.check_plan(store)
    # Before the job is kept: a process that dies here does it again.
    judged = judge_again(plan, store)
    missing = missing_bodies(plan, store)
    store.start_execution(
        checkpoint.NewExecution(
            name=plan.job.name,
            job=plan.job.document,
            base=plan.job.base,
            signature=plan.signature,
            total=plan.total,
            version=__version__,
            samples=plan.job.request.samples,
            provider=plan.job.request.provider,
            base_url=plan.job.request.base_url,
            dispatcher=options.dispatcher.name,
            number=run.number,
        ),
        lost,
    )
    log.write("start", **started(plan, store.execution, options))
    for hint in (
        *plan.source.notes,
        *nothing_to_do(plan),
        *division_notes(plan, None),
        *hints(plan.job, options),
    ):
        log.note(hint)
    if plan.job.limits.concurrency is None and plan.most_in_flight < MOST:
        log.note(
            f"at most {plan.most_in_flight:,} requests in flight, because of the limit on open "
            "files; raise it for more, for example: ulimit -n 65536"
        )
    for message in (judged, missing, run.price_note):
        if message is not None:
            log.note(message)
    if run.reuse is not None:
        log.note(change_message(run.reuse))
    if repair is not None:
        _note_repair(repair, copied, plan.directory, log)
    if lost:
        were = "was" if len(lost) == 1 else "were"
        log.note(
            f"{counted(len(lost), 'request')} {were} in flight when an earlier execution ended "
            "and may have been billed; sending again"
        )


def _note_repair(repair: checkpoint.Repair, copied: int, directory: Path, log: RunLog) -> None:
    if copied:
        log.note(
            f"{counted(copied, 'record')} of the checkpoint did not match their checksums and "
            "were restored from the outputs"
        )
    if repair.restored:
        log.note(
            f"{repair.restored} records of the checkpoint did not match their checksums and "
            "were restored from the others and the input"
        )
    if repair.given_up:
        log.note(
            f"{repair.given_up} records of the checkpoint did not match their checksums and "
            "were given up; their rows are sent again"
        )
    if repair.uncounted:
        log.note(
            f"{counted(repair.uncounted, 'cost')} or prices in the checkpoint did not match their "
            "checksums and are unknown; to count them again: batchrun recost "
            f"{shlex.quote(str(directory))}"
        )


def lost_attempts(
    unfinished: Sequence[UnfinishedAttempt], current: DispatcherFactory
) -> list[UnfinishedAttempt]:
    """Return the unfinished attempts whose outcome can no longer arrive.

    The factory that dispatched an attempt decides that.

    Args:
        unfinished: attempts of earlier executions.
        current: the factory of this execution.

    Raises:
        CheckpointError: if the factory of an attempt does not exist in this version.
    """
    factories = {factory.name: factory for factory in (*FACTORIES, current)}
    lost: list[UnfinishedAttempt] = []
    for name, attempts in groupby(sorted(unfinished, key=_dispatcher_of), key=_dispatcher_of):
        if name not in factories:
            raise CheckpointError(
                f"the checkpoint has requests that were sent with the dispatcher {name}, which this "
                "version of batchrun does not have; continue the run with the version that sent them"
            )
        lost += factories[name].lost(list(attempts))
    return lost


def _dispatcher_of(attempt: UnfinishedAttempt) -> str:
    return attempt.dispatcher

"""What has changed since the last execution of a run, and the messages before the first request."""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from batchrun import __version__, checkpoint
from batchrun.dispatch import rejected
from batchrun.errors import BatchrunError, JobError, RunEnd
from batchrun.job import Job
from batchrun.limits.retry_delays import Cause
from batchrun.run.model_checks import request_hints
from batchrun.run.run_directories import run_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.checkpoint import Reuse
    from batchrun.run.preparation import Prepared
    from batchrun.run.run_options import RunOptions


# Of the paid answers: if a change leaves more of them unused, the user is asked first.
MOST_LEFT_SHARE = 0.1
ENDED_WELL = {RunEnd.FINISHED, RunEnd.PRECISE}


def reuse_of(plan: Prepared, store: checkpoint.Checkpoint, options: RunOptions) -> Reuse | None:
    """Return which paid answers a changed plan reuses; None if nothing has changed.

    Renders every row. Only reads.
    """
    begun = checkpoint.latest_plan(store)
    same = begun is not None and begun[:2] == (plan.signature, plan.total)
    # Another version may render the same rows in another way.
    is_known = begun == (plan.signature, plan.total, __version__) and plan.mark is not None
    if is_known or not checkpoint.has_answers(store):
        return None
    # Before anything is planned: the planner would already release requests that rows no longer use.
    comparison = checkpoint.Comparison(store, shared=plan.job.request.dedupe)
    samples = plan.job.request.samples
    for rendered in plan.renderer.table_chunks(plan.table, samples):
        comparison.add(item.fingerprint for item in rendered)
    found = comparison.result(retry_errored=options.retry_errored)
    return None if same and not found.left_behind else found


def needs_consent(reuse: Reuse, options: RunOptions) -> bool:
    """Return whether the user must agree because too many paid answers would no longer be used."""
    is_much = reuse.left_behind > MOST_LEFT_SHARE * reuse.paid
    return is_much and not options.yes and options.simulator is None


def ask_consent(plan: Prepared, reuse: Reuse, ask: Callable[[str], bool] | None) -> None:
    """Ask whether to continue.

    Raises:
        JobError: if nobody can be asked, or the answer is no. Nothing has been sent or changed.
    """
    what, stay = "paid answers", "they stay in the checkpoint"
    if reuse.left_out:
        what = "answers that are paid or in batches"
        stay = (
            f"{reuse.left_out:,} are in batches at the provider, and will be billed. To cancel these: "
            f"batchrun cancel {shlex.quote(str(plan.directory))}"
        )
    facts = (
        f"the job or its input has changed since the last run in {plan.directory}: {reuse.left_behind:,} of "
        f"{reuse.paid:,} {what} would no longer be used ({stay}), and {reuse.new:,} requests would be "
        "sent"
    )
    if ask is None:
        raise JobError(
            f"{facts}. To continue, add --yes. To keep the previous run, add --new, which "
            "renames its directory, or use another --output-dir"
        )
    if not ask(f"{facts}. Continue?"):
        raise JobError("not confirmed; nothing was sent or changed")


def judge_again(plan: Prepared, store: checkpoint.Checkpoint) -> str | None:
    """Judge stored answers by a changed `[request] reject`; return a message if it has changed."""
    reject = plan.job.request.reject
    if checkpoint.applied_reject(store) in {None, frozenset(reject)}:
        return None
    accepted = refused = 0
    for answers in checkpoint.reviewable_answers(store):
        judged = [(one, rejected(one.completion, reject)) for one in answers]
        changed = [
            (one.key, rejection)
            for one, rejection in judged
            if one.error_type != (rejection and rejection.error_type)
        ]
        checkpoint.replace_statuses(store, changed, Cause.INVALID.value)
        refused += sum(rejection is not None for _, rejection in changed)
        accepted += sum(rejection is None for _, rejection in changed)
    return (
        f"[request] reject has changed: {refused:,} stored answers are now rejected, "
        f"{accepted:,} are accepted again; no requests are sent for this change"
    )


def missing_bodies(plan: Prepared, store: checkpoint.Checkpoint) -> str | None:
    """Return a message about answers that arrived before `keep_raw` was set; None if there are none."""
    count = checkpoint.answers_without_body(store) if plan.job.request.keep_raw else 0
    if not count:
        return None
    answers = "1 earlier answer was" if count == 1 else f"{count:,} earlier answers were"
    return (
        f"[request] keep_raw: {answers} received without it, and the column raw stays empty there; "
        "to receive them again, use --new (all requests are sent and billed again)"
    )


def with_given_price(
    plan: Prepared, store: checkpoint.Checkpoint
) -> tuple[Prepared, str | None, str | None]:
    """Return a plan with the price that `recost` was given, its provider, and a message about it.

    A `[price]` of the job file takes precedence.
    """
    given = checkpoint.given_price(store)
    if given == checkpoint.GivenPrice():
        return plan, None, None
    if "price" in plan.job.document:
        checkpoint.keep_given_price(store, checkpoint.GivenPrice())
        return (
            plan,
            None,
            (
                "[price] of the job file replaces the price given to batchrun recost; to apply "
                f"it to earlier answers too: batchrun recost {shlex.quote(str(plan.directory))} --job JOB"
            ),
        )
    if given.section is not None:
        document = {**plan.job.document, "price": given.section}
        priced = Job.from_document(document, plan.job.base)
        job = replace(
            plan.job, document=document, price=priced.price, model_prices=priced.model_prices
        )
        plan = replace(plan, job=job)
    said = "costs are calculated with the price given to batchrun recost; a [price] in the job file replaces it"
    return plan, given.provider, said


def change_message(reuse: Reuse) -> str:
    """Return the message before the first request of a changed plan."""
    unused = f"{reuse.left_behind:,} no longer used, " if reuse.left_behind else ""
    out = f"{reuse.out:,} in batches, " if reuse.out else ""
    requests = "1 request" if reuse.new == 1 else f"{reuse.new:,} requests"
    rest = f"{requests} to send" if reuse.new else "nothing to send"
    return f"the job or its input has changed: {reuse.reused:,} answers reused, {unused}{out}{rest}"


def hints(job: Job, options: RunOptions) -> list[str]:
    """Return hints to print before the first request."""
    unfinished = unfinished_before(job, options)
    return [*request_hints(job), *([] if unfinished is None else [unfinished])]


def nothing_to_do(plan: Prepared) -> list[str]:
    """Return the message for an input without rows: the run succeeds, as a nightly run without rows must."""
    if plan.total:
        return []
    if plan.job.input.where is not None:
        return [f"{plan.job.input.path}: no row satisfies [input] where; there is nothing to do"]
    return [f"{plan.job.input.path}: has columns but no rows; there is nothing to do"]


def unfinished_before(job: Job, options: RunOptions) -> str | None:
    """Return how to resume the unfinished run of the previous day; None if it is finished.

    After midnight, the same command begins another run. Only reads.
    """
    if job.date is None:
        return None
    day = (job.date - timedelta(days=1)).isoformat()
    earlier = Job.from_document({**job.document, "date": day}, job.base)
    directory = run_directory(earlier, options)
    if directory == run_directory(job, options):
        return None
    try:
        if checkpoint.is_locked(directory) or _outcome(earlier, options) in ENDED_WELL:
            return None
    except BatchrunError:
        return None  # there was no run, or its checkpoint cannot be read
    return f"the run of {day} in {directory} is not finished; to resume it, add: --date {day}"


def _outcome(job: Job, options: RunOptions) -> RunEnd | None:
    store = checkpoint.Checkpoint(run_directory(job, options), writable=False)
    with closing(store):
        return checkpoint.last_outcome(store)

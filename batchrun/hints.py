"""Hints before a run starts. They never prevent the run."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.errors import BatchrunError, RunEnd
from batchrun.job import Job
from batchrun.prepare import model_hint, run_directory

if TYPE_CHECKING:
    from batchrun.prepare import RunOptions


def hints(job: Job, options: RunOptions) -> list[str]:
    """Return hints to print before the first request."""
    found = (model_hint(job), unfinished_before(job, options))
    return [hint for hint in found if hint is not None]


def unfinished_before(job: Job, options: RunOptions) -> str | None:
    """Return how to resume the unfinished run of the previous day; None if it is finished.

    After midnight the same command begins another run. Reads only.
    """
    if job.date is None:
        return None
    day = (job.date - timedelta(days=1)).isoformat()
    earlier = Job.from_document({**job.document, "date": day}, job.base)
    directory = run_directory(earlier, options)
    if directory == run_directory(job, options):
        return None
    try:
        if checkpoint.is_locked(directory) or _outcome(earlier, options) == RunEnd.FINISHED:
            return None
    except BatchrunError:
        return None  # there was no run, or nothing can be said about it
    return f"the run of {day} in {directory} is not finished; to resume it, add: --date {day}"


def _outcome(job: Job, options: RunOptions) -> RunEnd | None:
    store = checkpoint.Checkpoint(run_directory(job, options), writable=False)
    with closing(store):
        return checkpoint.last_outcome(store)

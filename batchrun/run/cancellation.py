"""`batchrun cancel`: cancels the open batches of a run, and collects the answers that they have."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.dispatch import BATCH, BatchMode
from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.job.paths import SIMULATED_SUFFIX, is_simulated
from batchrun.report.formatting import counted
from batchrun.run.matrix_runs import begun_runs
from batchrun.run.run_folders import folders_of, stored_document
from batchrun.run.run_options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.formats.sent_batches import SentBatch
    from batchrun.run.conclusion import RunReport


@dataclass(frozen=True, slots=True)
class Canceled:
    """The outcome of `batchrun cancel`.

    Attributes:
        directory: the run directory.
        batches: the batches that were open.
        report: the report of the run afterwards; None if no batch was open.
        answered: number of requests that got a result, including those of judges.
        open: batches that are still open.
    """

    directory: Path
    batches: tuple[SentBatch, ...]
    report: RunReport | None = None
    answered: int = 0
    open: tuple[SentBatch, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when no batch is open any more, otherwise the exit code of the error."""
        error = None if self.report is None else self.report.error
        return 0 if error is None else error.exit_code

    def text(self) -> str:
        """Return the text for the terminal."""
        if self.report is None:
            return f"{self.directory}: no batches are open"
        number, rows = len(self.batches), sum(batch.out for batch in self.batches)
        batches = f"{number:,} {'batch' if number == 1 else 'batches'}"
        closed = f"{batches} with {counted(rows, 'row')} closed"
        if self.open:
            closed = (
                f"{number - len(self.open):,} of {batches} closed, {len(self.open):,} still open"
            )
        return (
            f"{self.directory}: {closed}; {counted(self.answered, 'answer')} collected, "
            f"{counted(self.report.totals.pending, 'row')} pending"
        )


def cancel(directory: Path, options: RunOptions | None = None) -> list[Canceled]:
    """Cancel the open batches of a run, or of each run of a matrix; wait, and collect their answers.

    Raises:
        JobError: when the input of the run is gone, or the batches belong to another key.
        CheckpointError: when a checkpoint cannot be used, or there is none yet.
    """
    return [_cancel(each, options or RunOptions()) for each in begun_runs(directory)]


def _cancel(directory: Path, options: RunOptions) -> Canceled:
    document, base, _ = stored_document(directory)
    found = _open(directory)
    if not found:
        return Canceled(directory, ())
    job = Job.from_document(document, Path(base), origin=str(directory))
    done = _done(directory)
    report = _collect(job, directory, options)
    return Canceled(directory, found, report, _done(directory) - done, _open(directory))


def _collect(job: Job, directory: Path, options: RunOptions) -> RunReport:
    """Cancel the open batches of a run, and collect their answers."""
    from batchrun.run.running import run_job  # noqa: PLC0415 - most runs have no open batches

    place, simulate = directory, False
    if is_simulated(directory):
        # The options of a simulated run name its directory by themselves.
        simulate = True
        place = directory.with_name(directory.name.removesuffix(SIMULATED_SUFFIX))
    if place.name == "":
        raise JobError(f"{directory}: cannot be the directory of a simulated run")
    job = replace(job, cell=None, cells=(), output=replace(job.output, dir=place))
    wanted = replace(
        options, dispatcher=BATCH, batches=BatchMode.CANCEL, simulate=simulate, yes=True
    )
    return run_job(job, wanted)


def _open(directory: Path) -> tuple[SentBatch, ...]:
    """Return the open batches of a run and of its judges."""
    return tuple(
        batch for store in _stores(directory) for batch in checkpoint.batches(store, open_only=True)
    )


def _done(directory: Path) -> int:
    """Return the number of requests of a run and of its judges with a result."""
    found = [checkpoint.totals(store) for store in _stores(directory)]
    return sum(totals.succeeded + totals.errored for totals in found)


def _stores(directory: Path) -> Iterator[checkpoint.Checkpoint]:
    for part in folders_of(directory):
        for folder in (part, *checkpoint.judge_folders(part)):
            with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
                yield store


__all__ = ["Canceled", "cancel"]

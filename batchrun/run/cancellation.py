"""`batchrun cancel`: cancels the batches of a run that are out, and collects what they had answered."""

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
from batchrun.run import run_job
from batchrun.run.matrix import runs_in
from batchrun.run.preparation import RunOptions
from batchrun.run.whole import folders_of, stored_document
from batchrun.simulator import SimulatorConfig

if TYPE_CHECKING:
    from batchrun.formats.sent_batches import SentBatch
    from batchrun.run.conclusion import RunReport


@dataclass(frozen=True, slots=True)
class Canceled:
    """What became of the batches of a run.

    Attributes:
        directory: of the run.
        batches: those that were open.
        report: of the run afterwards; None if no batch was open.
    """

    directory: Path
    batches: tuple[SentBatch, ...]
    report: RunReport | None = None

    @property
    def exit_code(self) -> int:
        """0 when no batch is open any more, otherwise the exit code of the error."""
        error = None if self.report is None else self.report.error
        return 0 if error is None else error.exit_code

    def text(self) -> str:
        """Return what people read."""
        if self.report is None:
            return f"{self.directory}: no batches are open"
        number, rows = len(self.batches), sum(batch.out for batch in self.batches)
        totals = self.report.totals
        answered = rows - sum(batch.out for batch in totals.open_batches) - totals.pending
        return (
            f"{self.directory}: {number:,} {'batch' if number == 1 else 'batches'} with {rows:,} rows "
            f"closed; {max(0, answered):,} answers collected, {totals.pending:,} rows pending"
        )


def cancel(directory: Path, options: RunOptions | None = None) -> list[Canceled]:
    """Cancel the open batches of a run, or of each run of a matrix; wait, and collect their answers.

    Raises:
        JobError: when the input of the run is gone, or the batches belong to another key.
        CheckpointError: when a checkpoint cannot be used.
    """
    return [_cancel(each, options or RunOptions()) for each in runs_in(directory)]


def _cancel(directory: Path, options: RunOptions) -> Canceled:
    document, base, _ = stored_document(directory)
    found: tuple[SentBatch, ...] = ()
    for part in folders_of(directory):
        for folder in (part, *checkpoint.judge_folders(part)):
            with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
                found += tuple(checkpoint.batches(store, open_only=True))
    if not found:
        return Canceled(directory, ())
    job = Job.from_document(document, Path(base), origin=str(directory))
    place, simulate = directory, None
    if is_simulated(directory):
        # The options of a simulated run name its directory by themselves.
        simulate = SimulatorConfig()
        place = directory.with_name(directory.name.removesuffix(SIMULATED_SUFFIX))
    if place.name == "":
        raise JobError(f"{directory}: cannot be the directory of a simulated run")
    job = replace(job, cell=None, cells=(), output=replace(job.output, dir=place))
    wanted = replace(
        options, dispatcher=BATCH, batches=BatchMode.CANCEL, simulate=simulate, yes=True
    )
    return Canceled(directory, found, run_job(job, wanted))


__all__ = ["Canceled", "cancel"]

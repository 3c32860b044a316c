"""`compare --judge`: a model says which of two answers is better, for each row and each pair of runs.

It is a separate run, with its own directory and checkpoint. It can be resumed, and repeating it costs nothing.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.evaluation.preferences import PreferenceCounts
from batchrun.job import Job
from batchrun.run.judge_runs import check_verdicts
from batchrun.run.loop_threads import run_loop
from batchrun.run.matrix_runs import compared_runs
from batchrun.run.pairwise import PairJudge, PairTable, pairwise_config
from batchrun.run.preparation import plan_of_pairs
from batchrun.run.run_directories import kept_apart
from batchrun.run.run_folders import opened_checkpoint
from batchrun.run.run_options import RunOptions
from batchrun.run.running import run_plan
from batchrun.run.signatures import same_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.errors import BatchrunError
    from batchrun.pricing.totals import RunTotals


LONGEST_NAME = 150


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """The verdicts of a judge on pairs of answers.

    Attributes:
        directories: the runs, in order.
        directory: the run directory of the judge.
        model: the model of the judge.
        counts: its verdicts.
        totals: requests and costs over all executions.
        note: a note about the judge.
        error: the error that ended the execution early.
    """

    directories: tuple[Path, ...]
    directory: Path
    model: str
    counts: PreferenceCounts
    totals: RunTotals
    note: str | None = None
    error: BatchrunError | None = None

    @property
    def exit_code(self) -> int:
        """0 if every pair has its verdicts, 3 if some have none, otherwise the exit code of the error."""
        if self.error is not None:
            return self.error.exit_code
        return 3 if self.counts.unjudged.total else 0


def judge_pairs(
    directories: Sequence[Path | str],
    job: Job,
    options: RunOptions | None = None,
    directory: Path | None = None,
) -> JudgedPairs:
    """Let the judge of a job compare the answers of runs, row by row and in both orders.

    Stored verdicts are not asked for again.

    Args:
        directories: the run directories; that of a matrix stands for those of its cells.
        job: has the `[score.judge]`.
        options: how to run.
        directory: where to store the verdicts; by default beside the first run. Simulated verdicts are stored
            in `<directory>.simulated`.

    Raises:
        JobError: when something is wrong; nothing was sent.
        CheckpointError: when a directory cannot be used.
    """
    options = options or RunOptions()
    runs = compared_runs(directories)
    place = kept_apart(directory or _beside(runs), job, options)
    config, note = pairwise_config(job)
    with ExitStack() as opened:
        stores = [opened.enter_context(opened_checkpoint(run)) for run in runs]
        document, base, signature = stores[0].job()
        asked = Job.from_document(document, Path(base), origin=str(stores[0].path))
        source = same_input(asked, signature)
        judge = PairJudge(config, job, asked, source.columns)
        table = PairTable(judge, source, stores)
        plan = plan_of_pairs(judge, table, source, place, options)
        end = run_loop(partial(run_plan, plan, options))
        check_verdicts(place)
        counts = PreferenceCounts()
        for rows in table.rows():
            judge.count(rows, place, counts)
    with closing(checkpoint.Checkpoint(place, writable=False)) as store:
        totals = checkpoint.totals(store)
    model = judge.job.request.model
    return JudgedPairs(tuple(runs), place, model, counts, totals, note, end.error)


def _beside(runs: Sequence[Path]) -> Path:
    """Return the default directory of the verdicts on these runs: beside the first, with a fixed name."""
    name = "_vs_".join(run.name for run in runs)
    if len(name) > LONGEST_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
        name = f"{runs[0].name[:LONGEST_NAME]}_vs_{len(runs) - 1}_others_{digest}"
    return runs[0].resolve().parent / name


__all__ = ["JudgedPairs", "judge_pairs"]

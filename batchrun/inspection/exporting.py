"""`batchrun export`: write the outputs of a run again, or its results as another file."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import checkpoint, inspection, output
from batchrun.errors import JobError
from batchrun.job import OUTPUT_SUFFIXES, Job
from batchrun.job.paths import ProtectedFiles, user_files
from batchrun.run.conclusion import write_files
from batchrun.run.damage import check_intact
from batchrun.run.job_scores import evaluation_of, our_columns, score_table
from batchrun.run.matrix_runs import begun_runs, single_run
from batchrun.run.partitioned_run import stored_run
from batchrun.run.parts import is_partitioned
from batchrun.run.run_folders import folders_of
from batchrun.run.signatures import same_input
from batchrun.source import Source, input_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.pricing.totals import RunTotals


# Of a log for inspect_ai.
LOG_SUFFIX = ".eval"


@dataclass(frozen=True, slots=True)
class Exported:
    """The files that were written.

    Attributes:
        paths: of the files.
        notes: warnings about them, such as cells that are cut.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def export(
    directory: Path | str, to: Path | str | None = None, since: Since | None = None
) -> Exported:
    """Write a run's outputs again from its checkpoint, with new scores if the job has a `[score]`.

    A function from the author of the job runs only for answers that it has not scored yet. For a matrix,
    this is done for every cell.

    Args:
        directory: the run directory, or, without `to`, that of a matrix.
        to: write only this file, with the results, instead of the run's own files.
        since: write only rows with results at least as new as this; requires `to`.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
        JobError: when the input is gone, `to` has an unknown suffix or is used with a matrix, or `since`
            is used without `to`.
        OutputError: when a file cannot be written or the input has changed.
    """
    directory, to = Path(directory), None if to is None else Path(to)
    if to is not None and to.suffix not in {*OUTPUT_SUFFIXES, LOG_SUFFIX}:
        raise JobError(f"--to {to}: must end in {', '.join((*OUTPUT_SUFFIXES, LOG_SUFFIX))}")
    if since is not None and to is None:
        raise JobError(
            "--last and --since need --to FILE: the output files of the run always have all rows"
        )
    if to is None:
        return _joined([_export_run(run) for run in begun_runs(directory)])
    single_run(directory, "--to writes one file for one run")
    if to.suffix == LOG_SUFFIX:
        if since is not None:
            raise JobError(f"--to {to}: a log has all rows; remove --last or --since")
        return Exported((inspection.export_inspect_log(directory, to),))
    return _export_run(directory, to, since)


def _joined(exported: Sequence[Exported]) -> Exported:
    paths = tuple(path for each in exported for path in each.paths)
    return Exported(paths, tuple(note for each in exported for note in each.notes))


def _export_run(directory: Path, to: Path | None = None, since: Since | None = None) -> Exported:
    if is_partitioned(directory):
        return _export_partitioned(directory, to, since)
    store = checkpoint.Checkpoint(directory, writable=False)
    try:
        document, base, signature = store.job()
        job = Job.from_document(document, Path(base), origin=str(store.path))
        if job.judge is not None:
            raise JobError(
                f"{directory}: has the verdicts of a judge; export the run that it judged"
            )
        source = same_input(job, signature)
        check_targets(job, source, directory, to)
        evaluation = evaluation_of(job, source)
        if to is not None:
            check_intact(store, directory, job.output)
            scores = None
            if evaluation is not None:
                evaluation.score(source, store, again=not evaluation.runs_code)
                scores = score_table(job, store)
            kinds = checkpoint.result_kinds(job.request.optional_columns)
            start = None if since is None else _start(checkpoint.totals(store), since)
            results = output.Results(source, store, kinds, scores, start)
            note = output.write_results(job.output, to, results, in_run_directory=False)
            return Exported((to,), () if note is None else (note,))
        with checkpoint.open_directory(directory):
            again = evaluation is None or not evaluation.runs_code
            written = write_files(job, source, store, evaluation, score_again=again)
            return Exported(written.files, written.notes)
    finally:
        store.close()


def _export_partitioned(directory: Path, to: Path | None, since: Since | None) -> Exported:
    """Write the outputs of a partitioned run again: those of its parts, then those of the whole run."""
    run = stored_run(directory)
    check_targets(run.job, run.source, directory, to)
    run.check_alike()
    if to is not None:
        for folder in folders_of(directory):
            with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
                check_intact(store, folder, run.job.output)
        start = None if since is None else _start(run.totals(), since)
        contents = run.results(to.suffix, since=start)
        contents = replace(contents, partition_by=())
        note = output.write_contents(to, contents, in_run_directory=False)
        return Exported((to,), () if note is None else (note,))
    with checkpoint.open_directory(directory):
        for folder in folders_of(directory):
            _export_run(folder)
        written = run.write()
        return Exported(written.files, written.notes)


@dataclass(frozen=True, slots=True)
class Since:
    """How new the results to export must be.

    Attributes:
        moment: the earliest time; None for the results of the last execution.
    """

    moment: datetime | None = None


def _start(totals: RunTotals, since: Since) -> datetime | None:
    if since.moment is not None:
        return since.moment
    executions = totals.executions
    if not executions:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=executions[-1]["started_us"])


def check_targets(job: Job, source: Source, directory: Path, to: Path | None) -> None:
    """Check that writing outputs again replaces no file of the user.

    Raises:
        JobError: if it would.
    """
    named = user_files(job.document, job.base)
    protected = ProtectedFiles([*input_files(job.input), *named])
    key = "[output] files" if to is None else "--to"
    for path in [directory / name for name in job.output.files] if to is None else [to]:
        protected.refuse_overwriting(path, key, "choose another name")
        if path.is_dir():  # a dataset, which is replaced as a whole
            protected.refuse_moving(path, key, "choose another name")
    if to is not None:
        output.refuse_foreign_results(to, key, in_run_directory=False)
        config = replace(job.output, files=(str(to),), partition_by=())
        output.check_outputs(config, source.schema, our_columns(job), source.count())

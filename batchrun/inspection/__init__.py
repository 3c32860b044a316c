"""Commands on a run directory that send nothing: status, export, score; and loading a job."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from batchrun import checkpoint, output, report
from batchrun.errors import CheckpointError, JobError, harmless
from batchrun.evaluation import score_facts, score_lines
from batchrun.inspection import inspect_log
from batchrun.job import OUTPUT_SUFFIXES, Job
from batchrun.job.overrides import SCORE
from batchrun.job.paths import ProtectedFiles, user_files
from batchrun.job.sections import table_input
from batchrun.run.conclusion import write_files
from batchrun.run.damage import check_intact
from batchrun.run.matrix import (
    count_damaged,
    damage_hint,
    is_matrix,
    matrix_status,
    settled_totals,
)
from batchrun.run.partitioned_run import folders_of, stored_run, totals_of_run
from batchrun.run.parts import is_partitioned
from batchrun.run.preparation import our_columns
from batchrun.run.scoring import Evaluation, score_table
from batchrun.run.signatures import same_input
from batchrun.source import Source, input_files, is_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.evaluation import ScoreTotals
    from batchrun.pricing.totals import RunTotals


TABLE_PREFIX = "batchrun_"
T = TypeVar("T")


def load_job(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Job:
    """Load a job file, or create a job for a table.

    Args:
        path: the job file or the table.
        overrides: dotted keys and their values, such as `{"request.model": "m"}`.

    Raises:
        JobError: if the job is wrong.
    """
    path, overrides = Path(path), overrides or {}
    if not is_table(path.name):
        return Job.load(path, overrides)
    columns = Source(table_input(path, overrides)).columns
    if set(columns) & set(checkpoint.result_kinds()):
        # A table that names its request columns (model …) must not need a job file for that.
        overrides = {"output.prefix": TABLE_PREFIX, **overrides}
    return Job.for_table(path, columns, overrides)


def status(directory: Path, *, as_json: bool, colour: bool = False) -> str:
    """Describe a running or ended run, or those of a matrix.

    The directory of a matrix may also have a run without a matrix. The text for people describes both.

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    if not is_matrix(directory):
        return _run_status(directory, as_json=as_json, colour=colour)
    cells = matrix_status(directory, as_json=as_json)
    if as_json or not (directory / checkpoint.FILE_NAME).exists():
        return cells
    return f"{_run_status(directory, as_json=False, colour=colour)}\n\n{cells}"


def _run_status(directory: Path, *, as_json: bool, colour: bool) -> str:
    try:
        return _described_run(directory, as_json=as_json, colour=colour)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # What a damaged record holds may be of another type than the column.
        if not (damaged := count_damaged(directory)):
            raise
        raise CheckpointError(
            f"{directory}: the run cannot be described: {damage_hint(damaged, directory)}"
        ) from None


def _described_run(directory: Path, *, as_json: bool, colour: bool) -> str:
    running = checkpoint.is_locked(directory)
    totals = settled_totals(totals_of_run(directory), running=running)
    # Looking takes as long as adding up, and a live run is asked again and again.
    damaged = 0 if running else count_damaged(directory)
    if not as_json:
        text = report.status_text(totals, directory, running=running, colour=colour)
        lines = [text, *_judges_status(directory, colour=colour)]
        return "\n".join([*lines, *([damage_hint(damaged, directory)] if damaged else [])])
    facts = {"running": running, "waiting": totals.waiting, "damaged": damaged}
    facts |= report.summary(totals)
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def _judges_status(directory: Path, *, colour: bool) -> list[str]:
    """Describe the progress of the judges of a run, one line each; for a partitioned run over all parts."""
    every = [each for run in folders_of(directory) for each in checkpoint.judge_folders(run)]
    return [
        report.judge_status_line(
            checkpoint.totals_of_parts([each for each in every if each.name == name]),
            name,
            colour=colour,
        )
        for name in dict.fromkeys(folder.name for folder in every)
    ]


@dataclass(frozen=True, slots=True)
class Exported:
    """The files that were written.

    Attributes:
        paths: of the files.
        notes: warnings about them, such as cells that are cut.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def export(directory: Path, to: Path | None = None, since: Since | None = None) -> Exported:
    """Write a run's outputs again from its checkpoint, with new scores if the job has a `[score]`.

    A function from the author of the job runs only for answers that it has not scored yet.

    Args:
        directory: the run directory.
        to: write only this file, with the results, instead of the run's own files.
        since: write only rows with results at least as new as this; requires `to`.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
        JobError: when the input is gone, `to` has an unknown suffix, or `since` is used without `to`.
        OutputError: when a file cannot be written or the input has changed.
    """
    if to is not None and to.suffix not in {*OUTPUT_SUFFIXES, inspect_log.SUFFIX}:
        raise JobError(
            f"--to {to}: must end in {', '.join((*OUTPUT_SUFFIXES, inspect_log.SUFFIX))}"
        )
    if since is not None and to is None:
        raise JobError(
            "--last and --since need --to FILE: the output files of the run always have all rows"
        )
    if to is not None and to.suffix == inspect_log.SUFFIX:
        if since is not None:
            raise JobError(f"--to {to}: a log has all rows; remove --last or --since")
        return Exported((inspect_log.export_inspect_log(directory, to),))
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
        _check_targets(job, source, directory, to)
        evaluation = Evaluation.of(job, source)
        if to is not None:
            check_intact(store, directory, job.output)
            scores = None
            if evaluation is not None:
                evaluation.score(source, store, again=not evaluation.runs_code)
                scores = score_table(job, store)
            kinds = checkpoint.result_kinds(job.request.optional_columns)
            start = _start(checkpoint.totals(store), since)
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
    _check_targets(run.job, run.source, directory, to)
    run.check_alike()
    if to is not None:
        for folder in folders_of(directory):
            with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
                check_intact(store, folder, run.job.output)
        contents = run.results(to.suffix, since=_start(run.totals(), since))
        contents = replace(contents, partition_by=())
        note = output.write_contents(to, contents, in_run_directory=False)
        return Exported((to,), () if note is None else (note,))
    with checkpoint.open_directory(directory):
        for folder in folders_of(directory):
            export(folder)
        written = run.write()
        return Exported(written.files, written.notes)


@dataclass(frozen=True, slots=True)
class Since:
    """How new the results to export must be.

    Attributes:
        moment: the earliest time; None for the results of the last execution.
    """

    moment: datetime | None = None


def _start(totals: RunTotals, since: Since | None) -> datetime | None:
    if since is None:
        return None
    if since.moment is not None:
        return since.moment
    executions = totals.executions
    if not executions:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=executions[-1]["started_us"])


def score(directory: Path, job_file: Path | None = None) -> ScoreTotals:
    """Score a run's answers again, and write its outputs and summary again.

    Args:
        directory: the run directory.
        job_file: use the section `[score]` of this job file, and store it with the run.

    Raises:
        CheckpointError: when the checkpoint cannot be used, or the run is active.
        JobError: when there is no `[score]`, it is wrong, or the input is gone.
        OutputError: when a file cannot be written or the input has changed.
    """
    if is_partitioned(directory):
        with checkpoint.open_directory(directory):
            for folder in folders_of(directory):
                score(folder, job_file)
            run = stored_run(directory)
            found = run.write().score
        return _required(found, directory)
    with closing(checkpoint.Checkpoint(directory, writable=False)) as store:
        document, base, signature = store.job()
    if job_file is not None:
        document["score"] = _score_section(job_file)
    with checkpoint.open_directory(directory):
        store = checkpoint.Checkpoint(directory, writable=True)
        try:
            job = Job.from_document(document, Path(base), origin=str(store.path))
            source = same_input(job, signature)
            evaluation = _required(Evaluation.of(job, source), directory)
            config = job.output
            output.result_names(source.columns, config.prefix, config.unnest, our_columns(job))
            _check_targets(job, source, directory, None)
            store.replace_job(document)
            write_files(job, source, store, evaluation)
            return evaluation.totals(store)
        finally:
            store.close()


def _check_targets(job: Job, source: Source, directory: Path, to: Path | None) -> None:
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


def score_text(totals: ScoreTotals, *, as_json: bool) -> str:
    """Describe the scores of a run."""
    if as_json:
        return orjson.dumps(score_facts(totals), option=orjson.OPT_INDENT_2).decode()
    return "\n".join(harmless(line) for line in score_lines(totals))


def _score_section(path: Path) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the `[score]` of a job file with absolute paths."""
    job = Job.load(path)
    if not job.scores:
        raise JobError(f"{path}: has no section [score]")
    given = job.document[SCORE]
    tables = [dict(table) for table in (given if isinstance(given, list) else [given])]
    for table, config in zip(tables, job.scores, strict=True):
        if config.function is not None:
            file, name = config.function
            table["function"] = f"{file.resolve()}:{name}"
    return tables if isinstance(given, list) else tables[0]


def _required(found: T | None, directory: Path) -> T:
    """Return a job's evaluation or score; raise JobError if there is none."""
    if found is None:
        raise JobError(
            f"{directory}: the job of this run has no section [score]; add one to the job file, "
            f"and run: batchrun score {directory} --job JOB"
        )
    return found

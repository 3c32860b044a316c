"""`batchrun score`: score the answers of a run again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from batchrun import checkpoint, output
from batchrun.errors import JobError, harmless
from batchrun.evaluation import score_facts, score_lines
from batchrun.inspection.exporting import check_targets
from batchrun.job import Job
from batchrun.job.overrides import SCORE
from batchrun.run.conclusion import write_files
from batchrun.run.job_scores import evaluation_of, our_columns
from batchrun.run.matrix_runs import begun_runs, single_run
from batchrun.run.partitioned_run import stored_run
from batchrun.run.parts import is_partitioned
from batchrun.run.run_folders import folders_of
from batchrun.run.signatures import same_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.evaluation import ScoreTotals


T = TypeVar("T")


def score(directory: Path | str, job_file: Path | str | None = None) -> ScoreTotals:
    """Score a run's answers again, and write its outputs and summary again.

    Args:
        directory: the run directory.
        job_file: use the section `[score]` of this job file, and store it with the run.

    Raises:
        CheckpointError: when the checkpoint cannot be used, or the run is active.
        JobError: when there is no `[score]`, it is wrong, or the input is gone.
        OutputError: when a file cannot be written or the input has changed.
    """
    directory = single_run(Path(directory), "score() returns the scores of one; use score_runs()")
    job_file = None if job_file is None else Path(job_file)
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
            evaluation = _required(evaluation_of(job, source), directory)
            config = job.output
            output.result_names(source.columns, config.prefix, config.unnest, our_columns(job))
            check_targets(job, source, directory, None)
            store.replace_job(document)
            write_files(job, source, store, evaluation)
            return evaluation.totals(store)
        finally:
            store.close()


def score_runs(
    directory: Path | str, job_file: Path | str | None = None
) -> dict[Path, ScoreTotals]:
    """Score the answers of a run, or those of each run of a matrix, again; see `score`.

    Returns:
        The scores by run directory.
    """
    return {run: score(run, job_file) for run in begun_runs(Path(directory))}


def score_text(scores: Mapping[Path, ScoreTotals], *, as_json: bool) -> str:
    """Describe the scores that `score_runs` returned; those of several runs with their directories."""
    if as_json:
        facts = [{"directory": str(run), **score_facts(of)} for run, of in scores.items()]
        found = {"runs": facts} if len(facts) > 1 else score_facts(*scores.values())
        return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()
    lines = []
    for run, totals in scores.items():
        lead = f"{run.absolute().name}: " if len(scores) > 1 else ""
        lines += [f"{lead}{line}" for line in score_lines(totals)]
    return "\n".join(map(harmless, lines))


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

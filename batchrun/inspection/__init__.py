"""Commands on a run directory that send nothing: status, export, score, recost; and loading a job."""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from batchrun import checkpoint, output, report
from batchrun.errors import JobError, Record, harmless
from batchrun.evaluation import score_facts, score_lines
from batchrun.inspection import inspect_log
from batchrun.job import OUTPUT_SUFFIXES, Job
from batchrun.job.overrides import SCORE
from batchrun.job.paths import Protected, user_files
from batchrun.job.sections import table_input
from batchrun.pricing import NewPrices, price_book
from batchrun.records import PICO_PER_USD
from batchrun.run.conclusion import write_files
from batchrun.run.damage import check_intact
from batchrun.run.matrix import (
    count_damaged,
    damage_hint,
    is_matrix,
    matrix_status,
    runs_in,
    settled_totals,
)
from batchrun.run.parts import is_partitioned
from batchrun.run.preparation import our_columns, same_input
from batchrun.run.scoring import Evaluation, score_table
from batchrun.run.whole import folders_of, stored_run, totals_of_run
from batchrun.source import Source, input_files, is_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.pricing.totals import RunTotals


TABLE_PREFIX = "batchrun_"
T = TypeVar("T")


def load_job(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Job:
    """Load a job file, or make a job for a table.

    Args:
        path: the job file or the table.
        overrides: dotted keys and their values, such as `{"request.model": "m"}`.

    Raises:
        JobError: when it is wrong.
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
    """Describe a live or dead run, or those of a matrix.

    A run without a matrix may lie in the directory of one: both are described for a person.

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
    running = checkpoint.is_locked(directory)
    totals = settled_totals(totals_of_run(directory), running=running)
    # Looking takes as long as adding up, and a live run is asked again and again.
    damaged = 0 if running else count_damaged(directory)
    if not as_json:
        text = report.status_text(totals, directory, running=running, colour=colour)
        runs = folders_of(directory)
        folders = [folder for run in runs for folder in checkpoint.judge_folders(run)]
        lines = [text, *(_judge_status(folder, colour=colour) for folder in folders)]
        return "\n".join([*lines, *([damage_hint(damaged, directory)] if damaged else [])])
    facts = {"running": running, "waiting": totals.waiting, "damaged": damaged}
    facts |= report.summary(totals)
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def _judge_status(folder: Path, *, colour: bool) -> str:
    """Describe how far a judge is, in one line."""
    with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
        totals = checkpoint.totals(store)
    return report.judge_status_line(totals, folder.name, colour=colour)


def export(directory: Path, to: Path | None = None, since: Since | None = None) -> list[Path]:
    """Write a run's outputs again from its checkpoint, scored again where the job has a `[score]`.

    A function of the job's author runs only for answers that it has not scored yet.

    Args:
        directory: the run directory.
        to: write only this file, with the results, instead of the run's own files.
        since: write only rows whose results are as new as this; needs `to`.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
        JobError: when the input is gone, `to` has an unknown suffix or is missing beside `since`.
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
        return [inspect_log.export_inspect_log(directory, to)]
    if is_partitioned(directory):
        return _export_whole(directory, to, since)
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
            return [output.write_results(job.output, to, results, in_run_directory=False)]
        with checkpoint.open_directory(directory):
            again = evaluation is None or not evaluation.runs_code
            written = write_files(job, source, store, directory, evaluation, score_again=again)
            return list(written.files)
    finally:
        store.close()


def _export_whole(directory: Path, to: Path | None, since: Since | None) -> list[Path]:
    """Write the outputs of a partitioned run again: those of its parts, then those of the whole."""
    run = stored_run(directory)
    _check_targets(run.job, run.source, directory, to)
    run.check_alike()
    if to is not None:
        for folder in folders_of(directory):
            with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
                check_intact(store, folder, run.job.output)
        contents = run.results(to.suffix, since=_start(run.totals(), since))
        contents = replace(contents, partition_by=())
        output.write_contents(to, contents, in_run_directory=False)
        return [to]
    with checkpoint.open_directory(directory):
        for folder in folders_of(directory):
            export(folder)
        return list(run.write().files)


@dataclass(frozen=True, slots=True)
class Since:
    """How new the results to export must be.

    Attributes:
        moment: not older than this; None for those of the last execution.
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
        job_file: take the section `[score]` from this job file, and keep it with the run.

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
            write_files(job, source, store, directory, evaluation)
            return evaluation.totals(store)
        finally:
            store.close()


def _check_targets(job: Job, source: Source, directory: Path, to: Path | None) -> None:
    """See that outputs written again replace none of the user's files.

    Raises:
        JobError: when one would.
    """
    named = user_files(job.document, job.base)
    protected = Protected([*input_files(job.input), *named])
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
    """Describe what a run's answers are worth."""
    if as_json:
        return orjson.dumps(score_facts(totals), option=orjson.OPT_INDENT_2).decode()
    return "\n".join(harmless(line) for line in score_lines(totals))


@dataclass(frozen=True, slots=True)
class Recosted:
    """What a run costs by today's prices, and what it cost before.

    Attributes:
        directory: of the run.
        before: pico-dollars, None when no price was known; `after` likewise.
        unpriced: answers whose price is not known, `unpriced_before` those that were not known.
        kept: what the run is counted by from now on, in words; None when nothing was given.
        files: that were written again.
    """

    directory: Path
    before: int | None
    after: int | None
    unpriced: int
    files: tuple[Path, ...]
    unpriced_before: int = 0
    kept: str | None = None


def recost(directory: Path, job_file: Path | None = None) -> list[Recosted]:
    """Count the costs of a run again from its tokens, and write its outputs and summary again.

    A cost that the provider stated stays. Of a matrix every cell is counted again.

    Args:
        directory: the run directory, or that of a matrix.
        job_file: take `[price]`, and `[request] provider` where it is set, from this job file; the
            run keeps its `[price]`. Otherwise the run's own `[price]` or the price list holds.

    Raises:
        CheckpointError: when the checkpoint cannot be used, or the run is active.
        JobError: when the job file is wrong, or the input is gone.
        OutputError: when the input has changed, and nothing is counted; or when a file cannot be
            written.
    """
    given = None if job_file is None else Job.load(job_file)
    return [_recost_run(each, given) for each in runs_in(directory)]


def _changed(
    directory: Path,
    before: RunTotals,
    after: RunTotals,
    files: tuple[Path, ...],
    given: Job | None,
) -> Recosted:
    return Recosted(
        directory,
        before.known_cost,
        after.known_cost,
        after.unpriced,
        files,
        before.unpriced,
        _given(given),
    )


def _recost_run(directory: Path, given: Job | None) -> Recosted:
    if not is_partitioned(directory):
        return _recost(directory, given)
    before = totals_of_run(directory)
    with checkpoint.open_directory(directory, new=False):
        for folder in folders_of(directory):
            _recost(folder, given)
        written = stored_run(directory).write()
    after = written.totals or totals_of_run(directory)
    return _changed(directory, before, after, written.files, given)


def _recost(directory: Path, given: Job | None) -> Recosted:
    with (
        checkpoint.open_directory(directory, new=False),
        closing(checkpoint.Checkpoint(directory, writable=True)) as store,
    ):
        document, base, signature = store.job()
        if given is not None:
            document.pop("price", None)
            if "price" in given.document:
                document["price"] = given.document["price"]
        job = Job.from_document(document, Path(base), origin=str(store.path))
        source = same_input(job, signature)
        check_intact(store, directory, job.output, {*Record} - {*checkpoint.COUNTED})
        before = checkpoint.totals(store)
        if given is None:
            provider = checkpoint.given_price(store).provider
        else:
            provider = given.request.provider
            kept = checkpoint.GivenPrice(given.document.get("price"), provider)
            checkpoint.keep_given_price(store, kept)
        with store.transaction():
            _count_again(store, job, provider)
            store.replace_job(document)
        evaluation = Evaluation.of(job, source)
        again = evaluation is None or not evaluation.runs_code
        written = write_files(job, source, store, directory, evaluation, score_again=again)
        after = written.totals or checkpoint.totals(store)
    return _changed(directory, before, after, written.files, given)


def _given(job: Job | None) -> str | None:
    """Return in words what a job file gives to count costs by."""
    if job is None:
        return None
    parts = ["[price]"] if "price" in job.document else []
    if job.request.provider is not None:
        parts.append(f'provider = "{job.request.provider}"')
    return f"{' and '.join(parts)} of the job file" if parts else None


def _count_again(store: checkpoint.Checkpoint, job: Job, provider: str | None) -> None:
    """Replace the cost of every attempt, and the prices that are kept with the run."""
    books = {
        execution: price_book(job, provider or name, base_url)
        for execution, (name, base_url) in checkpoint.providers(store.db).items()
    }
    prices = {execution: NewPrices(book) for execution, book in books.items()}
    checkpoint.forget_damaged_costs(store)
    checkpoint.forget_prices(store.db)
    for attempts in checkpoint.attempts_to_count(store.db):
        costs = []
        for one in attempts:
            book, new, at = books[one.execution], prices[one.execution], one.ended_at
            models = (one.model, one.asked_model)
            cost = book.cost(one.usage, *models, billing=one.billing, at=at)
            costs.append((one, cost))
            price = new.of(one.usage, *models, billing=one.billing, at=at)
            if price is not None:
                checkpoint.note_price(store, price, one.execution)
        checkpoint.write_costs(store.db, costs)


def recost_text(runs: Sequence[Recosted], *, as_json: bool) -> str:
    """Describe what costs became."""
    if as_json:
        facts = [
            {
                "directory": str(run.directory),
                "before_usd": _whole_usd(run.before, run.unpriced_before),
                "cost_usd": _whole_usd(run.after, run.unpriced),
                "answers_without_price": run.unpriced,
                "files": [str(file) for file in run.files],
            }
            for run in runs
        ]
        return orjson.dumps({"runs": facts}, option=orjson.OPT_INDENT_2).decode()
    return "\n".join(_recosted(run) for run in runs)


def _whole_usd(pico: int | None, unpriced: int) -> float | None:
    """Return a sum in USD; None when it is that of a part of the answers."""
    return None if pico is None or unpriced else pico / PICO_PER_USD


def _recosted(run: Recosted) -> str:
    before, after = _amount(run.before, run.unpriced_before), _amount(run.after, run.unpriced)
    rest = f"; the price of {run.unpriced:,} answers is unknown" if run.unpriced else ""
    return harmless(f"{run.directory}: {after} (before: {before}){rest}")


def recost_notes(runs: Sequence[Recosted], directory: Path) -> list[str]:
    """Return what a person may want to know beside what costs became."""
    notes = list(dict.fromkeys(f"kept for later runs: {run.kept}" for run in runs if run.kept))
    if any(run.unpriced for run in runs):
        again = shlex.join(["batchrun", "recost", str(directory), "--job", "JOB"])
        notes.append(f'set [price."MODEL"] in a job file, then count again: {again}')
    return notes


def _amount(pico: int | None, unpriced: int) -> str:
    """Return a sum of costs; that of a part of the answers says so."""
    if pico is None:
        return "unknown"
    return f"{'at least ' if unpriced else ''}${pico / PICO_PER_USD:,.6f}"


def _score_section(path: Path) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the `[score]` of a job file in a form that means the same in any folder."""
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
    """Return the evaluation of a job, or its score, if it has any."""
    if found is None:
        raise JobError(
            f"{directory}: the job of this run has no section [score]; add one to the job file, "
            f"and run: batchrun score {directory} --job JOB"
        )
    return found

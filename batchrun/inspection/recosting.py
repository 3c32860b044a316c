"""Computes the costs of a run again from its tokens; nothing is sent."""

from __future__ import annotations

import shlex
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import checkpoint
from batchrun.errors import Record, harmless
from batchrun.job import Job
from batchrun.pricing import NewPrices, price_book
from batchrun.records import PICO_PER_USD
from batchrun.run.conclusion import write_files
from batchrun.run.damage import check_intact
from batchrun.run.job_scores import evaluation_of
from batchrun.run.judge_runs import judge_folder, judge_job
from batchrun.run.matrix_runs import begun_runs
from batchrun.run.partitioned_run import stored_run
from batchrun.run.parts import is_partitioned
from batchrun.run.run_folders import folders_of, totals_of_run
from batchrun.run.signatures import same_input

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from batchrun.pricing.totals import RunTotals


@dataclass(frozen=True, slots=True)
class Recosted:
    """The cost of a run with new prices, and with the earlier ones.

    Attributes:
        directory: the run directory.
        before: pico-dollars; None if no price was known. Likewise `after`.
        unpriced: answers whose price is not known; `unpriced_before` with the earlier prices.
        kept: a description of the prices that the run uses from now on; None if none were given.
        files: the files that were written again.
    """

    directory: Path
    before: int | None
    after: int | None
    unpriced: int
    files: tuple[Path, ...]
    unpriced_before: int = 0
    kept: str | None = None


def recost(directory: Path | str, job_file: Path | str | None = None) -> list[Recosted]:
    """Compute the costs of a run again from its tokens, and write its outputs and summary again.

    A cost that the provider stated is not changed. The costs of judges are computed again, too. For a
    matrix, this is done for every cell.

    Args:
        directory: the run directory, or that of a matrix.
        job_file: use `[price]`, and `[request] provider` if it is set, of this job file, and store the
            `[price]` with the run. By default, the run's own `[price]` or the price list is used.

    Raises:
        CheckpointError: when the checkpoint cannot be used, or the run is active.
        JobError: when the job file is wrong, or the input is gone.
        OutputError: when the input has changed (then nothing is computed), or a file cannot be written.
    """
    directory = Path(directory)
    given = None if job_file is None else Job.load(job_file)
    return [each for run in begun_runs(directory) for each in _recost_run(run, given)]


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


def _recost_run(directory: Path, given: Job | None) -> list[Recosted]:
    """Compute the costs of a run again; return them and those of its judges."""
    if not is_partitioned(directory):
        return _recost(directory, given)
    before = totals_of_run(directory)
    judges = []
    with checkpoint.open_directory(directory, new=False):
        for folder in folders_of(directory):
            judges += _recost(folder, given)[1:]
        written = stored_run(directory).write()
    after = written.totals or totals_of_run(directory)
    return [_changed(directory, before, after, written.files, given), *judges]


def _recost(directory: Path, given: Job | None) -> list[Recosted]:
    with ExitStack() as stack:
        stack.enter_context(checkpoint.open_directory(directory, new=False))
        store = stack.enter_context(closing(checkpoint.Checkpoint(directory, writable=True)))
        document, base, signature = store.job()
        document = _with_price(document, given)
        job = Job.from_document(document, Path(base), origin=str(store.path))
        source = same_input(job, signature)
        uncounted = {*Record} - {*checkpoint.COUNTED}
        check_intact(store, directory, job.output, uncounted)
        # Those of the judges are checked before anything is counted again.
        judges = [
            (folder, stack.enter_context(_open_judge(folder, uncounted)))
            for folder in checkpoint.judge_folders(directory)
        ]
        before = checkpoint.totals(store)
        _count_store(store, job, given)
        judged = [_recost_judge(folder, own, given) for folder, own in judges]
        evaluation = evaluation_of(job, source)
        again = evaluation is None or not evaluation.runs_code
        written = write_files(job, source, store, evaluation, score_again=again)
        after = written.totals or checkpoint.totals(store)
    return [_changed(directory, before, after, written.files, given), *judged]


@contextmanager
def _open_judge(
    folder: Path, records: Collection[Record]
) -> Iterator[tuple[checkpoint.Checkpoint, Job]]:
    """Lock the folder of a judge and open its checkpoint, whose `records` must be intact."""
    with (
        checkpoint.open_directory(folder, new=False),
        closing(checkpoint.Checkpoint(folder, writable=True)) as store,
    ):
        document, base, _ = store.job()
        job = Job.from_document(document, Path(base), origin=str(store.path))
        check_intact(store, folder, job.output, records)
        yield store, job


def _recost_judge(
    folder: Path, opened: tuple[checkpoint.Checkpoint, Job], given: Job | None
) -> Recosted:
    store, job = opened
    own = None if given is None else _given_to_judge(given, folder)
    job = Job.from_document(_with_price(job.document, own), job.base, origin=str(store.path))
    before = checkpoint.totals(store)
    _count_store(store, job, own)
    return _changed(folder, before, checkpoint.totals(store), (), own)


def _given_to_judge(given: Job, folder: Path) -> Job:
    """Return the prices for a judge from a job file: the judge's `provider`, and the `[price]` of the job."""
    for config in given.scores:
        if config.judge is not None and judge_folder(config.name) == folder.name:
            return judge_job(given, config.judge, folder.name)
    return given


def _with_price(document: Mapping[str, Any], given: Job | None) -> dict[str, Any]:
    """Return the document of a job with the `[price]` of the given job file."""
    if given is None:
        return {**document}
    rest = {key: section for key, section in document.items() if key != "price"}
    return rest | ({"price": given.document["price"]} if "price" in given.document else {})


def _count_store(store: checkpoint.Checkpoint, job: Job, given: Job | None) -> None:
    """Compute the costs in a checkpoint again with the prices of a job, and store given prices for later runs."""
    if given is None:
        provider = checkpoint.given_price(store).provider
    else:
        provider = given.request.provider
        kept = checkpoint.GivenPrice(given.document.get("price"), provider)
        checkpoint.keep_given_price(store, kept)
    with store.transaction():
        _count_again(store, job, provider)
        store.replace_job(job.document)


def _given(job: Job | None) -> str | None:
    """Return a description of the prices that a job file gives."""
    if job is None:
        return None
    parts = ["[price]"] if "price" in job.document else []
    if job.request.provider is not None:
        parts.append(f'provider = "{job.request.provider}"')
    return f"{' and '.join(parts)} of the job file" if parts else None


def _count_again(store: checkpoint.Checkpoint, job: Job, provider: str | None) -> None:
    """Replace the cost of every attempt, and the prices that are stored with the run."""
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
    """Describe the new costs."""
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
    """Return a sum in USD; None if some answers have no known price."""
    return None if pico is None or unpriced else pico / PICO_PER_USD


def _recosted(run: Recosted) -> str:
    before, after = _amount(run.before, run.unpriced_before), _amount(run.after, run.unpriced)
    rest = f"; the price of {run.unpriced:,} answers is unknown" if run.unpriced else ""
    return harmless(f"{run.directory}: {after} (before: {before}){rest}")


def recost_notes(runs: Sequence[Recosted], directory: Path) -> list[str]:
    """Return notes about the new costs for the user."""
    notes = list(dict.fromkeys(f"kept for later runs: {run.kept}" for run in runs if run.kept))
    if any(run.unpriced for run in runs):
        again = shlex.join(["batchrun", "recost", str(directory), "--job", "JOB"])
        notes.append(f'set [price."MODEL"] in a job file, then count again: {again}')
    return notes


def _amount(pico: int | None, unpriced: int) -> str:
    """Return a sum of costs as text; it says so if some answers have no known price."""
    if pico is None:
        return "unknown"
    return f"{'at least ' if unpriced else ''}${pico / PICO_PER_USD:,.6f}"

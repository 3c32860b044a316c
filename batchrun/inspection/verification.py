"""`batchrun verify`: checks a run directory. Only reads, and sends nothing.

It compares the checkpoint with its checksums, the requests with those that the job renders from the
input, and each output with the content that an export would write now.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING

import orjson

from batchrun import __version__, checkpoint, output, report
from batchrun.errors import (
    DAMAGE_REMEDY,
    CheckpointError,
    Flaw,
    JobError,
    Record,
    RunEnd,
)
from batchrun.inspection.findings import SUMMARY, USAGE, Findings, check_whole, summary_flaws
from batchrun.job import Job
from batchrun.records import changed
from batchrun.render import Renderer
from batchrun.run.damage import described, remedy_for
from batchrun.run.job_scores import evaluation_of, score_table
from batchrun.run.matrix_runs import begun_runs, is_matrix
from batchrun.run.parts import is_partitioned, missing_parts
from batchrun.run.run_folders import folders_of
from batchrun.run.signatures import input_signature, plan_signature
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.errors import Damage
    from batchrun.evaluation import ScoreTotals
    from batchrun.inspection.findings import Finding
    from batchrun.records import RenderedItem
    from batchrun.run.scoring import Evaluation


_BESIDE_INPUT = "requests, scores and the input's columns in the results"
_PART = re.compile(r"\bpart-\d{4,}(?=[/.])")
_RESTORE = "restore checkpoint.db from a backup, or start over with: batchrun run JOB --new"
_RESTORE_PART = "restore it from a backup; to send its rows again, run the job with --yes"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`.

    Attributes:
        directory: the run directory.
        findings: the problems; empty if none were found.
        notes: what could not be checked, and why.
        checked: what was checked.
    """

    directory: Path
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    checked: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if there are no problems, otherwise 5."""
        return CheckpointError.exit_code if self.findings else 0

    def text(self) -> str:
        """Return a line for each problem and each check that was not possible, and a line for all."""
        lines = [str(finding) for finding in self.findings]
        lines += [f"not checked: {note}" for note in self.notes]
        count = len(self.findings)
        whole = "no problems found in what was checked" if self.notes else "no problems found"
        found = f"{count} {'problem' if count == 1 else 'problems'} found" if count else whole
        # A run may have hundreds of parts.
        names = dict.fromkeys(_PART.sub("part-*", name) for name in self.checked)
        checked = ", ".join(names) or "nothing"
        lines.append(f"{self.directory}: {found}; checked {checked}")
        return "\n".join(lines)

    def json(self) -> str:
        """Return the same for programs."""
        facts = {
            "directory": str(self.directory),
            "ok": not self.findings,
            "findings": [asdict(finding) for finding in self.findings],
            "not_checked": self.notes,
            "checked": self.checked,
        }
        return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def verify(directory: Path | str) -> Verification:
    """Check a run's checkpoint and outputs against each other, and its requests against its input.

    For a matrix, check the runs of its cells, and a run that shares its directory.

    Raises:
        CheckpointError: when the checkpoint cannot be opened, the run is active, or no cell has begun.
    """
    directory = Path(directory)
    with checkpoint.shared_lock(directory):
        if not is_matrix(directory):
            return _verify_whole(directory)
        with ExitStack() as stack:
            runs = begun_runs(directory)
            # All locks first: a run that begins meanwhile would change what is compared.
            for run in runs:
                stack.enter_context(checkpoint.shared_lock(run))
            return _combined(directory, [_verify_whole(run) for run in runs])


def _verify_whole(directory: Path) -> Verification:
    """Check a run; for a partitioned one, the parts, and then the outputs of the whole run."""
    if not is_partitioned(directory):
        return _verify_with_judges(directory)
    with ExitStack() as stack:
        missing = missing_parts(directory)
        folders = checkpoint.part_folders(directory) if missing else folders_of(directory)
        for folder in folders:
            stack.enter_context(checkpoint.shared_lock(folder))
        parts = _combined(directory, [_verify_with_judges(folder) for folder in folders])
    found = Findings(list(parts.findings), list(parts.notes), list(parts.checked))
    for part in missing:
        found.wrong(f"{part}/{checkpoint.FILE_NAME}", [Flaw("is not there")], _RESTORE_PART)
    if missing:
        found.notes.append("the outputs of the whole run, because parts of it are missing")
    elif not found.findings:
        with found.as_note("the outputs of the whole run"):
            check_whole(directory, found)
    return Verification(directory, tuple(found.findings), tuple(found.notes), tuple(found.checked))


def _verify_with_judges(directory: Path) -> Verification:
    """Check a run, and the checkpoints of its judges in the folders of its directory."""
    runs = [_verify_run(each) for each in (directory, *checkpoint.judge_folders(directory))]
    return _combined(directory, runs)


def _combined(directory: Path, cells: Sequence[Verification]) -> Verification:
    """Combine the results for several runs; file names get the folder of their run."""
    named = [
        ("" if cell.directory == directory else f"{cell.directory.name}/", cell) for cell in cells
    ]
    return Verification(
        directory,
        tuple(
            replace(f, file=normpath(name + f.file)) for name, cell in named for f in cell.findings
        ),
        tuple(name + note for name, cell in named for note in cell.notes),
        tuple(normpath(name + file) for name, cell in named for file in cell.checked),
    )


def _verify_run(directory: Path) -> Verification:
    found = Findings()
    with closing(checkpoint.Checkpoint(directory, writable=False, still=True)) as store:
        try:
            _check_everything(directory, store, found)
        except CheckpointError as error:
            problem = str(error).removeprefix(f"{store.path}: ")
            found.wrong(checkpoint.FILE_NAME, [Flaw(problem)])
    return Verification(directory, tuple(found.findings), tuple(found.notes), tuple(found.checked))


def _check_everything(directory: Path, store: checkpoint.Checkpoint, found: Findings) -> None:
    if found.wrong(checkpoint.FILE_NAME, checkpoint.file_flaws(store), _RESTORE):
        found.notes.append("everything else, because the checkpoint is damaged")
        return
    damage = checkpoint.find_damage(store)
    is_job_damaged = checkpoint.find_damage(store, (Record.RUN,)).count
    job = None if is_job_damaged else _job_of(store, found)
    # Other problems may only follow from damaged records, and the remedy for these comes first.
    if damage.count:
        _describe(damage, directory, store, job, found)
        return
    states = checkpoint.state_flaws(store, shared=job is None or job.request.dedupe)
    is_wrong = found.wrong(checkpoint.FILE_NAME, states, DAMAGE_REMEDY)
    is_judge = job is not None and job.judge is not None
    # What a judge was asked follows from the answers of another run, and it has no outputs.
    source = None if job is None or is_judge else _source_of(job, store, found)
    if job is not None and source is not None:
        with found.as_note("requests"):
            _check_requests(job, source, store, found)
    if is_wrong:
        found.notes.append("the outputs, because records of the checkpoint are wrong or missing")
        return
    found.checked.insert(0, checkpoint.FILE_NAME)
    if not is_judge:
        _check_outputs(directory, store, job, source, found)


def _describe(
    damage: Damage,
    directory: Path,
    store: checkpoint.Checkpoint,
    job: Job | None,
    found: Findings,
) -> None:
    """Add damaged records, and say whether an output has a correct copy."""
    shown = described(store, damage, directory, None if job is None else job.output)
    remedy = remedy_for(damage, directory)
    for record, problem in shown:
        found.wrong(checkpoint.FILE_NAME, [Flaw(problem, record.custom_id)], remedy)
    more = damage.count - len(shown)
    others = f" ({more:,} more than are listed)" if more else ""
    found.notes.append(
        f"the outputs and all else, because records of the checkpoint are damaged{others}"
    )


def _check_outputs(
    directory: Path,
    store: checkpoint.Checkpoint,
    job: Job | None,
    source: Source | None,
    found: Findings,
) -> None:
    outputs = _Outputs(directory, store, found)
    score = None
    if job is not None and source is not None:
        with found.as_note("results and scores"):
            score = outputs.check_results(job, source)
    elif job is not None:
        with found.as_note("results"):
            outputs.check_own_columns(job)
    with found.as_note(f"{USAGE} and {SUMMARY}"):
        outputs.check_usage()
        outputs.check_summary(score)


def _job_of(store: checkpoint.Checkpoint, found: Findings) -> Job | None:
    """Return the job that is stored with the run, if it can still be used."""
    document, base, _ = store.job()
    try:
        return Job.from_document(document, Path(base), origin=str(store.path))
    except JobError as error:
        found.notes.append(f"{_BESIDE_INPUT}: {error}")
        return None


def _source_of(job: Job, store: checkpoint.Checkpoint, found: Findings) -> Source | None:
    """Open the input if it is unchanged since the run."""
    _, _, signature = store.job()
    try:
        source = Source(job.input)
    except JobError as error:
        found.notes.append(f"{_BESIDE_INPUT}: {error}")
        return None
    if signature.endswith(input_signature(job, source)):
        return source
    found.notes.append(
        f"{_BESIDE_INPUT}: {job.input.path} has changed since the run (its size or its time). "
        "Run the job again: only new rows are sent"
    )
    return None


def _check_requests(
    job: Job, source: Source, store: checkpoint.Checkpoint, found: Findings
) -> None:
    """Check that each row has the request that is rendered from it now, by fingerprint."""
    flaws = list(_request_flaws(job, source, store))
    version = checkpoint.last_version(store)
    if flaws and version != __version__:
        found.notes.append(
            f"requests: they were created by batchrun {version}, and this is {__version__}. Run "
            "the job again to create them again: only those that differ are sent"
        )
    elif flaws and (job.request.images or job.request.documents):
        found.notes.append(
            f"requests: {flaws[0].others + 1:,} rows have a different request from the one that "
            "was sent, for example another image or document under the same name. Run the job again: "
            "only those are sent"
        )
    else:
        found.check("fingerprints", flaws, _RESTORE)


def _request_flaws(job: Job, source: Source, store: checkpoint.Checkpoint) -> Iterator[Flaw]:
    if plan_signature(job, source) != store.job()[2]:
        yield Flaw("the stored job is not the one that was run")
    renderer, rows = Renderer(job, source.columns), 0
    flaws: dict[str, Flaw] = {}
    samples = job.request.samples
    for rendered in renderer.table_chunks(source, samples):
        for item, problem in _request_problems(rendered, store):
            first = flaws.setdefault(problem, Flaw(problem, item.custom_id, -1))
            flaws[problem] = Flaw(problem, first.row, first.others + 1)
        rows += len(rendered) // samples
    yield from flaws.values()
    if rows != (total := store.size()[0]):
        yield Flaw(f"{total:,} rows are counted, and the input has {rows:,}")


def _request_problems(
    rendered: Iterable[RenderedItem], store: checkpoint.Checkpoint
) -> Iterator[tuple[RenderedItem, str]]:
    items = list(rendered)
    held = checkpoint.planned_rows(store, items[0].ordinal, items[-1].ordinal + 1)
    is_planned = checkpoint.is_planned(store)
    for item in items:
        planned = held.get(item.ordinal)
        if planned is None:
            if is_planned:
                yield item, "has no request"
        elif planned.custom_id != item.custom_id:
            yield item, "is kept under another id"
        elif planned != changed(item, request=None, wire=None):
            yield (
                item,
                "has a different request from the one that was sent: its fingerprint differs",
            )


class _Outputs:
    """Compares the files of a run directory with the content that would be written now."""

    def __init__(self, directory: Path, store: checkpoint.Checkpoint, found: Findings) -> None:
        self._directory = directory
        self._store = store
        self._totals = checkpoint.totals(store)
        self._found = found
        # Damaged records are found before, and then this is not used.
        right = "the checkpoint matches its checksums"
        self._export = f"{right}; write it again from there with: batchrun export {directory}"

    def check_results(self, job: Job, source: Source) -> ScoreTotals | None:
        """Compare the files of results and the scores; return the totals of the scores."""
        store, scores, score = self._store, None, None
        evaluation = evaluation_of(job, source)
        if evaluation is not None:
            self._check_scores(evaluation, source)
            scores, score = score_table(job, store), evaluation.totals(store)
        kinds = checkpoint.result_kinds(job.request.optional_columns)
        results = output.Results(source, store, kinds, scores)
        for name in job.output.files:
            self._compare(name, output.results_contents(job.output, Path(name).suffix, results))
        return score

    def _check_scores(self, evaluation: Evaluation, source: Source) -> None:
        """Compute the scores again, unless that would run code from the author of the job."""
        again = f"batchrun score {self._directory}"
        if evaluation.runs_code:
            self._found.notes.append(
                "scores: verify does not run the [score] function; to calculate them again: "
                + again
            )
            return
        evaluation.score(source, self._store)
        if self._has_ended:
            flaws = checkpoint.score_flaws(self._store)
            self._found.check("scores", flaws, f"calculate them again with: {again}")

    def check_own_columns(self, job: Job) -> None:
        """Compare only the columns that batchrun adds, because the input is missing."""
        store, samples = self._store, job.request.samples
        if not checkpoint.is_planned(store):
            self._found.notes.append(
                "results: it is not known whether the run has planned every row"
            )
            return

        def ids(first: int, end: int) -> list[str]:
            planned = checkpoint.planned_rows(store, first * samples, end * samples)
            return [planned[row * samples].custom_id for row in range(first, end)]

        table = output.IdTable(self._totals.total, ids)
        scores = score_table(job, store)
        kinds = checkpoint.result_kinds(job.request.optional_columns)
        results = output.Results(table, store, kinds, scores)
        for name in job.output.files:
            self._compare(name, output.own_contents(job.output, self._directory / name, results))

    def check_usage(self) -> None:
        """Compare the table of attempts."""
        self._compare(USAGE, output.usage_contents(self._store, checkpoint.ATTEMPT_KINDS))

    def check_summary(self, score: ScoreTotals | None) -> None:
        """Compare the totals; those of scores only if they are known."""
        if self._is_expected(SUMMARY):
            wanted = report.summary_json(self._totals, score)
            flaws = summary_flaws(self._directory / SUMMARY, wanted, is_scored=score is not None)
            self._found.check(SUMMARY, flaws, self._export)

    def _compare(self, name: str, contents: output.FileContents) -> None:
        if self._is_expected(name):
            flaws = output.differences(self._directory / name, contents)
            self._found.check(name, flaws, self._export)

    def _is_expected(self, name: str) -> bool:
        """Return whether a file exists. Add a problem if it is missing although an execution has finished."""
        if (self._directory / name).exists():
            return True
        if self._has_ended:
            self._found.wrong(name, [Flaw("is not there")], self._export)
        else:
            self._found.notes.append(f"{name}: no execution has finished yet")
        return False

    @property
    def _has_ended(self) -> bool:
        """Return whether an execution finished and wrote outputs; the samples of an estimate write none."""
        before = {RunEnd.UNFINISHED, RunEnd.SAMPLED}
        return any(execution["outcome"] not in before for execution in self._totals.executions)

"""A partitioned run as a whole: its outputs, totals and scores, from those of its parts."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import checkpoint, output, report
from batchrun.checkpoint import ATTEMPT_KINDS, result_kinds
from batchrun.errors import OutputError
from batchrun.job import Job
from batchrun.run.conclusion import SUMMARY_FILE, Written
from batchrun.run.damage import USAGE_FILE
from batchrun.run.job_scores import columns_of_scores, evaluation_of, score_table
from batchrun.run.parts import (
    PartList,
    read_parts,
)
from batchrun.run.run_folders import stored_document, totals_of_run
from batchrun.run.signatures import same_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    import polars as pl

    from batchrun.evaluation import ScoreTotals
    from batchrun.job import RunPart
    from batchrun.pricing.totals import RunTotals
    from batchrun.run.scoring import Evaluation
    from batchrun.source import Source


class NoRows:
    """The rows of a part that has not begun: the checkpoint has none of them."""

    def columns(self, _first: int, _end: int, names: Sequence[str]) -> Mapping[str, list[Any]]:
        """Return no rows."""
        return {name: [] for name in ("ordinal", *names)}

    def rows_within(self, first: int, end: int, _most_bytes: int) -> int:
        """Return all rows: they have no answers."""
        return end - first

    def attempt_columns(self, _chunk_rows: int) -> Iterator[Mapping[str, list[Any]]]:
        """Yield nothing."""
        yield from ()


@dataclass(frozen=True, slots=True)
class PartitionedRun:
    """A partitioned run.

    Attributes:
        directory: the run directory.
        job: job of the whole run.
        source: the whole input.
        parts: how it is divided.
    """

    directory: Path
    job: Job
    source: Source
    parts: PartList

    @property
    def begun(self) -> list[RunPart]:
        """The parts that have a checkpoint."""
        there = {folder.name for folder in checkpoint.part_folders(self.directory)}
        return [part for part in self.parts.parts if part.name in there]

    def results(
        self,
        suffix: str,
        rows_of: Callable[[checkpoint.Checkpoint], output.Rows] | None = None,
        since: datetime | None = None,
        parts: Sequence[RunPart] | None = None,
    ) -> output.FileContents:
        """Return the contents of a file of the results of some parts, or of all; one is open at a time."""

        def contents_of(part: RunPart, store: checkpoint.Checkpoint | None) -> output.FileContents:
            job = self.job.of_part(part)
            kinds = result_kinds(job.request.optional_columns)
            rows: output.Rows = NoRows()
            scores = _no_scores(job)
            if store is not None:
                rows = store if rows_of is None else rows_of(store)
                scores = score_table(job, store)
            results = output.Results(self.source.of_part(part), rows, kinds, scores, since)
            return output.results_contents(self.job.output, suffix, results)

        return self._chained(contents_of, self.parts.parts if parts is None else parts)

    def usage(
        self, rows_of: Callable[[checkpoint.Checkpoint], output.Rows] | None = None
    ) -> output.FileContents:
        """Return the contents of the table of all attempts."""

        def contents_of(_part: RunPart, store: checkpoint.Checkpoint | None) -> output.FileContents:
            rows: output.Rows = NoRows()
            if store is not None:
                rows = store if rows_of is None else rows_of(store)
            return output.usage_contents(rows, ATTEMPT_KINDS)

        return self._chained(contents_of, self.parts.parts)

    def _chained(
        self,
        contents_of: Callable[[RunPart, checkpoint.Checkpoint | None], output.FileContents],
        parts: Sequence[RunPart],
    ) -> output.FileContents:
        begun = {part.number for part in self.begun}

        def frames(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
            for part in parts:
                with self._opened(part, is_begun=part.number in begun) as store:
                    yield from contents_of(part, store).frames(columns)

        return replace(contents_of(parts[0], None), frames=frames)

    @contextmanager
    def _opened(self, part: RunPart, *, is_begun: bool) -> Iterator[checkpoint.Checkpoint | None]:
        if not is_begun:
            yield None
            return
        folder = self.directory / part.name
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            yield store

    def totals(self) -> RunTotals:
        """Add up the parts."""
        return totals_of_run(self.directory)

    def score(self) -> ScoreTotals | None:
        """Add up the stored scores of the parts; None if the job has no `[score]`."""
        evaluation = evaluation_of(self.job, self.source)
        if evaluation is None:
            return None
        folders = [(self.directory / part.name, part.first) for part in self.begun]
        with checkpoint.merged(folders, self.parts.rows, checkpoint.SCORED) as store:
            return with_judges(self.directory, evaluation, evaluation.totals(store))

    def write(
        self, rows_of: Callable[[checkpoint.Checkpoint], output.Rows] | None = None
    ) -> Written:
        """Write the outputs of the whole run from those of its parts, and its `summary.json`.

        Raises:
            OutputError: when a file cannot be written, or a part belongs to another input or job.
            JobError: when a file that no run wrote has the name of an output.
        """
        self.check_alike()
        files, notes = [], []
        for name in self.job.output.files:
            path = self.directory / name
            output.refuse_foreign_results(path, "[output] files", in_run_directory=True)
            note = self._write_results(path, rows_of)
            files.append(path)
            notes += [] if note is None else [note]
        usage = self.directory / USAGE_FILE
        output.write_contents(usage, self.usage(rows_of))
        totals, score = self.totals(), self.score()
        summary = self.directory / SUMMARY_FILE
        output.write_text(summary, report.summary_json(totals, score))
        return Written((*files, usage, summary), score, totals, tuple(notes))

    def _write_results(
        self, path: Path, rows_of: Callable[[checkpoint.Checkpoint], output.Rows] | None
    ) -> str | None:
        if path.suffix != ".parquet" or self.job.output.partition_by:
            return output.write_contents(path, self.results(path.suffix, rows_of))
        begun = {part.number for part in self.begun}
        pieces: list[output.FileContents | Path] = []
        for part in self.parts.parts:
            contents = self.results(path.suffix, rows_of, parts=[part])
            if part.number in begun:
                file = self.directory / f"{part.name}.parquet"
                if not self._is_current(part, file, contents):
                    output.write_contents(file, contents)
                pieces.append(file)
            else:
                pieces.append(contents)
        output.concatenate(pieces, path)
        return None

    def _is_current(self, part: RunPart, file: Path, contents: output.FileContents) -> bool:
        """Return whether the file of a part is of the last execution that worked on the part.

        An execution that was killed or could not write may have left an older one. `summary.json` of the
        part is written after the file.
        """
        folder = self.directory / part.name
        try:
            written = orjson.loads((folder / SUMMARY_FILE).read_bytes())["executions"]
            known = [execution["execution"] for execution in written]
        except (OSError, ValueError, LookupError, TypeError):
            return False
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            return store.executions() == known and output.has_columns(file, contents.schema)

    def check_alike(self) -> None:
        """Check that all parts that have begun belong to the same job and input.

        Raises:
            OutputError: if the run stopped before it reached a part whose input or job has changed.
        """
        if not self.is_placed():
            raise OutputError(
                f"{self.directory}: the job or its input has changed, and not all "
                "parts have been updated since then. Run the job again: only what differs is sent"
            )

    def is_placed(self) -> bool:
        """Return whether all parts that have begun belong to the same job and input."""
        return len({_signature(self.directory / part.name) for part in self.begun}) <= 1


def _signature(folder: Path) -> str:
    with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
        return store.job()[2]


def _no_scores(job: Job) -> output.ScoreTable | None:
    if not job.scores:
        return None
    kinds = {column.name: column.kind for column in columns_of_scores(job)}
    return output.ScoreTable(kinds, lambda _first, _end: [])


def stored_run(directory: Path) -> PartitionedRun:
    """Open a partitioned run whose input is unchanged.

    Raises:
        JobError: if the input cannot be read.
        OutputError: if the input has changed.
        CheckpointError: when no part has begun, or the first cannot be used.
    """
    document, base, signature = stored_document(directory)
    job = Job.from_document(document, Path(base), origin=str(directory))
    return PartitionedRun(directory, job, same_input(job, signature), read_parts(directory))


def with_judges(directory: Path, evaluation: Evaluation, score: ScoreTotals) -> ScoreTotals:
    """Add the totals of judges in all parts of a run; their checkpoints are in folders of the parts."""
    for judge in evaluation.judges:
        name = judge.config.name
        folders = [part / judge.folder for part in checkpoint.part_folders(directory)]
        folders = [each for each in folders if checkpoint.holds_run(each)]
        own = score.scorers[name] if name else score
        if not folders or own.judge is None:
            continue
        done = checkpoint.totals_of_parts(folders)
        whole = replace(
            own.judge,
            attempts=done.attempts,
            maybe_billed=done.maybe_billed,
            input_tokens=done.usage.input_tokens,
            output_tokens=done.usage.output_tokens,
            cost=done.known_cost,
        )
        own = replace(own, judge=whole)
        score = replace(score, scorers={**score.scorers, name: own}) if name else own
    return score

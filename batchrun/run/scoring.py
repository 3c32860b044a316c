"""`[score]` at work: reads the rows again, judges their answers, keeps the marks in the checkpoint."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import __version__, checkpoint
from batchrun.errors import RenderError
from batchrun.evaluation import RowScore, Scorer
from batchrun.render import Expression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.job import Job, ScoreConfig
    from batchrun.records import Item
    from batchrun.source import Source


CHUNK_ROWS = 1_000
CHUNK_BYTES = 8 * 1024 * 1024
# The ways of comparing whose answers are labels; what a function judges may be, too.
_LABELS = {"exact", "casefold", "choice"}


class Evaluation:
    """What the answers of a job's rows are worth.

    Args:
        config: the job's `[score]`.
        columns: the input's columns.

    Attributes:
        runs_code: whether a function of the job's author judges.

    Raises:
        JobError: when the template or the pattern is wrong, or a column is missing.
    """

    def __init__(self, config: ScoreConfig, columns: Sequence[str]) -> None:
        self._config = config
        self.runs_code = config.function is not None
        self._scorer = Scorer(config)
        self._expected = None
        self._columns: Sequence[str] = columns
        if config.expected is not None:
            self._expected = Expression("score", "expected", config.expected, columns)
            if config.function is None:
                self._columns = self._expected.columns

    @classmethod
    def of(cls, job: Job, source: Source) -> Evaluation | None:
        """Return a job's evaluation, None when it has no `[score]`.

        Raises:
            JobError: see the class.
        """
        return None if job.score is None else cls(job.score, source.columns)

    def load(self) -> None:
        """Import the function now, if there is one, rather than when the answers are scored.

        Raises:
            JobError: when it cannot be imported or does not fit.
        """
        self._scorer.load()

    def score(self, source: Source, store: checkpoint.Checkpoint, *, again: bool = True) -> None:
        """Scorer every row that succeeded.

        Args:
            source: the input.
            store: the checkpoint.
            again: also when these answers have been scored by the same `[score]`.

        Raises:
            JobError: when the input cannot be read, or the function cannot be imported.
            CheckpointError: when the checkpoint cannot be used.
        """
        if again or not checkpoint.is_scored(store, self._scored_by):
            self.load()
            checkpoint.write_scores(store, self._row_scores(source, store), self._scored_by)

    @property
    def _scored_by(self) -> str:
        """Changes when answers may score differently; not with the content of a function."""
        digest = hashlib.blake2b(repr(self._config).encode(), digest_size=8).hexdigest()
        return f"{__version__}:{digest}"

    def totals(self, store: checkpoint.Checkpoint) -> ScoreTotals:
        """Add up what has been scored."""
        labels = self._config.match in _LABELS
        return checkpoint.score_totals(
            store, labels=labels, folded=self._config.match == "casefold"
        )

    def _row_scores(self, source: Source, store: checkpoint.Checkpoint) -> Iterator[RowScore]:
        for items in self._chunks(source, store):
            found = checkpoint.answers(store, items[0].ordinal, items[-1].ordinal + 1)
            by_row = {row[0]: row[1:] for row in found}
            for item in items:
                custom_id, *answer = by_row.get(item.ordinal, (None,))
                # Another id: the table has changed, which the writing of the outputs tells about.
                if custom_id == item.custom_id:
                    yield self._row_score(item, _texts(*answer))

    def _chunks(self, source: Source, store: checkpoint.Checkpoint) -> Iterator[list[Item]]:
        """Yield the rows, no more at once than have answers of a few megabytes."""
        for items in source.items(self._columns, CHUNK_ROWS):
            rest = items
            while rest:
                count = store.rows_within(rest[0].ordinal, rest[-1].ordinal + 1, CHUNK_BYTES)
                yield rest[:count]
                rest = rest[count:]

    def _row_score(self, item: Item, texts: list[str]) -> RowScore:
        try:
            expected = None if self._expected is None else self._expected.value(item.values)
        except RenderError as error:
            return RowScore(item.ordinal, answers=len(texts), problem=f"[score] {error}")
        return self._scorer.score_row(item.ordinal, item.values, expected, texts)


def _texts(response: str | None, responses: str | None) -> list[str]:
    """Return all answers of a row: the choices, where there are several."""
    found: Any = orjson.loads(responses) if responses else [response]
    return [text or "" for text in found]

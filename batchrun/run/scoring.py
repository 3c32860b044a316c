"""Scoring by `[score]`: reads the rows again, scores their answers, and stores the scores in the checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from batchrun import __version__, checkpoint
from batchrun.errors import JobError, RenderError, quoted
from batchrun.evaluation import RowScore, Scorer, weighted_mean
from batchrun.evaluation.calibration import confidence
from batchrun.evaluation.matching import as_text
from batchrun.evaluation.scorer import kind_of
from batchrun.evaluation.scores import NONE
from batchrun.job.reader import did_you_mean, listed
from batchrun.render import Expression
from batchrun.run.answered_rows import answered_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.job import Job, ScoreConfig
    from batchrun.records import Item
    from batchrun.run.answered_rows import AnsweredRow
    from batchrun.run.conclusion import InterruptibleRows
    from batchrun.run.judging import Judge
    from batchrun.source import Source


LONGEST_VALUE = 200
# The cluster of a row, and its values in the columns of `by` as JSON.
Group = tuple[str | None, str | None]
# The ways of comparing whose answers are labels; what a function returns may be, too.
_LABELS = {
    "exact": checkpoint.Labels.EXACT,
    "choice": checkpoint.Labels.EXACT,
    "casefold": checkpoint.Labels.FOLDED,
    "set": checkpoint.Labels.SETS,
}


class RowScorer(Protocol):
    """Scores rows.

    It uses only the rows and their answers, or data that an earlier step of the run has stored about them,
    such as the verdicts of a model. Anything slow or costly belongs in that step: `score` sends nothing, and
    may be called again for the same rows at any time.
    """

    @property
    def config(self) -> ScoreConfig:
        """The `[score]` of the job: its name, its weight and the passing score."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns of a row that it needs."""

    @property
    def runs_code(self) -> bool:
        """Whether it runs code from the author of the job."""

    def load(self) -> None:
        """Import what is needed.

        Raises:
            JobError: when that fails.
        """

    def score(self, rows: Sequence[AnsweredRow], directory: Path) -> Sequence[RowScore]:
        """Score some rows; return one score for each, in order.

        Args:
            rows: at most a thousand rows.
            directory: the run directory, where an earlier step has stored its data.
        """


class RuleScorer:
    """Compares answers with the expected value, or calls a function from the author of the job.

    Args:
        config: one `[score]` of the job.
        columns: the input's columns.

    Raises:
        JobError: when the template or the pattern is wrong, or a column is missing.
    """

    def __init__(self, config: ScoreConfig, columns: Sequence[str]) -> None:
        self.config = config
        self.runs_code = config.function is not None
        self.columns: Sequence[str] = columns
        self._scorer = Scorer(config)
        self._expected = None
        if config.expected is not None:
            self._expected = Expression("score", "expected", config.expected, columns)
            if config.function is None:
                self.columns = self._expected.columns

    def load(self) -> None:
        """Import the function, if there is one."""
        self._scorer.load()

    def score(self, rows: Sequence[AnsweredRow], _directory: Path) -> Sequence[RowScore]:
        """Score some rows."""
        return [self._score(row) for row in rows]

    def _score(self, row: AnsweredRow) -> RowScore:
        item, texts = row.item, row.texts
        try:
            expected = None if self._expected is None else self._expected.value(item.values)
        except RenderError as error:
            return RowScore(item.ordinal, answers=len(texts), problem=f"[score] {error}")
        return self._scorer.score_row(item.ordinal, item.values, expected, texts)


class Evaluation:
    """The scores of the answers to a job's rows.

    Args:
        configs: each `[score]` of the job, at least one.
        columns: the input's columns.
        judges: the judges of the scorers that have one.

    Attributes:
        judges: the judges.
        runs_code: whether a function from the author of the job scores.

    Raises:
        JobError: when a template or a pattern is wrong, or a column is missing.
    """

    def __init__(
        self,
        configs: Sequence[ScoreConfig],
        columns: Sequence[str],
        judges: Sequence[Judge] = (),
    ) -> None:
        self._configs = tuple(configs)
        self.judges = tuple(judges)
        by_name = {judge.config.name: judge for judge in judges}
        self._scorers: list[RowScorer] = [
            by_name.get(config.name) or RuleScorer(config, columns) for config in configs
        ]
        self.runs_code = any(scorer.runs_code for scorer in self._scorers)
        self._groups = _Groups(configs, columns)
        needed = {name for scorer in self._scorers for name in scorer.columns}
        needed.update(self._groups.columns)
        self._columns = tuple(name for name in columns if name in needed)

    @property
    def stopping(self) -> tuple[RowScorer, ...]:
        """The scorers with `stop_at`, which end the run when their score is precise enough."""
        return tuple(scorer for scorer in self._scorers if scorer.config.stop_at is not None)

    @classmethod
    def of(cls, job: Job, source: Source) -> Evaluation:
        """Return the evaluation of a job with a `[score]`.

        Raises:
            JobError: see the class.
        """
        judged = [config for config in job.scores if config.judge is not None]
        if not judged:
            return cls(job.scores, source.columns)
        from batchrun.run.judging import Judge  # noqa: PLC0415 - few jobs have a judge

        judges = [Judge(config, job, source.columns) for config in judged]
        return cls(job.scores, source.columns, judges)

    def load(self) -> None:
        """Import the functions now, if there are any, rather than when the answers are scored.

        Raises:
            JobError: when one cannot be imported or does not fit.
        """
        for scorer in self._scorers:
            scorer.load()

    def score(
        self,
        source: Source,
        store: checkpoint.Checkpoint,
        *,
        again: bool = True,
        rows: InterruptibleRows | None = None,
    ) -> None:
        """Score every row that succeeded.

        Args:
            source: the input.
            store: the checkpoint.
            again: score also if these answers were already scored by the same `[score]`.
            rows: ends this when a signal arrives; the earlier scores stay.

        Raises:
            Interrupted: when a signal arrives.
            JobError: if the input cannot be read, or the function cannot be imported.
            CheckpointError: if the checkpoint, or that of a judge, cannot be used.
        """
        if again or not checkpoint.is_scored(store, self._scored_by):
            self.load()
            for judge in self.judges:
                judge.check_intact(store.path.parent)
            checkpoint.write_scores(store, self._row_scores(source, store, rows), self._scored_by)

    @property
    def _scored_by(self) -> str:
        """Return a digest that changes when answers may score differently, but not with a function's code."""
        canonical = orjson.dumps(_canonical(self._configs), option=orjson.OPT_SORT_KEYS)
        digest = hashlib.blake2b(canonical, digest_size=8).hexdigest()
        return f"{__version__}:{digest}"

    def totals(self, store: checkpoint.Checkpoint) -> ScoreTotals:
        """Return the totals of the scores: over all scorers, and of each scorer with a name."""
        own = {config.name: _totals(store, config) for config in self._configs}
        for judge in self.judges:
            name = judge.config.name
            own[name] = replace(own[name], judge=judge.totals(store))
        if "" in own:
            return own[""]
        overall = checkpoint.score_totals(store)
        # What was compared is known for each scorer only.
        return replace(overall, unanswered=0, scorers=own)

    def _row_scores(
        self, source: Source, store: checkpoint.Checkpoint, rows: InterruptibleRows | None
    ) -> Iterator[RowScore]:
        for answered in answered_rows(source, store, self._columns, logprobs=True):
            if rows is not None:
                rows.check()
            yield from self._all_scores(answered, store.path.parent)

    def _all_scores(self, rows: Sequence[AnsweredRow], directory: Path) -> Iterator[RowScore]:
        """Yield the scores of rows by each scorer; if scorers have names, also those over all of them."""
        groups = [self._groups.of(row.item) for row in rows]
        found = [self._scored(scorer, rows, groups, directory) for scorer in self._scorers]
        for scores in found:
            yield from scores
        if all(config.name for config in self._configs):
            weights = [config.weight for config in self._configs]
            for each, (cluster, slices) in zip(zip(*found, strict=True), groups, strict=True):
                yield replace(weighted_mean(each, weights), cluster=cluster, slices=slices)

    @staticmethod
    def _scored(
        scorer: RowScorer, rows: Sequence[AnsweredRow], groups: Sequence[Group], directory: Path
    ) -> list[RowScore]:
        config = scorer.config
        name, kind = config.name, kind_of(config)
        scores = scorer.score(rows, directory)
        # All at once: this runs for every row, and each copy takes some microseconds.
        return [
            replace(
                score,
                scorer=name,
                kind=kind,
                confidence=_confidence(config, row, score),
                cluster=cluster,
                slices=slices,
            )
            for score, row, (cluster, slices) in zip(scores, rows, groups, strict=True)
        ]


def _confidence(config: ScoreConfig, row: AnsweredRow, score: RowScore) -> float | None:
    """Return the probability that the model gave to its prediction; None for a judge's verdict."""
    if config.judge is not None or row.logprobs is None:
        return None
    return confidence(row.logprobs, row.texts[0], score.predicted)


class _Groups:
    """The groups of rows: by the `by` and `cluster` of all scorers.

    Raises:
        JobError: when the input lacks a column.
    """

    def __init__(self, configs: Sequence[ScoreConfig], columns: Sequence[str]) -> None:
        self._by = tuple(dict.fromkeys(name for config in configs for name in config.by))
        self._cluster = next((config.cluster for config in configs if config.cluster), None)
        self.columns = {*self._by, *([self._cluster] if self._cluster else [])}
        for key, names in (("by", self._by), ("cluster", (self._cluster,))):
            for name in names:
                if name is not None and name not in columns:
                    raise JobError(
                        f"[score] {key}: the input has no column {quoted(name)}"
                        f"{did_you_mean(name, columns)}; it has {listed(columns)}"
                    )

    def of(self, item: Item) -> Group:
        """Return the group of a row."""
        cluster = None
        if self._cluster is not None:
            value = item.values[self._cluster]
            # A row that belongs to no cluster is one of its own.
            cluster = f"\0{item.ordinal}" if value is None else as_text(value)
        values = {name: self._shown(item.values[name]) for name in self._by}
        return cluster, orjson.dumps(values).decode() if values else None

    @staticmethod
    def _shown(value: object) -> str:
        return NONE if value is None or value == "" else as_text(value)[:LONGEST_VALUE]


def _totals(store: checkpoint.Checkpoint, config: ScoreConfig) -> ScoreTotals:
    labels = _LABELS.get(config.match, checkpoint.Labels.NONE)
    return checkpoint.score_totals(store, config.name, labels=labels, pass_at=config.pass_at)


def _canonical(value: Any) -> Any:  # noqa: ANN401 - any configuration
    """Return a configuration as JSON that is the same in every version of Python."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _canonical(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [_canonical(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _canonical(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value

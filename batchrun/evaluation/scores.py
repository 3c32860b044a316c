"""Records of scoring: the score of one answer, of one row, and the sums over a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from batchrun.evaluation.agreement import JudgeTotals
    from batchrun.evaluation.calibration import Calibration
    from batchrun.records import Kind


# A label that stands for all labels beyond the most frequent ones, and one for no label at all.
OTHER = "(other)"
NONE = "(none)"


class CannotScore(Exception):
    """An answer has no score; the message says why."""


class VerdictState(StrEnum):
    """Why a judge gave no verdict on an answer."""

    MISSING = "missing"  # it has not been asked yet
    FAILED = "failed"  # the request failed, or could not be rendered
    UNREADABLE = "unreadable"  # it answered, and the verdict could not be read


class ScoreKind(StrEnum):
    """What the score of an answer can be, whatever the scores of a run happen to be."""

    BINARY = "binary"  # 0 or 1
    SHARE = "share"  # from 0 to 1
    ANY = "any"  # a scale of its own


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """The score of one answer, mostly 0 or 1, and what was compared.

    `predicted` is None when the text holds no answer of the wanted kind. `fields` says which fields of a
    JSON object are right.
    """

    score: float
    predicted: str | None
    fields: Mapping[str, bool] | None = None


@dataclass(frozen=True, slots=True)
class RowScore:
    """The score of a row by one scorer, over all its answers; or by all scorers.

    Attributes:
        ordinal: the row.
        score: over its answers, by `reduce`; None when they were not scored.
        predicted: what most answers say; of equally many, what was said first.
        expected: the right answer, as predictions are spelled; None when there is none to name.
        answers: how many answers there are.
        correct: how many of them pass; None where nothing says from which score on they do.
        majority: 1 if `predicted` passes, 0 otherwise; None as for `correct`.
        problem: the reason for a missing score.
        reason: a judge's reasons for its verdict.
        state: why a judge gave no verdict; None when it did, or where there is no judge.
        consistency: share of the pairs of verdicts on the same answer that are the same; None where
            each answer has one verdict.
        scorer: the name of the scorer; empty for the mean over all scorers, and for the only one.
        fields: JSON: the share of answers in which each field is right, by its path.
        cluster: which rows it is alike; None if rows are independent.
        slices: JSON: the row's values of the columns that the scores are shown by.
        confidence: the probability that the model gave its prediction; None of several answers, or where
            the log probabilities are not known.
        kind: what the score of an answer can be; None where only the scores themselves say it, as those of
            a function do.
    """

    ordinal: int
    score: float | None = None
    predicted: str | None = None
    expected: str | None = None
    answers: int = 1
    correct: int | None = 0
    majority: float | None = None
    problem: str | None = None
    reason: str | None = None
    state: VerdictState | None = None
    consistency: float | None = None
    scorer: str = ""
    fields: str | None = None
    cluster: str | None = None
    slices: str | None = None
    confidence: float | None = None
    kind: ScoreKind | None = None


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """A column of the results that has a field of the scores of one scorer.

    Attributes:
        name: of the column.
        kind: of its values.
        field: of `RowScore`.
        scorer: whose scores; empty for those over all scorers.
    """

    name: str
    kind: Kind
    field: str
    scorer: str = ""


# The columns of every scorer; behind their names stands that of the scorer.
_SCORER_COLUMNS: tuple[tuple[str, Kind], ...] = (("score", "number"), ("predicted", "text"))
_CONFIDENCE: tuple[str, Kind] = ("confidence", "number")
_JUDGE_COLUMNS: tuple[tuple[str, Kind], ...] = (*_SCORER_COLUMNS, ("reason", "text"))


def score_columns(
    names: Sequence[str], judged: Collection[str] = (), *, confident: bool = False
) -> tuple[ScoreColumn, ...]:
    """Return the columns of these scorers.

    Of a single scorer without a name they are `score` and `predicted`. Scorers with names have
    `score_<name>` and `predicted_<name>`, and `score` is the weighted mean of their scores. Those that
    are `judged` by a model have a column `reason`, too, the others `confidence` if they are `confident`.
    """
    ruled = (*_SCORER_COLUMNS, _CONFIDENCE) if confident else _SCORER_COLUMNS
    columns = {name: _JUDGE_COLUMNS if name in judged else ruled for name in names}
    if names == ("",):
        return tuple(ScoreColumn(name, kind, name) for name, kind in columns[""])
    overall = ScoreColumn("score", "number", "score")
    own = (
        ScoreColumn(f"{name}_{scorer}", kind, name, scorer)
        for scorer in names
        for name, kind in columns[scorer]
    )
    return (overall, *own) if names else ()


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One label: how often it is right (`support`), how often it was said, how often both."""

    name: str
    support: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """How often it is right where it was said; 0 where it never was."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """How often it was said where it is right; 0 where it never is."""
        return self.correct / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.correct / (self.support + self.predicted)


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often a label was answered with which.

    `cells[i][j]` counts the rows whose right answer is `labels[i]` and whose answer is
    `labels[j]`. Labels beyond the most frequent ones are counted together as `OTHER`, rows
    whose text holds no label as `NONE`.
    """

    labels: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ClassTotals:
    """All labels of a run; `macro_*` are plain means over every label, said or right.

    `micro_f1` is over all labels of all rows; where each row has one label, it is the accuracy.
    `classes` and `confusion` hold the most frequent labels only; `count` says how many there are.
    """

    count: int
    micro_f1: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    classes: tuple[ClassCount, ...]
    confusion: Confusion


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSums:
    """The sums of the scores of some rows.

    Attributes:
        scored: rows with a score.
        unscored: succeeded rows without a score.
        total: the sum of their scores.
        squares: the sum of the squares of their scores.
        is_binary: every score is 0 or 1, and none could be anything else, as far as that is known.
        is_share: every score is from 0 to 1, and could not be outside, as far as that is known.
        correct: rows whose score passes; None where nothing says from which score on they do.
        clusters: how many groups of rows are alike; None if rows are independent.
        cluster_sums: over clusters: of the squared sum of scores; of that sum times the number of rows; of
            the squared number of rows.
    """

    scored: int
    total: float
    squares: float
    is_binary: bool
    correct: int | None
    unscored: int = 0
    is_share: bool = True
    clusters: int | None = None
    cluster_sums: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTotals(ScoreSums):
    """The sums of the scores of a run, over all rows that succeeded.

    Attributes:
        majority: the number of rows whose majority vote passes; None as for `correct`.
        unanswered: rows that were scored although their text held no answer.
        problem: why the first row without a score has none.
        by_correct: (answers, correct answers) → rows.
        classes: labels, where answers are labels.
        endings: how the scored answers ended, all samples and choices of a row counted.
        fields: of JSON objects: for each path, the rows that have it, and the sum of their shares.
        slices: the sums by the values of columns: column → value → sums.
        scorers: the same of each scorer that has a name.
        judge: what the judge of the scorer did; None without one.
        calibration: how good the confidence is; None without log probabilities.
    """

    majority: float | None
    unanswered: int
    problem: str | None = None
    by_correct: Mapping[tuple[int, int], int] = field(default_factory=dict)
    classes: ClassTotals | None = None
    endings: Mapping[str, int] = field(default_factory=dict)
    fields: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, ScoreSums]] = field(default_factory=dict)
    scorers: Mapping[str, ScoreTotals] = field(default_factory=dict)
    judge: JudgeTotals | None = None
    calibration: Calibration | None = None

    @property
    def judges(self) -> list[JudgeTotals]:
        """The judges of all scorers."""
        every = (self, *self.scorers.values())
        return [totals.judge for totals in every if totals.judge is not None]

    @property
    def right_answers(self) -> int:
        """How many answers have a score of 1 or more, all samples of a row counted."""
        return sum(correct * rows for (_, correct), rows in self.by_correct.items())


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two runs compared, over the rows that succeeded in both.

    Attributes:
        common: how many such rows there are.
        same_text: rows that both answered with the same text.
        predicted: rows for which both have a prediction.
        same_prediction: rows for which it is the same.
        scored: rows that both have a score for.
        is_binary: every such score is 0 or 1.
        first_higher: rows that the first run has the higher score for.
        second_higher: rows that the second has the higher score for.
        total: the sum of the differences, second minus first.
        squares: the sum of their squares.
        differences: how often each difference was seen; None of many rows.
        is_share: every such score is from 0 to 1.
        clusters: how many groups of rows are alike; None if rows are independent.
        cluster_sums: over clusters: of the squared sum of differences; of that sum times the number of
            rows; of the squared number of rows.
    """

    common: int
    same_text: int
    predicted: int
    same_prediction: int
    scored: int
    is_binary: bool
    first_higher: int
    second_higher: int
    total: float
    squares: float
    differences: Mapping[float, int] | None = None
    is_share: bool = True
    clusters: int | None = None
    cluster_sums: tuple[float, float, float] = (0.0, 0.0, 0.0)

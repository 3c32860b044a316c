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
    """An answer cannot be scored; the message says why."""


class VerdictState(StrEnum):
    """Why a judge gave no verdict on an answer."""

    MISSING = "missing"  # it has not been asked yet
    FAILED = "failed"  # the request failed, or could not be rendered
    UNREADABLE = "unreadable"  # it answered, and the verdict could not be read


class ScoreKind(StrEnum):
    """The possible scores of an answer, independent of the actual scores of a run."""

    BINARY = "binary"  # 0 or 1
    SHARE = "share"  # from 0 to 1
    ANY = "any"  # a scale of its own


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """The score of one answer, usually 0 or 1, and the prediction.

    `predicted` is None if the text contains no answer of the expected kind. `fields` says which fields of a
    JSON object are right.
    """

    score: float
    predicted: str | None
    fields: Mapping[str, bool] | None = None


@dataclass(frozen=True, slots=True)
class RowScore:
    """The score of a row by one scorer, over all its answers; or by all scorers.

    Attributes:
        ordinal: ordinal of the row.
        score: score over its answers, by `reduce`; None if they were not scored.
        predicted: the most frequent prediction; if several are equally frequent, the first.
        expected: the expected answer in the spelling of predictions; None if there is none to show.
        answers: number of answers.
        correct: number of answers that pass; None if no passing score is defined.
        majority: 1 if `predicted` passes, 0 otherwise; None as for `correct`.
        problem: the reason for a missing score.
        reason: a judge's reasons for its verdict.
        state: why a judge gave no verdict; None if it did, or if there is no judge.
        consistency: share of equal pairs among the verdicts on the same answer; None if each answer has
            one verdict.
        scorer: name of the scorer; empty for the mean over all scorers, and for the only scorer.
        fields: JSON: the share of answers in which each field is right, by its path.
        cluster: the cluster of correlated rows that it belongs to; None if rows are independent.
        slices: JSON: the row's values in the columns of `[score] by`.
        confidence: the probability that the model gave its prediction; None for several answers, or if
            the log probabilities are unknown.
        kind: the possible scores of an answer; None if they are unknown, as for a function.
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
        name: name of the column.
        kind: kind of its values.
        field: field of `RowScore`.
        scorer: name of the scorer; empty for the scores over all scorers.
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

    A single scorer without a name has `score` and `predicted`. Scorers with names have `score_<name>` and
    `predicted_<name>`, and `score` is the weighted mean of their scores. Scorers in `judged` also have a
    column `reason`; the others have `confidence` if they are in `confident`.
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
    """Counts of one label: expected (`support`), predicted, and both."""

    name: str
    support: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """Share of its predictions that are right; 0 if it was never predicted."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the rows with this label that were predicted right; 0 if there are none."""
        return self.correct / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.correct / (self.support + self.predicted)


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix.

    `cells[i][j]` counts the rows whose expected label is `labels[i]` and whose prediction is
    `labels[j]`. Labels beyond the most frequent ones are counted together as `OTHER`, rows
    without a label in the answer as `NONE`.
    """

    labels: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ClassTotals:
    """All labels of a run; `macro_*` are unweighted means over every label, predicted or expected.

    `micro_f1` is over all labels of all rows; if each row has one label, it is the accuracy. `classes` and
    `confusion` have only the most frequent labels; `count` is the number of all labels.
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
        is_binary: every score is 0 or 1, and as far as known, no other score is possible.
        is_share: every score is from 0 to 1, and as far as known, no other score is possible.
        correct: rows whose score passes; None if no passing score is defined.
        clusters: number of clusters of correlated rows; None if rows are independent.
        cluster_sums: sums over clusters: of the squared sum of scores; of that sum times the number of
            rows; of the squared number of rows.
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
        majority: number of rows whose majority vote passes; None as for `correct`.
        unanswered: rows that were scored although their text contains no answer.
        problem: why the first row without a score has none.
        by_correct: (answers, correct answers) → rows.
        classes: counts by label, if answers are labels.
        endings: endings of the scored answers, with all samples and choices of a row.
        fields: for JSON objects: by path, the number of rows that have it, and the sum of their shares.
        slices: the sums by the values of columns: column → value → sums.
        scorers: the same for each scorer with a name.
        judge: the work of the scorer's judge; None without one.
        calibration: the quality of the confidence; None without log probabilities.
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
        """Number of answers with a score of 1 or more, with all samples of a row."""
        return sum(correct * rows for (_, correct), rows in self.by_correct.items())


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two runs compared, over the rows that succeeded in both.

    Attributes:
        common: number of these rows.
        same_text: rows that both answered with the same text.
        predicted: rows for which both have a prediction.
        same_prediction: rows for which both have the same prediction.
        scored: rows for which both have a score.
        is_binary: every such score is 0 or 1.
        first_higher: rows for which the first run has the higher score.
        second_higher: rows for which the second run has the higher score.
        total: the sum of the differences, second minus first.
        squares: the sum of their squares.
        differences: number of rows by difference; None if there are many rows.
        is_share: every such score is from 0 to 1.
        clusters: number of clusters of correlated rows; None if rows are independent.
        cluster_sums: sums over clusters: of the squared sum of differences; of that sum times the number
            of rows; of the squared number of rows.
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

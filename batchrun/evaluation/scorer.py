"""Scores a row: each of its answers, then all of them together."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cached_property
from math import fsum, isfinite
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import JobError, quoted, short
from batchrun.evaluation.answer_text import fold
from batchrun.evaluation.matching import (
    WHOLE_LISTS,
    MatchOptions,
    compare,
    known_label,
    label_of,
)
from batchrun.evaluation.numbers import Tolerance
from batchrun.evaluation.patterns import Pattern
from batchrun.evaluation.reducers import majority_of, passes, reduced
from batchrun.evaluation.scores import AnswerScore, CannotScore, RowScore, ScoreKind
from batchrun.evaluation.symbolic import check_math
from batchrun.job.paths import import_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrun.job import JudgeConfig, ScoreConfig

    # (the row's columns, what it answered) → a score, or a table with it
    Function = Callable[[dict[str, Any], str], Any]

_KEYS = {"score", "predicted"}
# Ways of comparing that give partial credit.
GRADED = {"f1", "rouge", "similarity", "set", "fields"}


class Scorer:
    """Scores a row's answers by the section `[score]` of a job.

    A function's file runs with the user's permissions when it is imported, by `load` or the first `score_row`.

    Raises:
        JobError: when the pattern is wrong.
    """

    def __init__(self, config: ScoreConfig) -> None:
        self._config = config
        self._options = MatchOptions(
            config.choices, config.labels, _tolerance(config.tolerance), config.variant
        )
        self._answer = None if config.answer is None else _pattern(config.answer)

        if config.match == "math" and config.function is None:
            check_math()

    @cached_property
    def _function(self) -> Function | None:
        return None if self._config.function is None else _function(self._config)

    def load(self) -> None:
        """Import the function now.

        Raises:
            JobError: when it cannot be imported or does not fit.
        """
        assert self._function is not None or self._config.function is None  # noqa: S101

    def score_row(
        self, ordinal: int, row: Mapping[str, Any], expected: object, texts: Sequence[str]
    ) -> RowScore:
        """Score a row.

        Args:
            ordinal: the row's ordinal in the input.
            row: its columns, for a function.
            expected: the expected value.
            texts: one or several answers of the model.
        """
        if is_missing(expected) and self._function is None:
            return RowScore(ordinal, answers=len(texts), problem="expected is empty for this row")
        try:
            found = [self._score_answer(row, expected, text) for text in texts]
            winner = majority_of(found, self._vote)
            score = reduced(self._config.reduce, found, winner, self._config.pass_at)
            label = self._label(expected, winner)
        except CannotScore as problem:
            return RowScore(ordinal, answers=len(texts), problem=str(problem))
        passed = passes(found, self._config.pass_at)
        return RowScore(
            ordinal,
            score=score,
            predicted=winner.predicted,
            expected=label,
            answers=len(found),
            correct=None if passed is None else sum(passed),
            majority=None if passed is None else float(passed[found.index(winner)]),
            fields=_field_shares(found),
        )

    def _score_answer(self, row: Mapping[str, Any], expected: object, text: str) -> AnswerScore:
        said = text if self._answer is None else self._answer.find(text)
        if said is None:
            return AnswerScore(0.0, None)
        if self._function is None:
            return self._known(compare(self._config.match, said, expected, self._options))
        try:
            value = self._function(dict(row), said)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code; reported as data
            raise CannotScore(
                f"the function raised {type(error).__name__}: {short(str(error), 500)}"
            ) from None
        predicted = None if self._answer is None else said.strip()
        return self._known(_as_verdict(value, predicted))

    def _known(self, found: AnswerScore) -> AnswerScore:
        """Remove a prediction that is not one of the labels, if the labels are fixed."""
        labels = self._config.labels
        if not labels:
            return found
        folded = self._config.match == "casefold"
        return replace(found, predicted=known_label(found.predicted, labels, folded=folded))

    def _vote(self, predicted: str) -> str:
        """Return a key that is equal for predictions that count as the same vote."""
        return fold(predicted) if self._config.match == "casefold" else predicted

    def _label(self, expected: object, winner: AnswerScore) -> str | None:
        """Return the expected answer in the spelling of predictions; of several, the one that was given."""
        if is_missing(expected):
            return None
        match = "exact" if self._function is not None else self._config.match
        is_any_of = isinstance(expected, list) and match not in WHOLE_LISTS
        if is_any_of and winner.score >= 1 and winner.predicted is not None:
            return winner.predicted
        label = label_of(match, expected, self._options)
        if not self._config.labels:
            return label
        known = known_label(label, self._config.labels, folded=match == "casefold")
        if known is None:
            raise CannotScore(f"expected is none of the labels: {quoted(label)}")
        return known


def _field_shares(found: Sequence[AnswerScore]) -> str | None:
    """Return the share of answers in which each field is right, as JSON."""
    fields = found[0].fields
    if fields is None:
        return None
    counts = {
        name: sum(bool(each.fields and each.fields[name]) for each in found) for name in fields
    }
    return orjson.dumps({name: count / len(found) for name, count in counts.items()}).decode()


def _as_verdict(value: object, predicted: str | None) -> AnswerScore:
    """Convert the return value of a function to a score.

    Raises:
        CannotScore: when it is not a score.
    """
    if isinstance(value, dict):
        if not value.keys() <= _KEYS or "score" not in value:
            raise CannotScore(
                f'the function returned {quoted(value)}; a dict has a "score" and may have a '
                '"predicted", and nothing else'
            )
        said = value.get("predicted", predicted)
        predicted = None if said is None else str(said)
        value = value["score"]
    elif isinstance(value, bool) and predicted is None:
        predicted = str(value).lower()
    if value is None:
        raise CannotScore("the function gave no score")
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        score = float("nan")
    if isinstance(value, str) or not isfinite(score):
        raise CannotScore(f"the function returned {quoted(value)}, which is not a finite number")
    return AnswerScore(score, predicted)


def _tolerance(given: float | str | None) -> Tolerance | None:
    if isinstance(given, str):
        return Tolerance(float(given.strip().rstrip("%")) / 100, is_share=True)
    return None if given is None else Tolerance(given)


def is_missing(expected: object) -> bool:
    """Return whether a cell is null or empty text: CSV has no null."""
    return expected is None or (isinstance(expected, str) and not expected.strip())


def _pattern(source: str) -> Pattern:
    try:
        return Pattern(source)
    except ValueError as error:
        raise JobError(f"[score] answer: {quoted(source)} {error}") from None


def _function(config: ScoreConfig) -> Function:
    assert config.function is not None  # noqa: S101 - the caller looked
    path, name = config.function
    key = "[score] function"
    function = getattr(import_file(path, key), name, None)
    if not callable(function):
        raise JobError(f"{key}: {path} has no function {short(name)}")
    if inspect.iscoroutinefunction(function):
        raise JobError(f"{key}: {short(name)} in {path} is asynchronous; write it with a plain def")
    try:
        inspect.signature(function).bind({}, "")
    except TypeError:
        raise JobError(
            f"{key}: {name} in {path} must take the row and the answer: def {name}(row, answer)"
        ) from None
    except ValueError:
        pass  # it does not say what it takes
    return function  # type: ignore[no-any-return]


def weighted_mean(scores: Sequence[RowScore], weights: Sequence[float]) -> RowScore:
    """Return the score of a row over several scorers.

    None if one of the scorers gave no score: a mean over the others would not be comparable.
    """
    first = scores[0]
    parts = []
    for each, weight in zip(scores, weights, strict=True):
        if each.score is None:
            problem = f"{each.scorer}: {each.problem}"
            return RowScore(first.ordinal, answers=first.answers, problem=problem)
        parts.append(each.score * weight)
    score = fsum(parts) / fsum(weights)
    kind = _kind_of_mean(scores)
    is_share = kind is not ScoreKind.ANY and all(0 <= (each.score or 0) <= 1 for each in scores)
    correct = int(score >= 1) if is_share else None
    return RowScore(first.ordinal, score=score, correct=correct, kind=kind)


def kind_of(config: ScoreConfig) -> ScoreKind | None:
    """Return the kind of a scorer's scores; None for a function, which may return any number."""
    if config.judge is not None:
        return _kind_of_judge(config.judge)
    if config.function is not None:
        return None
    return ScoreKind.SHARE if config.match in GRADED else ScoreKind.BINARY


def _kind_of_judge(judge: JudgeConfig) -> ScoreKind:
    worths = judge.scale or tuple(judge.choices.values())
    if not all(0 <= worth <= 1 for worth in worths):
        return ScoreKind.ANY
    is_graded = judge.scale is not None or not {*worths} <= {0, 1}
    return ScoreKind.SHARE if is_graded else ScoreKind.BINARY


def _kind_of_mean(scores: Sequence[RowScore]) -> ScoreKind | None:
    """Return the kind of a mean: that of the least restricted of its scores."""
    kinds = {each.kind for each in scores}
    return next((kind for kind in (ScoreKind.ANY, None, ScoreKind.SHARE) if kind in kinds), None)

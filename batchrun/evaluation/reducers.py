"""Reduces the scores of several answers to a row to one score. No I/O."""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import TYPE_CHECKING

from batchrun.evaluation.scores import CannotScore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchrun.evaluation.scores import AnswerScore

_DIGITS = "0123456789"


def passes(found: Sequence[AnswerScore], pass_at: float | None) -> list[bool] | None:
    """Return which answers pass; None if no passing score is defined.

    Scores from 0 to 1 pass with 1. For other scales, only `pass_at` defines the passing score.
    """
    if pass_at is None and not all(0 <= each.score <= 1 for each in found):
        return None
    return [each.score >= (1 if pass_at is None else pass_at) for each in found]


def majority_of(
    found: Sequence[AnswerScore], vote: Callable[[str], str] = lambda said: said
) -> AnswerScore:
    """Return the answer of the majority; if several are equally frequent, the first one.

    Args:
        found: the scored answers, at least one.
        vote: a key that is equal for predictions that count as the same.
    """
    votes = [None if each.predicted is None else vote(each.predicted) for each in found]
    counts = Counter(each for each in votes if each is not None)
    return found[votes.index(counts.most_common(1)[0][0])] if counts else found[0]


def reduced(
    how: str, found: Sequence[AnswerScore], winner: AnswerScore, pass_at: float | None
) -> float:
    """Return the score of a row.

    Args:
        how: `mean`, `majority`, `max`, `at_least_2`, `pass@2` or `pass^2`, with any number.
        found: the scores of its answers, at least one.
        winner: the answer of the majority.
        pass_at: see `passes`.

    Raises:
        CannotScore: if there are too few answers, or no passing score is defined.
    """
    scores = [each.score for each in found]
    if how == "mean":
        return sum(scores) / len(scores)
    if how == "max":
        return max(scores)
    if how == "majority":
        return winner.score
    passed = passes(found, pass_at)
    if passed is None:
        raise CannotScore(f'reduce = "{how}" needs pass_at, because a score is not from 0 to 1')
    return _counted(how.rstrip(_DIGITS), answers_needed(how), len(passed), sum(passed))


def answers_needed(how: str) -> int:
    """Return the number of answers that a reducer needs: 5 for `pass@5`, 1 for `mean`."""
    return int(how.removeprefix(how.rstrip(_DIGITS)) or 1)


def _counted(name: str, k: int, answers: int, correct: int) -> float:
    if answers < k:
        raise CannotScore(f"has {answers} of the {k} answers that reduce needs")
    if name == "at_least_":
        return float(correct >= k)
    if name == "pass@":
        return pass_any(k, answers, correct)
    return pass_all(k, answers, correct)


def pass_any(k: int, answers: int, correct: int) -> float:
    """Return pass@k: the probability that at least one of `k` answers is right.

    This is the unbiased estimator of Chen et al. (2021).
    """
    return 1 - comb(answers - correct, k) / comb(answers, k)


def pass_all(k: int, answers: int, correct: int) -> float:
    """Return pass^k: the probability that all of `k` answers are right; unbiased, Yao et al. (2024)."""
    return comb(correct, k) / comb(answers, k)

"""One score of several: what the answers to a row come to. Pure."""

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
    """Return which answers pass; None if nothing says from which score on they do.

    Scores from 0 to 1 pass with 1. Others have a scale of their own, of which only `pass_at` says where
    to cut it.
    """
    if pass_at is None and not all(0 <= each.score <= 1 for each in found):
        return None
    return [each.score >= (1 if pass_at is None else pass_at) for each in found]


def majority_of(
    found: Sequence[AnswerScore], vote: Callable[[str], str] = lambda said: said
) -> AnswerScore:
    """Return the answer that most answers agree with; of equally many, the first one.

    Args:
        found: at least one.
        vote: what predictions have in common that count as the same.
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
        CannotScore: when there are too few answers, or nothing says which of them pass.
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
    """Return how many answers a row must have to be reduced: 5 for `pass@5`, 1 for `mean`."""
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
    """Return pass@k: the chance that at least one of `k` answers is right.

    The unbiased estimator of Chen et al. (2021).
    """
    return 1 - comb(answers - correct, k) / comb(answers, k)


def pass_all(k: int, answers: int, correct: int) -> float:
    """Return pass^k: the chance that all of `k` answers are right; unbiased, Yao et al. (2024)."""
    return comb(correct, k) / comb(answers, k)

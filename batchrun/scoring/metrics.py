"""The statistics of scores: intervals of confidence, pass@k."""

from __future__ import annotations

from math import comb, exp, fsum, lgamma, log, sqrt
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIDENCE = 0.95
# Half of what is left out lies on either side.
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 2_000
NEGLIGIBLE = 1e-18


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score, which stays within 0 and 1.

    Args:
        correct: how many were right.
        count: of how many, above 0.
    """
    share = correct / count
    spread = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    middle = share + Z**2 / (2 * count)
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def mean_interval(total: float, squares: float, count: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean by the normal approximation; None of a single value.

    Args:
        total: the sum of the values.
        squares: the sum of their squares.
        count: how many there are.
    """
    if count < 2:
        return None
    mean = total / count
    variance = max(0.0, (squares - count * mean**2) / (count - 1))
    spread = Z * sqrt(variance / count)
    return mean - spread, mean + spread


def pass_at(k: int, by_correct: Mapping[tuple[int, int], int]) -> float | None:
    """Return the chance that of `k` answers to a row one at least is right, over all rows.

    The unbiased estimator of Chen et al. (2021): 1 - C(n - c, k) / C(n, k) for a row with `c` right
    answers of `n`. Rows with fewer than `k` answers are left out; None when there are no others.

    Args:
        k: how many answers.
        by_correct: (answers, right answers) → rows.
    """
    rows, passed = 0, 0.0
    for (answers, correct), count in by_correct.items():
        if answers >= k:
            rows += count
            passed += count * (1 - comb(answers - correct, k) / comb(answers, k))
    return passed / rows if rows else None


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: chance that both are equally good.

    Args:
        only_one: rows that only the one got right.
        only_other: rows that only the other got right.
    """
    rows, fewer = only_one + only_other, min(only_one, only_other)
    # Twice the lower tail of a fair coin, added up from its largest term; logarithms, because
    # the numbers of combinations have as many digits as there are rows.
    term = exp(lgamma(rows + 1) - lgamma(fewer + 1) - lgamma(rows - fewer + 1) - rows * log(2))
    tail, heads = 0.0, fewer
    while heads >= 0 and term > tail * NEGLIGIBLE:
        tail += term
        term *= heads / (rows - heads + 1)
        heads -= 1
    return min(1.0, 2 * tail)


def bootstrap_interval(values: Mapping[float, int]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by the percentiles of resampled means; always the same.

    Args:
        values: how often each value was seen.
    """
    chance = Random(0)  # noqa: S311 - drawn, not secret
    count = sum(values.values())
    kinds, weights = list(values), list(values.values())
    means = sorted(fsum(chance.choices(kinds, weights, k=count)) / count for _ in range(RESAMPLES))
    cut = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return means[cut], means[-cut - 1]

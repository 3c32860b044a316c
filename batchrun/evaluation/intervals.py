"""Confidence intervals and tests, from counts and sums alone. No I/O; checked against SciPy and statsmodels.

NumPy and SciPy would add 200 MB for these few functions.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import ceil, exp, fsum, inf, lgamma, log, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


CONFIDENCE = 0.95
# Half of what is left out lies on either side.
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
NEGLIGIBLE = 1e-18
# With more differences than these, the signs of all are not tried out.
MOST_FLIPPED = 14
# With more degrees of freedom than these, Student's t is the normal distribution.
NEARLY_NORMAL = 1e6
# Halvings: more than a float has bits, so the result is exact.
_STEPS = 200
_TINY = 1e-300
# A share of a sum of squares: rounding makes errors of 1e-16 in each of some million additions.
_NOISE = 1e-9

Interval = tuple[float, float]


def wilson(correct: float, count: float, quantile: float = Z) -> Interval:
    """Return the 95 % interval of a share by Wilson's score, which stays within 0 and 1.

    Args:
        correct: number of right ones.
        count: total number, above 0; if rows are not independent, the effective number.
        quantile: quantile to use in place of that of the normal distribution.
    """
    share = correct / count
    spread = quantile * sqrt(share * (1 - share) / count + quantile**2 / (4 * count**2))
    scale = 1 + quantile**2 / count
    middle = share + quantile**2 / (2 * count)
    # At 0 and 1 the bound is there exactly, whatever rounding says.
    low = 0.0 if correct <= 0 else max(0.0, (middle - spread) / scale)
    return low, 1.0 if correct >= count else min(1.0, (middle + spread) / scale)


def t_interval(mean: float, variance: float, freedom: float) -> Interval:
    """Return the 95 % interval of a mean by Student's t.

    Args:
        mean: the mean.
        variance: variance of the mean, not of the values.
        freedom: degrees of freedom, at least 1.
    """
    spread = t_quantile(freedom) * sqrt(variance)
    return mean - spread, mean + spread


def share_interval(mean: float, variance: float, freedom: float, count: int) -> Interval:
    """Return the 95 % interval of the mean of values from 0 to 1.

    It is Wilson's interval with the number of rows that would give this variance if all values were 0 or 1,
    and with the quantile of Student's t. Unlike a symmetric interval it stays within 0 and 1, and is right near
    them. If all scores are equal, their variance is 0, and that of a share is assumed instead.

    Args:
        mean: from 0 to 1.
        variance: variance of the mean.
        freedom: degrees of freedom.
        count: number of rows.
    """
    rows = effective_rows(mean, variance, freedom)
    if rows is None:
        return wilson(mean * count, count)
    return wilson(mean * rows, rows, t_quantile(freedom))


def effective_rows(mean: float, variance: float, freedom: float) -> float | None:
    """Return the number of rows that would give this variance if all values were 0 or 1; None if all are equal."""
    most = mean * (1 - mean)
    if freedom < 1 or variance <= _TINY or most <= _TINY:
        return None
    return most / variance


def variance_of_mean(total: float, squares: float, count: int) -> float:
    """Return the variance of a mean, from the sum of independent values and the sum of their squares."""
    return _above_noise(squares - total**2 / count, squares) / (count - 1) / count


def _above_noise(residual: float, sum_of_squares: float) -> float:
    """Return a sum of squared deviations; 0 if it may be what rounding leaves of millions of equal values."""
    return residual if residual > _NOISE * sum_of_squares else 0.0


def clustered_variance(
    total: float, count: int, clusters: int, sums: tuple[float, float, float]
) -> float:
    """Return the variance of a mean of values that are correlated within clusters (CR1).

    Args:
        total: the sum of the values.
        count: number of values.
        clusters: number of clusters, at least 2.
        sums: sums over clusters: of the squared sum of values; of the sum times the size; of the squared size.
    """
    mean = total / count
    squared, mixed, sizes = sums
    residual = _above_noise(squared - 2 * mean * mixed + mean**2 * sizes, squared)
    return clusters / (clusters - 1) * residual / count**2


def tango(only_first: int, only_second: int, count: int) -> Interval:
    """Return the 95 % interval of the difference of two shares of the same rows: second minus first.

    Tango's score interval (1998): the differences that a score test would not reject.

    Args:
        only_first: rows that only the first answered correctly.
        only_second: rows that only the second answered correctly.
        count: number of all rows, above 0.
    """

    def score(difference: float) -> float:
        """Return the score statistic of a true difference."""
        b = -only_second - only_first + (2 * count - only_second + only_first) * difference
        c = -only_first * difference * (1 - difference)
        share = (sqrt(max(0.0, b * b - 8 * count * c)) - b) / (4 * count)
        variance = count * (2 * share + difference * (1 - difference))
        distance = only_second - only_first - count * difference
        if variance <= _TINY:
            return 0.0 if abs(distance) < 1e-9 else inf if distance > 0 else -inf
        return distance / sqrt(variance)

    middle = (only_second - only_first) / count
    return (
        _crossing(lambda difference: score(difference) - Z, -1.0, middle),
        _crossing(lambda difference: score(difference) + Z, middle, 1.0),
    )


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of a decreasing function, by bisection."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, whose hypothesis is that both are equally good.

    Args:
        only_one: rows that only the one answered correctly.
        only_other: rows that only the other answered correctly.
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


def sign_flips(values: Mapping[float, int]) -> float | None:
    """Return the exact two-sided p-value of the sign-flip test: differences have either sign equally likely.

    Args:
        values: differences with their counts.

    Returns:
        None if there are too many to try.
    """
    sizes = [abs(value) for value, times in values.items() for _ in range(times) if value]
    if len(sizes) > MOST_FLIPPED:
        return None
    seen = abs(fsum(value * times for value, times in values.items()))
    sums = [
        abs(fsum(sign * size for sign, size in zip(signs, sizes, strict=True)))
        for signs in product((1, -1), repeat=len(sizes))
    ]
    return sum(each >= seen - 1e-9 for each in sums) / len(sums)


def t_test(mean: float, variance: float, freedom: float) -> float:
    """Return the two-sided p-value of a mean of 0 by Student's t; `variance` is the variance of the mean."""
    if variance <= _TINY:
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return 2 * t_tail(abs(mean) / sqrt(variance), freedom)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for multiple tests by the method of Holm; None stays None."""
    order = sorted((p, n) for n, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, n) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[n] = largest
    return corrected


def rows_for(half_width: float, deviation: float = 0.5) -> int:
    """Return the number of independent rows for an interval of this half width.

    Args:
        half_width: such as 0.02 for ± 2 %.
        deviation: standard deviation of the scores; 0.5 is the maximum for scores from 0 to 1.
    """
    return max(2, ceil((Z * deviation / half_width) ** 2))


def rows_for_share(half_width: float, share: float) -> float:
    """Return the number of independent rows for which Wilson's interval of a share has this half width."""
    # The half width is z * sqrt(share * (1 - share) / n + z^2 / 4n^2) / (1 + z^2 / n); this solves it for n.
    squared, width = Z**2, half_width**2
    linear = squared * (share * (1 - share) - 2 * width)
    root = sqrt(linear**2 + width * squared**2 * (1 - 4 * width))
    return (linear + root) / (2 * width)


def t_tail(value: float, freedom: float) -> float:
    """Return the probability of more than `value` (at least 0) in Student's t distribution."""
    if freedom > NEARLY_NORMAL:
        return NormalDist().cdf(-value)
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + value**2)) / 2


@lru_cache(maxsize=1_024)
def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return the two-sided quantile of Student's t for this confidence."""
    tail, high = (1 - confidence) / 2, 2.0
    while t_tail(high, freedom) > tail:
        high *= 2
    return _crossing(lambda value: t_tail(value, freedom) - tail, 0.0, high)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function, by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x > (a + 1) / (a + b + 2):
        return 1 - front * _fraction(b, a, 1 - x) / b
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1_000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + factor * d)
            c = _not_zero(1 + factor / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY

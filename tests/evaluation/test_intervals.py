"""Intervals and tests against SciPy and statsmodels, and how often intervals hold the truth."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.evaluation.intervals import (
    clustered_variance,
    holm,
    rows_for,
    rows_for_share,
    share_interval,
    sign_flips,
    t_interval,
    t_quantile,
    t_tail,
    t_test,
    tango,
    variance_of_mean,
    wilson,
)
from batchrun.evaluation.metrics import interval, rows_needed
from batchrun.evaluation.scores import ScoreSums
from benchmarks.coverage import INTERVALS, coverage

VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=40)


@pytest.mark.parametrize("freedom", [1, 2, 3.5, 9, 40, 1_999, 3e6, 1e9])
def test_students_t_is_what_scipy_computes(freedom: float) -> None:
    from scipy.stats import t

    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-6)
    for value in (0, 0.01, 1, 3, 40, 1e4):
        assert t_tail(value, freedom) == pytest.approx(t.sf(value, freedom), rel=1e-5, abs=1e-9)


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(VALUES)
def test_the_interval_and_the_test_of_a_mean_are_those_of_scipy(values: list[float]) -> None:
    from scipy.stats import t, ttest_1samp

    mean, count = sum(values) / len(values), len(values)
    variance = variance_of_mean(sum(values), sum(value**2 for value in values), count)
    if variance < 1e-12:
        assert t_test(mean, 0.0, count - 1) == (1.0 if abs(mean) < 1e-12 else 0.0)
        return
    known = ttest_1samp(values, 0)
    assert t_test(mean, variance, count - 1) == pytest.approx(known.pvalue, rel=1e-4, abs=1e-9)
    bounds = t.interval(0.95, count - 1, loc=mean, scale=variance**0.5)
    assert t_interval(mean, variance, count - 1) == pytest.approx(bounds, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 10, 2_000])
def test_shares_at_both_ends_and_of_one_row_are_those_of_scipy(count: int) -> None:
    from scipy.stats import binomtest

    for correct in {0, 1, count // 2, count - 1, count}:
        known = binomtest(correct, count).proportion_ci(method="wilson")
        assert wilson(correct, count) == pytest.approx((known.low, known.high), abs=1e-12)


def test_clustered_errors_are_those_of_statsmodels() -> None:
    import numpy as np
    from statsmodels.api import OLS

    chance = random.Random(5)
    groups = [chance.randrange(12) for _ in range(200)]
    values = [chance.random() + group / 12 for group in groups]
    fit = OLS(values, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    sums = {g: [v for v, of in zip(values, groups, strict=True) if of == g] for g in set(groups)}
    moments = (
        sum(sum(part) ** 2 for part in sums.values()),
        sum(sum(part) * len(part) for part in sums.values()),
        sum(len(part) ** 2 for part in sums.values()),
    )
    variance = clustered_variance(sum(values), 200, len(sums), moments)
    assert variance**0.5 == pytest.approx(fit.bse[0], rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "count"), [(0, 0, 1), (0, 0, 50), (5, 0, 5), (12, 2, 50), (3, 30, 100)]
)
def test_tango_holds_what_a_score_test_does_not_reject(first: int, second: int, count: int) -> None:
    """The constrained likelihood is maximised anew, by SciPy, at both bounds."""
    from math import log

    from scipy.optimize import minimize_scalar

    def statistic(difference: float) -> float:
        def negative_likelihood(share: float) -> float:
            parts = (
                (first, share),
                (second, share + difference),
                (count - first - second, 1 - 2 * share - difference),
            )
            return -sum(times * log(max(part, 1e-300)) for times, part in parts if times)

        low, high = max(0.0, -difference), (1 - difference) / 2
        share = minimize_scalar(
            negative_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        variance = count * (2 * share + difference - difference**2)
        return float((second - first - count * difference) / variance**0.5)

    low, high = tango(first, second, count)
    assert low <= (second - first) / count <= high
    for bound, wanted in ((low, 1.959964), (high, -1.959964)):
        if -1 < bound < 1:
            assert statistic(bound) == pytest.approx(wanted, abs=2e-3)


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_tango_is_turned_when_the_runs_are(first: int, second: int, rest: int) -> None:
    if count := first + second + rest:
        low, high = tango(first, second, count)
        assert tango(second, first, count) == pytest.approx((-high, -low), abs=1e-9)
        assert -1 <= low < high <= 1


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.5, 0.75]), min_size=2, max_size=9))
def test_flipped_signs_are_the_permutations_of_scipy(values: list[float]) -> None:
    import numpy as np
    from scipy.stats import permutation_test

    counts = {value: values.count(value) for value in set(values)}
    known = permutation_test(
        (np.array(values),), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flips(counts) == pytest.approx(known.pvalue)


def test_many_differences_are_not_tried_out() -> None:
    assert sign_flips({0.5: 15}) is None
    assert sign_flips({0.0: 1_000, 0.5: 2}) == 0.5


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_is_what_statsmodels_computes(p_values: list[float | None]) -> None:
    from statsmodels.stats.multitest import multipletests

    known = [p for p in p_values if p is not None]
    wanted = list(multipletests(known, method="holm")[1]) if known else []
    found = holm(p_values)
    assert [p for p in found if p is not None] == pytest.approx(wanted)
    assert [p is None for p in found] == [p is None for p in p_values]


def test_how_many_rows_an_interval_needs() -> None:
    assert rows_for(0.02) == 2_401
    low, high = wilson(2_401 / 2, 2_401)
    assert (high - low) / 2 == pytest.approx(0.02, rel=1e-3)
    widths = [rows_for(width) for width in (0.01, 0.02, 0.05, 0.1)]
    assert all(one > other for one, other in pairwise(widths))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 0.9])
def test_equal_fractional_scores_have_the_interval_of_a_share(value: float) -> None:
    total = squares = 0.0
    for _ in range(100_000):
        total, squares = total + value, squares + value * value
    sums = ScoreSums(scored=100_000, total=total, squares=squares, is_binary=False, correct=None)
    assert interval(sums) == pytest.approx(wilson(value * 100_000, 100_000), rel=1e-6)
    clustered = clustered_variance(total, 100_000, 10, (10 * (total / 10) ** 2, total * 1e4, 1e9))
    assert clustered == 0


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("width", [0.01, 0.05])
def test_rows_for_a_share_give_the_half_width(share: float, width: float) -> None:
    rows = rows_for_share(width, share)
    low, high = wilson(share * rows, rows)
    assert (high - low) / 2 == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_many_scored_rows_do_not_make_rows_seem_unnecessary(right: float) -> None:
    few, many = (
        rows_needed(
            ScoreSums(
                scored=n,
                total=right * n,
                squares=right * n,
                is_binary=True,
                correct=round(right * n),
            )
        )
        for n in (1_000, 2_000_000)
    )
    assert few == many
    assert many is not None
    assert many["0.05"] == (35 if right != 0.5 else 381)


@pytest.mark.parametrize("mean", [0.0, 0.7, 1.0])
def test_equal_scores_are_not_certain(mean: float) -> None:
    low, high = share_interval(mean, 0.0, 9, 10)
    assert high - low > 0.2
    assert 0 <= low <= mean <= high <= 1


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("count", [20, 200])
def test_intervals_hold_the_truth_as_often_as_they_say(name: str, count: int) -> None:
    """The short form of `python -m benchmarks.coverage`."""
    assert 0.93 <= coverage(name, count, draws=1_000) <= 0.975

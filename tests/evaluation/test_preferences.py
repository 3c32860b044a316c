"""Wins, ties and strengths, compared with statsmodels and by simulation."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from batchrun.evaluation.preferences import (
    PRIOR,
    PairResult,
    PreferenceCounts,
    bradley_terry,
    pair_results,
    position_facts,
    strengths,
)


def test_a_pair_is_won_when_both_orders_say_so() -> None:
    counts = PreferenceCounts()
    assert counts.add_pair(1.0, 0.0) == 1.0  # preferred in either place
    assert counts.add_pair(0.0, 1.0) == 0.0
    assert counts.add_pair(1.0, 1.0) == 0.5  # whatever came first
    assert counts.add_pair(0.0, 0.0) == 0.5  # whatever came second
    assert counts.add_pair(0.5, 0.0) == 1.0  # a tie, then a win
    assert counts.add_pair(0.5, 0.5) == 0.5
    assert (counts.both, counts.agreed) == (6, 3)


def test_position_bias_is_told() -> None:
    counts = PreferenceCounts()
    for score in (1.0, 1.0, 1.0, 0.0, 0.5):
        counts.positions.add(score)
    facts = position_facts(counts)
    assert facts["first_preferred"] == 0.75
    assert facts["ci95"][0] < 0.75 < facts["ci95"][1]
    assert facts["ties"] == 1
    assert position_facts(PreferenceCounts())["first_preferred"] is None


def test_a_win_rate_has_an_interval_that_is_never_without_width() -> None:
    from scipy.stats import binomtest

    result = PairResult(0, 1, wins=10, losses=0, ties=0)
    assert result.win_rate == 1.0
    assert result.ci95 is not None
    assert result.ci95[0] == pytest.approx(
        binomtest(10, 10).proportion_ci(method="wilson").low, abs=1e-12
    )
    assert result.p == pytest.approx(binomtest(10, 10).pvalue)
    mixed = PairResult(0, 1, wins=6, losses=2, ties=4)
    assert mixed.win_rate == pytest.approx(8 / 12)
    assert mixed.p == pytest.approx(binomtest(6, 8).pvalue)
    nothing = PairResult(0, 1, 0, 0, 0)
    assert (nothing.win_rate, nothing.ci95, nothing.p) == (None, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_strengths_are_those_of_a_logistic_regression(seed: int) -> None:
    import statsmodels.api as sm

    draws = random.Random(seed)
    runs = 4
    wins = [
        [0.0 if i == j else float(draws.randrange(60)) for j in range(runs)] for i in range(runs)
    ]
    design, won = [], []
    for i in range(runs):
        for j in range(i + 1, runs):
            design.append([float(k == i) - float(k == j) for k in range(1, runs)])
            won.append([wins[i][j] + PRIOR, wins[j][i] + PRIOR])
    fit = sm.GLM(np.array(won), np.array(design), family=sm.families.Binomial()).fit()
    assert bradley_terry(wins) == pytest.approx([0.0, *fit.params], abs=1e-5)


def test_a_run_that_never_lost_has_a_finite_strength() -> None:
    first, second = bradley_terry([[0.0, 10.0], [0.0, 0.0]])
    assert first == 0.0
    assert second == pytest.approx(-np.log(10.5 / 0.5))


def test_runs_that_never_met_keep_their_strength() -> None:
    assert bradley_terry([[0.0, 0.0], [0.0, 0.0]]) == [0.0, 0.0]


def drawn(rows: int, strength: list[float], draws: random.Random) -> PreferenceCounts:
    counts = PreferenceCounts()
    pairs = [(i, j) for i in range(len(strength)) for j in range(i + 1, len(strength))]
    seen: Counter[tuple[tuple[tuple[int, int], float], ...]] = Counter()
    for _ in range(rows):
        outcome = []
        for i, j in pairs:
            wins = draws.random() < 1 / (1 + np.exp(strength[j] - strength[i]))
            outcome.append(((i, j), float(wins)))
        seen[tuple(outcome)] += 1
    counts.outcomes = seen
    return counts


def test_intervals_of_strengths_cover_the_truth() -> None:
    """60 simulated comparisons of 60 rows: a 95 % interval holds in about 57 of them."""
    truth = [0.0, 0.8, -0.5]
    draws = random.Random(7)
    held = 0
    for _ in range(60):
        found = strengths(drawn(60, truth, draws), 3)
        held += found[1].ci95[0] <= truth[1] <= found[1].ci95[1]
        assert found[0].log_odds == 0.0
        assert found[0].ci95 == (0.0, 0.0)
    assert 52 <= held <= 60


def test_results_of_pairs_count_rows() -> None:
    counts = PreferenceCounts()
    counts.outcomes[(((0, 1), 1.0), ((0, 2), 0.5))] += 3
    counts.outcomes[(((0, 1), 0.0),)] += 1
    first, second, third = pair_results(counts, 3)
    assert (first.wins, first.losses, first.ties) == (3, 1, 0)
    assert (second.wins, second.losses, second.ties) == (0, 0, 3)
    assert third.rows == 0
    assert strengths(PreferenceCounts(), 3) == []

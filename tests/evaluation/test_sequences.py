"""Confidence sequences: they hold at every look, they get narrow, and they end at the exact mean."""

from __future__ import annotations

from random import Random

import pytest

from batchrun.evaluation.sequences import ConfidenceSequence, random_place
from benchmarks.coverage import path_coverage


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("population", [20, 300])
def test_the_interval_holds_the_mean_at_every_look(population: int, *, binary: bool) -> None:
    assert path_coverage(population, 100, binary=binary) >= 0.95


def sequence_of(scores: list[float]) -> ConfidenceSequence:
    sequence = ConfidenceSequence(len(scores))
    for score in scores:
        sequence.add(score)
    return sequence


def test_a_whole_table_has_its_exact_mean() -> None:
    sequence = sequence_of([1.0, 0.0, 0.25, 0.75])
    assert sequence.bounds == pytest.approx((0.5, 0.5))


def test_few_rows_say_little_whatever_their_scores_are() -> None:
    sequence = ConfidenceSequence(1_000)
    for _ in range(10):
        sequence.add(1.0)
    assert sequence.bounds[0] < 0.6
    assert sequence.bounds[1] == 1.0


def rows_until(half_width: float, share: float) -> int:
    chance, sequence = Random(4), ConfidenceSequence(100_000)
    while sequence.half_width > half_width:
        sequence.add(float(chance.random() < share))
    return sequence.scored


def test_scores_that_vary_less_need_fewer_rows() -> None:
    # An interval that is looked at once needs 2,401 and 457.
    assert 2_401 < rows_until(0.02, 0.5) < 6_500
    assert 457 < rows_until(0.02, 0.95) < 2_000


def test_rows_without_a_score_do_not_count() -> None:
    sequence = ConfidenceSequence(4)
    for score in (1.0, None, 0.0, None):
        if score is None:
            sequence.skip()
        else:
            sequence.add(score)
    assert sequence.scored == 2
    assert sequence.bounds == pytest.approx((0.5, 0.5))


def test_rows_are_drawn_in_an_order_that_is_random_and_always_the_same() -> None:
    order = sorted(range(2_000), key=random_place)
    assert order[:3] == [1022, 688, 812]
    # Of any half of the table, about half is among the first half that is drawn.
    assert 450 < sum(ordinal < 1_000 for ordinal in order[:1_000]) < 550
    assert 450 < sum(ordinal % 2 for ordinal in order[:1_000]) < 550

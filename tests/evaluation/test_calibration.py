"""Confidence and its calibration, against scikit-learn on random data."""

from __future__ import annotations

import json
from collections import Counter
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.evaluation.calibration import calibration, confidence

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.35, 0.5, 0.9, 1.0]), st.booleans()))


def counted(rows: list[tuple[float, bool]]) -> list[tuple[float, int, int]]:
    every = Counter(value for value, _ in rows)
    right = Counter(value for value, is_right in rows if is_right)
    return [(value, every[value], right[value]) for value in sorted(every)]


@settings(deadline=None)  # the library is imported by the first one
@given(ROWS)
def test_calibration_is_what_scikit_learn_computes(rows: list[tuple[float, bool]]) -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    found = calibration(counted(rows))
    if found is None:
        assert not rows
        return
    values, truth = [value for value, _ in rows], [is_right for _, is_right in rows]
    assert found.brier == pytest.approx(brier_score_loss(truth, values, pos_label=True))
    if len(set(truth)) == 1:
        assert found.auroc is None
    else:
        assert found.auroc == pytest.approx(roc_auc_score(truth, values))
    assert sum(each.rows for each in found.bins) == len(rows)
    gaps = (abs(each.confidence * each.rows - each.correct) for each in found.bins)
    assert found.ece == pytest.approx(sum(gaps) / len(rows))


def test_the_bins_are_a_reliability_diagram() -> None:
    found = calibration([(0.05, 1, 0), (0.95, 4, 3), (1.0, 1, 1)])
    assert found is not None
    assert [(each.low, each.high, each.rows, each.correct) for each in found.bins] == [
        (0.0, 0.1, 1, 0),
        (0.9, 1.0, 5, 4),
    ]
    assert found.bins[1].confidence == pytest.approx(0.96)
    assert found.ece == pytest.approx((0.05 + 0.8) / 6)


def tokens(*pairs: tuple[str, float]) -> str:
    content = [{"token": token, "logprob": log(share)} for token, share in pairs]
    return json.dumps({"content": content})


def test_the_tokens_of_the_prediction_count() -> None:
    said = tokens(("The answer", 0.1), (" is", 0.2), (" bil", 0.5), ("ling", 0.8), (".", 0.3))
    text = "The answer is billing."
    assert confidence(said, text, "billing") == pytest.approx(0.4)
    assert confidence(said, text, "bug") == pytest.approx(0.1 * 0.2 * 0.5 * 0.8 * 0.3)


@pytest.mark.parametrize("logprobs", [None, "null", "{}", '{"content": null}', '{"content": []}'])
def test_without_tokens_there_is_no_confidence(logprobs: str | None) -> None:
    assert confidence(logprobs, "a", "a") is None
